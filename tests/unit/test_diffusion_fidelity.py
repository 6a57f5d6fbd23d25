"""diffusion: scores from features whose answer is known, and the prompts of a comparison."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.tasks.diffusion import captions, comparison_prompts, fidelity
from onecard.tasks.diffusion.fidelity import Shots

DIM = 32


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def axes(*numbers):
    """Pictures that have nothing in common but with those of the same number."""
    return np.eye(DIM, dtype=np.float32)[list(numbers)]


def shots(features, prompts=None):
    prompts = prompts if prompts is not None else list(range(len(features)))
    return Shots(unit(features), prompts, [f"p{p}-{i}" for i, p in enumerate(prompts)])


def test_fidelity_is_the_mean_cosine():
    scores = fidelity.fidelity(shots(axes(0, 5)), axes(0, 1))
    assert list(scores.values()) == pytest.approx([0.5, 0.0])


def test_copies_are_nearer_than_training_pictures_are_to_each_other():
    """Training pictures share half of their features; one generated picture is one of them."""
    training = unit(axes(1, 2, 3, 4) + axes(0))
    limit = fidelity.copy_limit(training)
    assert limit == pytest.approx(0.5)
    nearest, copies = fidelity.memorisation(shots([training[2], axes(0)[0]]), training)
    assert list(nearest.values()) == pytest.approx([1.0, 0.5**0.5])
    assert list(copies.values()) == [1.0, 1.0]
    _, copies = fidelity.memorisation(shots(unit(axes(9) + 0.3 * training[:1])), training)
    assert list(copies.values()) == [0.0]


def test_the_training_pictures_own_likeness():
    assert fidelity.own_likeness(unit(axes(1, 2, 3) + axes(0))) == pytest.approx(0.5)
    assert fidelity.own_likeness(axes(0)) is None


def test_copies_cannot_be_told_with_one_or_two_training_pictures():
    for n in (1, 2):
        nearest, copies = fidelity.memorisation(shots(axes(0)), axes(*range(n)))
        assert nearest and copies == {}


def test_diversity_is_the_distance_within_a_prompt():
    scores = fidelity.diversity(shots(axes(0, 0, 0, 1, 2), [7, 7, 7, 8, 8]))
    assert list(scores.values()) == pytest.approx([0, 0, 0, 1, 1])
    assert fidelity.diversity(shots(axes(0, 1), [0, 1])) == {}


def test_drift_is_measured_in_pairs():
    base = shots(axes(0, 1, 2))
    assert set(fidelity.drift(base, base).values()) == {0.0}
    other = Shots(axes(2, 5), [2, 1], [base.ids[2], base.ids[1]])  # another order, one missing
    assert fidelity.drift(other, base) == {base.ids[2]: 0.0, base.ids[1]: 1.0}


def test_prompts_are_followed_whatever_the_style():
    """Each prompt's content is an axis, the style another one that outweighs it."""
    prompts = [0, 0, 1, 1, 2, 2, 3, 3]
    content = axes(*(1 + p for p in prompts))
    references = shots(content + 0.1 * axes(*range(20, 28)), prompts)
    styled = shots(content + 5 * axes(*([10] * 8)), prompts)
    assert set(fidelity.prompt_fidelity(styled, references).values()) == {1.0}
    wrong = shots(content[::-1] + 5 * axes(*([10] * 8)), prompts)
    assert np.mean(list(fidelity.prompt_fidelity(wrong, references).values())) < 0.5


def test_pictures_that_ignore_their_prompt_are_at_chance():
    rng = np.random.default_rng(0)
    prompts = [p for p in range(16) for _ in range(8)]
    references = shots(rng.normal(size=(128, DIM)) + 4 * axes(*prompts), prompts)
    blind = shots(rng.normal(size=(128, DIM)), prompts)
    assert np.mean(list(fidelity.prompt_fidelity(blind, references).values())) == pytest.approx(
        0.5, abs=0.08
    )
    same = shots(axes(*([3] * 128)), prompts)  # one picture for all prompts
    assert set(fidelity.prompt_fidelity(same, references).values()) == {0.5}
    assert fidelity.prompt_fidelity(shots(axes(0), [0]), shots(axes(1), [0])) == {}


def test_text_fidelity_takes_the_prompt_of_the_picture():
    scores = fidelity.text_fidelity(shots(axes(1, 0), [1, 1]), axes(0, 1))
    assert list(scores.values()) == [1.0, 0.0]


# Prompts


def test_a_subject_stands_in_places_and_beside_things():
    texts = ["a photo of sks dog"] * 5
    twins = comparison_prompts.twins("sks", "a dog", texts, 16)
    assert len(twins) == len(set(twins)) == 16
    assert twins[0].text == "a photo of sks dog in the snow"
    assert twins[0].plain == "a dog in the snow"
    assert twins[1].text == "a photo of sks dog beside a house" and twins[1].plain == "a house"


def test_a_style_is_tried_on_things():
    twins = comparison_prompts.twins("水墨畫風", "", ["一張水墨畫風的山", "水墨畫風"], 16)
    assert twins[0].text == "a house, 水墨畫風" and twins[0].plain == "a house"
    twins = comparison_prompts.twins("sks", "a painting", ["sks, a knight"] * 1, 4)
    assert [twin.plain for twin in twins] == [
        *("a house", "a painting of a tree", "a car", "a painting of a boat")
    ]
    assert all(captions.has_trigger(twin.text, "sks") for twin in twins)


def test_own_prompts_come_first():
    own = ["sks in a red car", "a red car", "a hat, sks"]
    twins = comparison_prompts.twins("sks", "a dog", [], 6, own)
    assert [twin.text for twin in twins[:2]] == ["sks in a red car", "a hat, sks"]
    assert [twin.plain for twin in twins[:2]] == ["in a red car", "a hat"]
    assert len(twins) == 6


@given(
    st.sampled_from(["sks", "", "<sks>", "my dog", "水墨"]),
    st.sampled_from(["", "a dog", "dog", "a painting", "the old tower", "狗"]),
    st.lists(st.sampled_from(["a photo of sks dog", "sks", "", "水墨", "other"]), max_size=6),
    st.integers(1, 16),
)
def test_prompts_hold_the_trigger_and_their_twins_do_not(trigger, class_prompt, texts, n):
    twins = comparison_prompts.twins(trigger, class_prompt, texts, n)
    assert 1 <= len(twins) <= n
    for twin in twins:
        assert twin.text.strip() and twin.plain.strip()
        if trigger:
            assert captions.has_trigger(twin.text, trigger)
            assert not captions.has_trigger(twin.plain, trigger)


@given(st.integers(4, 1024))
def test_many_prompts_of_some_pictures_each(n):
    prompts, each = comparison_prompts.shape(n)
    assert 2 <= prompts <= 16 and each >= 2
    assert abs(prompts * each - n) <= prompts / 2
