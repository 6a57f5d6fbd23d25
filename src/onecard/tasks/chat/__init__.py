"""chat: talk with a local language model, in the terminal or through an OpenAI-compatible server."""

from onecard.inference.config import EngineSettings
from onecard.tasks.base import Command, Task
from onecard.tasks.chat.configs import Settings
from onecard.tasks.chat.memory import plan

ENGINE = tuple(EngineSettings.model_fields)

TASK = Task(
    name="chat",
    says="talk with a local language model, in the terminal or through an OpenAI-compatible server",
    settings=Settings,
    plan=plan,
    commands={
        "talk": Command(
            "chat:talk", "talk in the terminal", records=False, fields=("system", *ENGINE)
        ),
        "ask": Command(
            "ask:ask",
            "ask one question; what is piped in is context",
            "question",
            records=False,
            fields=("question", "system", *ENGINE),
        ),
        "serve": Command(
            "serve:serve",
            "answer the OpenAI HTTP API",
            records=False,
            fields=(
                "host",
                "port",
                "token",
                "n_parallel",
                "embedding_model",
                "rerank_model",
                *ENGINE,
            ),
        ),
        "bench": Command(
            "ask:bench",
            "measure tokens/s, time to first token and memory",
            fields=("repeats", "prompt_tokens", "generate_tokens", "report_to", *ENGINE),
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score answers against references",
            "questions",
            fields=("questions", "judge", "rubric", "system", "report_to", *ENGINE),
        ),
    },
    default_verb="talk",
)
