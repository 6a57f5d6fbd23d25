"""Headers and configs that lie: read or refused in bounded time and memory."""

import json
import random
import struct

import hostile_headers
import pytest
import random_gguf

from onecard.errors import DataError
from onecard.memory.architectures import config_json
from onecard.memory.architectures.gguf import Reader, read_header, read_model
from onecard.memory.architectures.gguf_model import from_header
from onecard.memory.estimators import llm_inference


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    paths = [
        random_gguf.write(folder / f"{arch}.gguf", arch, **random_gguf.SIZES[arch])
        for arch in random_gguf.WRITERS
    ]
    return [(path.read_bytes()[:60_000], path.stat().st_size) for path in paths]


@pytest.mark.parametrize("seed", range(20))
def test_a_mutated_header_is_planned_or_refused(headers, tmp_path, seed):
    dice = random.Random(seed)
    data, size = dice.choice(headers)
    path = tmp_path / "m.gguf"
    for _ in range(20):
        with path.open("wb") as file:
            file.write(hostile_headers.mutated_header(dice, data))
            file.truncate(size)
        try:
            terms = llm_inference.llamacpp(from_header(read_model(path)), "", 4096)
        except DataError:
            continue
        assert all(term.bytes >= 0 for term in terms)


@pytest.mark.parametrize("seed", range(20))
def test_a_mutated_config_is_planned_or_refused(tmp_path, seed):
    dice = random.Random(seed)
    path = tmp_path / "config.json"
    for _ in range(20):
        text = hostile_headers.mutated_config(dice)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            model = config_json.from_file(path)
        except DataError:
            continue
        assert model.n_params > 0
        assert all(layer.small_params >= 0 for layer in model.layers)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "intermediate_size": 128,
}


@pytest.mark.parametrize(
    "change",
    [
        {"intermediate_size": -128},
        {"intermediate_size": 1e308},
        {"hidden_size": 10**400},
        {"num_hidden_layers": 2**31},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 3},
        {"vocab_size": "many"},
        {"layer_types": ["a_new_kind"]},
        {"num_hidden_layers": 1.5},
        {"intermediate_size": float("nan")},
    ],
)
def test_an_impossible_count_is_refused(change):
    with pytest.raises(DataError):
        config_json.from_values(LLAMA | change, "m")


def test_a_config_that_says_nothing_is_not_its_class(tmp_path):
    with pytest.raises(DataError):
        config_json.from_values({"model_type": "llama"}, "m")


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 50_000, "", "\x00", '{"a": 1e999}'])
def test_broken_json_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError):
        config_json.from_file(tmp_path / "config.json")


def text_of(word):
    return struct.pack("<Q", len(word)) + word


def header(*, keys=(), tensors=0):
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(keys))
    return head + b"".join(keys)


def key(name, kind, value):
    return text_of(name) + struct.pack("<I", kind) + value


HOSTILE = {
    "kept lists": header(
        keys=[
            key(b"llama.k%d" % i, 9, struct.pack("<IQ", 4, 100_000) + bytes(400_000))
            for i in range(120)
        ]
    ),
    "texts without end": header(
        keys=[
            key(b"tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 4_000_000) + bytes(32_000_000))
        ]
    ),
    "text longer than the file": header(keys=[key(b"a", 8, struct.pack("<Q", 2**63))]),
    "lists in lists": header(keys=[key(b"a", 9, struct.pack("<IQ", 9, 1))]),
    "tensors without end": header(tensors=2**60),
    "an unknown version": b"GGUF" + struct.pack("<I", 77) + bytes(64),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_costs_bounded_work(tmp_path, name, monkeypatch):
    """Values that the reader takes one by one are counted: no clock."""
    taken = []
    take = Reader.take
    monkeypatch.setattr(Reader, "take", lambda self, form: (taken.append(1), take(self, form))[1])
    (tmp_path / "m.gguf").write_bytes(HOSTILE[name])
    try:
        read = read_header(tmp_path / "m.gguf")
    except DataError:
        read = None
    assert len(taken) < 10_000
    if read:
        assert all(not isinstance(value, list) for value in read.keys.values())


@pytest.mark.parametrize(("name", "value"), [("block_count", 2**32 - 1), ("block_count", 0)])
def test_an_absurd_count_of_blocks_is_refused(tmp_path, name, value):
    path = random_gguf.write(tmp_path / "m.gguf", "llama")
    data = bytearray(path.read_bytes())
    at = data.index(f"llama.{name}".encode()) + len(f"llama.{name}") + 4
    data[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(data)
    with pytest.raises(DataError):
        from_header(read_model(path))


@pytest.mark.parametrize("arch", ["clip", "flux", "bert"])
def test_what_is_no_language_model_is_said(tmp_path, arch):
    path = tmp_path / "m.gguf"
    path.write_bytes(header(keys=[key(b"general.architecture", 8, text_of(arch.encode()))]))
    with pytest.raises(DataError, match="no language model"):
        from_header(read_model(path))


def test_a_missing_part_of_a_split_file_is_named(tmp_path):
    split = key(b"split.count", 2, struct.pack("<H", 3))
    path = tmp_path / "big-00001-of-00003.gguf"
    path.write_bytes(header(keys=[split]))
    with pytest.raises(DataError, match="one of 3 parts"):
        read_model(path)


def test_config_defaults_are_valid_json():
    assert json.loads(json.dumps(config_json.class_defaults()))["gemma3_text"]["head_dim"] == 256
