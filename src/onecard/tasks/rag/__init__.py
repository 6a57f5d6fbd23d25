"""rag: ask your own notes and code, with citations, offline."""

from onecard.tasks.base import Command, PlanPreset, Task

TASK = Task(
    name="rag",
    summary="ask your own notes and code, offline, with citations and a score",
    commands={
        "index": Command(
            "index:index",
            "read folders into an index; only what changed is read again",
            "configs:IndexConfig",
            "folders",
            recorded=False,
        ),
        "indexes": Command(
            "indexes:indexes",
            "the indexes of this machine, with their folders",
            "configs:IndexesConfig",
            recorded=False,
        ),
        "ask": Command(
            "ask:ask",
            "ask a question; the answer cites your files",
            "configs:AskConfig",
            "question",
            recorded=False,
        ),
        "chat": Command(
            "chat:chat",
            "a conversation over your notes; follow-up questions are understood",
            "configs:ChatConfig",
            recorded=False,
            terminal=True,
        ),
        "search": Command(
            "search:search",
            "the passages only, no model",
            "configs:QueryConfig",
            "question",
            recorded=False,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score search and answers on a question set",
            "configs:EvaluateConfig",
            "questions",
        ),
        "draft-questions": Command(
            "draft_questions:draft_questions",
            "draft a question set from your notes, for you to correct",
            "configs:DraftQuestionsConfig",
            "questions",
        ),
        "serve": Command(
            "serve:serve",
            "a page and an OpenAI-compatible API over your notes",
            "configs:ServeConfig",
            recorded=False,
            service="notes",
        ),
    },
    plans={
        "rag": PlanPreset("answers over your own notes", "configs:AskConfig", {}, "llama-3.1-8b"),
    },
    aliases={"make-questions": "draft-questions"},
    packages=(
        "xllamacpp",
        "openai",
        "onnxruntime",
        "faiss-cpu",
        "qdrant-client",
        "sentence-transformers",
        "torch",
        "pypdfium2",
    ),
)
