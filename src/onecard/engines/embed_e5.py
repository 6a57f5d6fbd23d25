"""The embedded embedder: multilingual-e5-small in 4 bits on onnxruntime. Knows texts and vectors, no documents.

Every text is a run of its own (no padding, no neighbours), so that its vector never depends on the batch. Several texts keep
the cores busy with one single-threaded session a core; a single one is cut over all cores by a session of its own.
"""

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

BOS, EOS = 0, 2


class E5Embedder:
    """Vectors of width 384, unit norm; at most 512 tokens a text are read."""

    name = "e5-small"
    dim = 384
    max_tokens = 512

    def __init__(self, model_dir: Path, threads: int = 0) -> None:
        self._dir, self._threads = model_dir, threads or os.cpu_count() or 1
        self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._tokenizer.no_padding()
        table = json.loads((model_dir / "normalizer.json").read_text(encoding="utf-8"))
        self._normal = {int(point): text for point, text in table.items()}
        self._words = np.load(model_dir / "words.npy", mmap_mode="r")
        self._positions = np.load(model_dir / "positions.npy")
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self._pool = ThreadPoolExecutor(self._threads)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) fp32 for texts that are searched."""
        return self._embed("passage: ", texts)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) fp32 for questions."""
        return self._embed("query: ", texts)

    def count_tokens(self, text: str) -> int:
        return len(self.token_ids(text))

    def token_ids(self, text: str) -> list[int]:
        """XLM-R's ids with begin and end, not yet cut."""
        return [BOS, *self._tokenizer.encode(self._clean(text), add_special_tokens=False).ids, EOS]

    def close(self) -> None:
        self._pool.shutdown()
        self._sessions.clear()

    def _clean(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no bytes
        return re.sub(" {2,}", " ", text.translate(self._normal))

    def _embed(self, prefix: str, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        # a text of n characters has at most n tokens and seldom over n / 2: what lies far behind the cut is not tokenized
        cleaned = [self._clean(prefix + text[: self.max_tokens * 24]) for text in texts]
        ids = [[BOS, *row.ids[: self.max_tokens - 2], EOS] for row in self._tokenizer.encode_batch(cleaned, add_special_tokens=False)]
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        session = self._session(1 if len(ids) > 1 and self._threads > 1 else self._threads)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # long ones first: no core waits for the last

        def one(i: int) -> None:
            (mean,) = session.run(None, {"x": self._vectors(ids[i])})
            out[i] = mean[0] / max(float(np.linalg.norm(mean[0])), 1e-12)

        if len(ids) == 1:
            one(0)
        else:
            list(self._pool.map(one, order))
        return out

    def _vectors(self, ids: list[int]) -> np.ndarray:
        """Word vectors plus positions, (1, T, 384); the 4-bit rows are widened here, since only a few of 250,000 are needed."""
        rows = np.asarray(self._words[ids])
        scales = np.ascontiguousarray(rows[..., :2]).view(np.float16).astype(np.float32)
        nibbles = np.concatenate([rows[..., 2:] & 15, rows[..., 2:] >> 4], axis=-1).astype(np.float32) - 8
        return ((nibbles * scales).reshape(len(ids), self.dim) + self._positions[: len(ids)])[None]

    def _session(self, threads: int) -> onnxruntime.InferenceSession:
        if threads not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads take the cores of others
            options.enable_cpu_mem_arena = False  # the arena keeps the largest text's buffers for ever
            self._sessions[threads] = onnxruntime.InferenceSession(str(self._dir / "model.onnx"), options, providers=["CPUExecutionProvider"])
        return self._sessions[threads]
