"""Loops and echoes: spans are judged by what a second hearing writes, which is given here; with the
real model in tests/e2e/test_asr_dialogues.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("faster_whisper", reason="installed by make test")

import itertools

from onecard.tasks.asr import guards, loops
from onecard.tasks.asr.guards import Heard, Listener
from onecard.tasks.asr.transcript import Segment, Word

RATE = 16_000


def segment(words, start=0.0, step=0.4):
    rows = tuple(
        Word(start + i * step, start + (i + 1) * step, text, 0.9) for i, text in enumerate(words)
    )
    return Segment(start, start + len(words) * step, "".join(words), rows)


def spaced(text):
    return [f" {word}" for word in text.split()]


def checked(words, again, prompt=""):
    """(text, removed), where each part of the second hearing writes its share of `again`."""
    sound = np.random.default_rng(0).normal(0, 0.1, int(len(words) * 0.4 * RATE) + RATE)

    def decode(sounds):
        return [[segment(list(part))] for part in np.array_split(again, len(sounds))]

    heard = Listener(sound.astype(np.float32), decode, prompt).checked(Heard([segment(words)]))
    return "".join(row.text for row in heard.segments).strip(), heard.removed


LOOP = spaced("then he said " + "so so so so so so so so " + "and went home")


def test_a_loop_that_is_not_heard_again_is_replaced_and_the_rest_stays():
    text, removed = checked(LOOP, spaced("we all were glad"))
    assert text == "then he said we all were glad and went home"
    assert removed[0]["text"] == "so so so so so so so so"
    assert (removed[0]["start"], removed[0]["end"]) == pytest.approx((1.2, 4.4))


def test_a_repetition_that_is_heard_again_stays():
    assert checked(LOOP, spaced("so so so so so so so")) == ("".join(LOOP).strip(), [])


@pytest.mark.parametrize(
    "words",
    [
        list("謝謝大家" * 8),
        ["ありがとう"] * 9,
        [" " + "nono" * 12],
        spaced("I do not know " * 6),
    ],
    ids=["characters", "words without spaces", "one long word", "a sentence"],
)
def test_loops_are_seen_with_and_without_spaces(words):
    text, removed = checked(words, spaced("something else"))
    assert text == "something else"
    assert removed[0]["why"] == "a phrase repeated over and over"


@pytest.mark.parametrize(
    "text", ["one million is 1000000000000", "no, no, no, I said no", "bye bye", "ha ha ha"]
)
def test_what_repeats_a_little_is_no_loop(text):
    assert loops.find(text.split()) == []


def test_a_second_hearing_that_loops_too_is_not_taken():
    text, removed = checked(LOOP, spaced("la " * 200))
    assert text == "then he said and went home"
    assert len(removed) == 1


PROMPT = "Glossary of terms: Kubernetes, Helm, Terraform."


def test_an_echo_is_replaced_and_a_said_prompt_stays():
    text, removed = checked(spaced(PROMPT), spaced("good evening"), PROMPT)
    assert text == "good evening"
    assert removed[0]["why"] == "an echo of the initial prompt"
    assert checked(spaced(PROMPT), spaced(PROMPT), PROMPT) == (PROMPT, [])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abc謝 ", max_size=6), max_size=60))
def test_spans_lie_within_the_words(words):
    for span in loops.find(words):
        assert 0 <= span.start < span.stop <= len(words)
        assert span.repeats >= loops.MIN_REPEATS


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20 * RATE))
def test_parts_cover_the_sound(n):
    parts = guards.parts(np.zeros(n, np.float32))
    assert parts[0][0] == 0
    assert parts[-1][1] == n
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
