"""Embedders and cross-encoders of sentence-transformers, on the GPU if there is one."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

# they warn of missing files and names, which become errors of ours
for library in ("sentence_transformers", "transformers", "huggingface_hub"):
    logging.getLogger(library).setLevel(logging.ERROR)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class SentenceEmbedder:
    """Weights load as safetensors only; code that comes with a model is not run."""

    def __init__(self, name: str, local: bool) -> None:
        self.name = name
        self._model = SentenceTransformer(
            name,
            device=DEVICE,
            trust_remote_code=False,
            local_files_only=local,
            model_kwargs={"use_safetensors": True},
        )
        self.dim = int(self._model.get_embedding_dimension() or 0)
        self._prefixes = ("", "")
        if "e5" in name.lower() and not self._model.prompts.get("query"):
            # the E5 family is trained with these words in front (Wang et al. 2022)
            self._prefixes = ("passage: ", "query: ")

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(
            [self._prefixes[0] + text for text in texts], self._model.encode_document
        )

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode([self._prefixes[1] + text for text in texts], self._model.encode_query)

    def close(self) -> None:
        del self._model

    def _encode(self, texts: list[str], call: Callable[..., Any]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        vectors = call(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


class CrossReranker:
    """bge-reranker-base or any other cross-encoder."""

    def __init__(self, name: str, local: bool) -> None:
        self.name = name
        self._model = CrossEncoder(
            name,
            device=DEVICE,
            trust_remote_code=False,
            local_files_only=local,
            model_kwargs={"use_safetensors": True},
            max_length=512,
        )

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(
            self._model.predict([(query, text) for text in texts], show_progress_bar=False),
            dtype=np.float32,
        )
