"""`--minutes` holds steps, validations and the final score; compressors read the same text."""

import bz2
import gzip
import lzma

import numpy as np
import pytest

from onecard.tasks.tinylm import budget, compression, tokenization
from onecard.tasks.tinylm.budget import Costs

SPEEDS = [  # (a step, a token of a validation, a sample, before the first step) in seconds
    Costs(0.02, 2e-6, 0.1, 1.0),
    Costs(0.25, 1e-4, 0.5, 5.0),  # a validation of 65,536 tokens costs 26 steps
    Costs(1.5, 1e-4, 0.0, 20.0),
    Costs(0.05, 5e-4, 2.0, 2.0),
]


@pytest.mark.parametrize("costs", SPEEDS, ids=str)
@pytest.mark.parametrize("minutes", [2, 10, 60])
@pytest.mark.parametrize("n_val_tokens", [5_000, 110_000])
@pytest.mark.parametrize("eval_steps", [0, 50])
def test_everything_together_ends_in_time(costs, minutes, n_val_tokens, eval_steps):
    plan = budget.fit_minutes(60 * minutes, costs, n_val_tokens, eval_steps)
    if plan.steps > budget.MIN_STEPS:
        assert plan.seconds(costs) <= 60 * minutes * 1.01 + plan.val_s + costs.step_s
        assert plan.seconds(costs) > 0.9 * 60 * minutes - plan.val_s, "the time is used"


@pytest.mark.parametrize("costs", SPEEDS[:3], ids=str)
def test_validations_take_a_tenth_of_the_time_at_most(costs):
    plan = budget.fit_minutes(600, costs, 110_000, 0)
    n_validations = -(-plan.steps // plan.eval_steps)
    assert n_validations * plan.val_s <= 0.11 * 600
    assert plan.val_tokens >= budget.MIN_VAL_TOKENS


def test_cheap_validations_stay_as_they_are():
    plan = budget.fit_minutes(3600, Costs(0.02, 2e-6, 0.1, 1.0), 110_000, 0)
    assert plan.val_tokens == budget.QUICK_VAL_TOKENS
    assert -(-plan.steps // plan.eval_steps) == budget.VALIDATIONS


def test_a_held_out_text_too_long_for_the_minutes_leaves_half_to_the_steps():
    plan = budget.fit_minutes(120, Costs(0.1, 1e-4, 0, 0), 10_000_000, 0)
    assert plan.steps * 0.1 > 40
    assert plan.seconds(Costs(0.1, 1e-4, 0, 0)) > 1000, "and the plan tells it"


TEXT = "Zwölf Boxkämpfer jagen Viktor. The quick brown fox – 漢字 🙂.\n" * 50


@pytest.fixture(params=["char", "bpe"])
def tokenizer(request):
    if request.param == "char":
        return tokenization.char_tokenizer(set(TEXT))
    return tokenization.train_bpe(iter([TEXT]), 400, code=False)


def test_compressors_read_the_held_out_text_itself(tokenizer):
    ids, _ = tokenization.encoder(tokenizer)(TEXT)
    rows = compression.compress(ids.astype(np.uint16), tokenizer)
    raw = TEXT.encode()
    assert rows["gzip"]["bytes"] == pytest.approx(len(gzip.compress(raw, 9)), abs=4)
    assert rows["bz2"]["bytes"] == len(bz2.compress(raw, 9))
    assert rows["xz"]["bytes"] == len(lzma.compress(raw, preset=9))
    for row in rows.values():
        assert row["chars"] == len(TEXT)
        assert row["bits_per_char"] == pytest.approx(8 * row["bytes"] / len(TEXT))


def test_the_compressors_figures_do_not_depend_on_the_chunks(tokenizer, monkeypatch):
    ids = tokenization.encoder(tokenizer)(TEXT)[0].astype(np.uint16)
    whole = compression.compress(ids, tokenizer)
    monkeypatch.setattr(compression, "CHUNK_TOKENS", 7)
    assert compression.compress(ids, tokenizer) == whole


def test_the_compressors_are_told_with_their_sizes():
    text = compression.render({"xz": {"bytes": 51_200, "chars": 100_000, "bits_per_char": 4.096}})
    assert "100,000 characters" in text and "xz 4.096 (50" in text
