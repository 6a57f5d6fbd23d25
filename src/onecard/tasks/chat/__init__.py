"""chat: a local language model in the terminal or behind an OpenAI-compatible server."""

from onecard.tasks.base import Command, PlanPreset, Task

TASK = Task(
    name="chat",
    summary="talk with a local language model, in the terminal or through an OpenAI-compatible "
    "server",
    commands={
        "chat": Command(
            "chat:chat", "talk in the terminal", "configs:ChatConfig", recorded=False, terminal=True
        ),
        "ask": Command(
            "ask:ask",
            "ask one question; what is piped in is context",
            "configs:AskConfig",
            "question",
            recorded=False,
        ),
        "serve": Command(
            "serve:serve",
            "answer the OpenAI HTTP API",
            "configs:ServeConfig",
            recorded=False,
            service="chat",
        ),
        "bench": Command(
            "bench:bench",
            "measure tokens/s, time to first token and memory",
            "configs:BenchConfig",
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score answers against references",
            "configs:EvaluateConfig",
            "questions",
        ),
    },
    plans={
        "llm-infer": PlanPreset(
            "a language model that answers: llama.cpp, transformers or vLLM",
            "configs:PlanConfig",
            example="llama-3.1-8b",
        ),
    },
    default_command="chat",
    aliases={"talk": "chat"},
    packages=("xllamacpp", "openai", "onnxruntime"),
)
