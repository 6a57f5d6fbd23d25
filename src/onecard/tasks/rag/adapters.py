"""The index as a retriever of LangChain or LlamaIndex.

    from onecard.tasks.rag.adapters import langchain_retriever
    documents = langchain_retriever(index="~/my-index").invoke("How do I ...?")

The search is onecard's own. The two libraries are optional: each is imported by its function.
"""

from typing import Any

from onecard import config
from onecard.config import Layer
from onecard.errors import MissingExtra
from onecard.tasks.rag.configs import SearchConfig
from onecard.tasks.rag.retrieve import Hit, Retriever


def _retriever(values: dict[str, Any]) -> Retriever:
    return Retriever(config.load(SearchConfig, Layer("", values)))


def _metadata(hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "path": chunk.path,
        "line": chunk.line,
        "last_line": chunk.last_line,
        "page": chunk.page,
        "heading": chunk.title,
        "score": hit.score,
    }


def langchain_retriever(**settings: Any) -> Any:
    """A `langchain_core.retrievers.BaseRetriever`. Raises MissingExtra, NotFound."""
    try:
        from langchain_core.documents import Document
        from langchain_core.retrievers import BaseRetriever
    except ModuleNotFoundError as fault:
        raise MissingExtra(
            f"the adapter needs {fault.name}",
            why="it is not installed",
            fix="pip install 'onecard[langchain]'",
        ) from None
    retriever = _retriever(settings)

    class OnecardRetriever(BaseRetriever):  # type: ignore[misc,unused-ignore]
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [
                Document(page_content=hit.chunk.text, metadata=_metadata(hit))
                for hit in retriever.search(query)
            ]

    return OnecardRetriever()


def llamaindex_retriever(**settings: Any) -> Any:
    """A `llama_index.core.retrievers.BaseRetriever`. Raises MissingExtra, NotFound."""
    try:
        from llama_index.core.retrievers import BaseRetriever
        from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    except ModuleNotFoundError as fault:
        raise MissingExtra(
            f"the adapter needs {fault.name}",
            why="it is not installed",
            fix="pip install 'onecard[llamaindex]'",
        ) from None
    retriever = _retriever(settings)

    class OnecardRetriever(BaseRetriever):  # type: ignore[misc,unused-ignore]
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return [
                NodeWithScore(
                    node=TextNode(
                        id_=str(hit.chunk.id), text=hit.chunk.text, metadata=_metadata(hit)
                    ),
                    score=hit.score,
                )
                for hit in retriever.search(query_bundle.query_str)
            ]

    return OnecardRetriever()
