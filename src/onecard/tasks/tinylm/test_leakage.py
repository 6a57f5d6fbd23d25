"""How much of a held-out text stands in the training part: known shares come out, ordinary text has
none, and the rolling hash is the plain one."""

import random

import numpy as np
import pytest

from onecard.reporting import Reporter
from onecard.tasks.tinylm import corpus, leakage
from onecard.tasks.tinylm.configs import TrainConfig

WORDS = [
    "".join(random.Random(i).choices("abcdefghiklmnoprstuvw", k=2 + i % 8)) for i in range(800)
]


def prose(n_words, seed):
    """Paragraphs of words in random order, as in no other seed."""
    rng = random.Random(seed)
    words = [
        rng.choice(WORDS) + rng.choice(["", "", "", ",", ".", ".\n\n"]) for _ in range(n_words)
    ]
    return " ".join(words)


@pytest.fixture
def share_of(tmp_path, monkeypatch):
    monkeypatch.setenv("ONECARD_HOME", str(tmp_path / "home"))

    def share(text, **more):
        book = tmp_path / "book.txt"
        book.write_text(text, encoding="utf-8")
        read = corpus.prepare(TrainConfig(dataset=str(book), **more), Reporter())
        return read.facts["repeated_share"]

    return share


KINDS = [{}, {"tokenizer": "bpe", "vocab_size": 600}, {"tokenizer": "code", "vocab_size": 300}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_text_repeated_30_times_is_held_out_in_name_only(share_of, kind):
    assert share_of(prose(600, 1) * 30, **kind) > 0.95


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_ordinary_text_repeats_nothing(share_of, kind):
    assert share_of(prose(12_000, 2), **kind) < 0.01


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_half_of_the_held_out_text_is_half(share_of, kind):
    training, new = prose(18_000, 3), prose(1_000, 4)
    text = training + training[5_000 : 5_000 + len(new)] + new
    share = share_of(text, val_share=2 * len(new) / len(text), **kind)
    assert share == pytest.approx(0.5, abs=0.05)


def test_split_by_document_keeps_the_repetitions_on_one_side(share_of):
    text = (prose(6_000, 5).strip() + "\n\n") * 10
    assert share_of(text) > 0.95
    assert share_of(text, split="document") < 0.05


@pytest.mark.parametrize("window", [4, 7, 16, 60, 61])
def test_the_rolling_hash_is_the_plain_one(window):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, 200).astype(np.uint16)
    symbols = rng.integers(0, 2**64, 1 << 16, dtype=np.uint64)
    rolling = leakage.window_hashes(tokens, window, symbols)
    alone = [
        int(leakage.window_hashes(tokens[i : i + window], window, symbols)[0])
        for i in range(len(tokens) - window + 1)
    ]
    plain = [
        sum(
            int(symbols[token]) * 0x9E3779B97F4A7C15 ** (window - 1 - j)
            for j, token in enumerate(tokens[i : i + window].tolist())
        )
        % 2**64
        for i in range(len(tokens) - window + 1)
    ]
    assert rolling.tolist() == alone == plain


def test_windows_over_the_seams_of_chunks_are_found(monkeypatch):
    monkeypatch.setattr(leakage, "CHUNK_TOKENS", 100)
    train = np.random.default_rng(1).integers(0, 9, 1000).astype(np.uint16)
    assert leakage.repeated_share(train, train[70:400].copy(), 1.0) == 1.0
    assert leakage.repeated_share(train, train[::-1].copy(), 1.0) == 0.0


def test_a_part_shorter_than_a_window_repeats_nothing():
    tokens = np.arange(500, dtype=np.uint16)
    assert leakage.repeated_share(tokens, tokens[:20], 1.0) == 0.0


@pytest.mark.parametrize(
    ("share", "text"), [(0.02, ""), (0.2, "partly recall"), (0.9, "says nothing about new text")]
)
def test_the_result_says_what_the_loss_is_worth(share, text):
    assert text in leakage.warning(share, "position")
    assert bool(leakage.warning(share, "position")) == bool(text)


def test_the_fix_is_a_split_by_document_or_fewer_repetitions():
    assert "--split document" in leakage.warning(0.9, "position")
    assert "--split" not in leakage.warning(0.9, "document")
    assert "take the repetitions out" in leakage.warning(0.9, "document")
