"""Rerankers: pairs of a query and a text to relevance scores.

Names: a cross-encoder by name or folder, a reranker GGUF, or `http://host:port/v1#model`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from onecard.errors import EngineError
from onecard.hub import names
from onecard.inference.embeddings import Embedder, open_torch_model, post_json
from onecard.inference.llamacpp import LlamaCpp
from onecard.reporting import Reporter


class Reranker(Protocol):
    """Higher is better; scores compare only within one query."""

    name: str

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray: ...


def open_reranker(name: str, reporter: Reporter | None = None) -> Reranker:
    """Raises NotFound, MissingExtra, EngineError."""
    if name.startswith(("http://", "https://")):
        return HttpReranker(name)
    if name.endswith(".gguf"):
        path = names.find(name).path
        assert path is not None
        return GgufReranker(path, reporter or Reporter())
    model: Reranker = open_torch_model("CrossReranker", name)
    return model


class HttpReranker:
    """Any /v1/rerank: `http://host:port/v1#model`."""

    def __init__(self, address: str, key: str = "") -> None:
        self.url, _, model = address.partition("#")
        self.name, self.model, self.key = address, model or "default", key

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        reply = post_json(
            f"{self.url.rstrip('/')}/rerank",
            {"model": self.model, "query": query, "documents": list(texts)},
            self.key,
        )
        scores = np.zeros(len(texts), dtype=np.float32)
        try:
            for row in reply["results"]:
                scores[int(row["index"])] = float(row["relevance_score"])
        except (KeyError, TypeError, ValueError, IndexError) as fault:
            raise EngineError(
                f"the reply of {self.url}/rerank has another form",
                why=repr(fault),
                fix="give the address of a server with /v1/rerank, as http://host:port/v1#model",
            ) from None
        return scores


class GgufReranker(HttpReranker):
    """A reranker in GGUF form on an embedded engine, which ends with the program."""

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self.engine = LlamaCpp(path, rerank=True, reporter=reporter)
        super().__init__(f"{self.engine.base_url}#{self.engine.name}", self.engine.api_key)
        self.name = path.stem


class SimilarityReranker:
    """Scores by the embedder's cosine: the default where no cross-encoder is named."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.name = embedder, embedder.name

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        scores: np.ndarray = self.embedder.passages(texts) @ self.embedder.queries([query])[0]
        return scores
