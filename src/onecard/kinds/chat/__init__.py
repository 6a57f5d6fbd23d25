"""chat: talk with a local language model, in the terminal or through an OpenAI-compatible server."""

from onecard.engines.settings import EngineSettings
from onecard.kinds.base import Kind, Verb
from onecard.kinds.chat.config import Settings
from onecard.kinds.chat.memory import plan

ENGINE = tuple(EngineSettings.model_fields)

KIND = Kind(
    name="chat",
    says="talk with a local language model, in the terminal or through an OpenAI-compatible server",
    settings=Settings,
    plan=plan,
    verbs={
        "talk": Verb("talk:talk", "talk in the terminal", records=False, fields=("system", *ENGINE)),
        "ask": Verb("work:ask", "ask one question; what is piped in is context", "question", records=False, fields=("question", "system", *ENGINE)),
        "serve": Verb("serve:serve", "answer the OpenAI HTTP API", records=False,
                      fields=("host", "port", "token", "n_parallel", "embedding_model", "rerank_model", *ENGINE)),
        "bench": Verb("work:bench", "measure tokens/s, time to first token and memory", fields=("repeats", "prompt_tokens", "generate_tokens", "report_to", *ENGINE)),
        "evaluate": Verb("evals:evaluate", "score answers against references", "questions", fields=("questions", "judge", "rubric", "system", "report_to", *ENGINE)),
    },
    default_verb="talk",
)
