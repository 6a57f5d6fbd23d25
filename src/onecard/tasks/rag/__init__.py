"""rag: ask your own notes and code, with citations, offline."""

from onecard.inference.config import EngineSettings
from onecard.tasks.base import Command, Task
from onecard.tasks.rag.configs import Settings
from onecard.tasks.rag.memory import plan

ENGINE = tuple(EngineSettings.model_fields)
SEARCH = (
    "index",
    "mode",
    "top_k",
    "embedding_model",
    "rerank_model",
    "store",
    "qdrant_url",
    "candidates",
    "lexical_weight",
    "feedback",
    "n_threads",
)
ANSWER = ("style", "abstain_below", "tools", "max_rounds")

TASK = Task(
    name="rag",
    says="ask your own notes and code, offline, with citations and a score",
    settings=Settings,
    plan=plan,
    commands={
        "index": Command(
            "index:index",
            "read folders into an index; only what changed is read again",
            "folders",
            records=False,
            fields=(
                "folders",
                "index",
                "watch",
                "embedding_model",
                "chunk_tokens",
                "chunk_overlap",
                "max_file_mb",
                "n_threads",
            ),
        ),
        "ask": Command(
            "ask:ask",
            "ask a question; the answer cites your files",
            "question",
            records=False,
            fields=("question", *SEARCH, *ANSWER, *ENGINE),
        ),
        "chat": Command(
            "chat:talk",
            "a talk over your notes; follow-up questions are understood",
            records=False,
            fields=(*SEARCH, *ANSWER, *ENGINE),
        ),
        "search": Command(
            "ask:search",
            "the passages only, no model",
            "question",
            records=False,
            fields=("question", *SEARCH),
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score search and answers on a question set",
            "questions",
            fields=("questions", "ablate", "answers", *SEARCH, *ANSWER, "report_to", *ENGINE),
        ),
        "make-questions": Command(
            "draft_questions:make",
            "draft a question set from your notes, for you to correct",
            "questions",
            fields=("questions", "n_questions", "index", *ENGINE),
        ),
        "serve": Command(
            "serve:serve",
            "a page and an OpenAI-compatible API over your notes",
            records=False,
            fields=("host", "port", "token", *SEARCH, *ANSWER, *ENGINE),
        ),
    },
)
