"""diffusion: which checkpoint is recommended, on made score tables with noise."""

import numpy as np
import pytest

from onecard.tasks.diffusion import recommendation
from onecard.tasks.diffusion.recommendation import CHOSEN, INCONCLUSIVE

PROMPTS, SEEDS = 16, 4


def table(curves, noise=0.04, prompts=PROMPTS, seeds=SEEDS, seed=0):
    """Scores of pictures whose means are `curves`: step -> {metric: mean}.

    A prompt and a seed have a level of their own, which all steps share, and each step an effect on
    each prompt: pictures of one prompt are no independent items.
    """
    rng = np.random.default_rng(seed)
    ids = [f"{p}:{s}" for p in range(prompts) for s in range(seeds)]
    groups = {each: each.split(":")[0] for each in ids}
    level = {each: rng.normal(0, noise) for each in ids}
    prompt_level = rng.normal(0, 2 * noise, prompts)
    scores = {}
    for step, means in curves.items():
        scores[step] = {}
        for metric, mean in means.items():
            effect = rng.normal(0, noise / 2, prompts)
            scores[step][metric] = {
                each: mean
                + level[each]
                + prompt_level[int(groups[each])]
                + effect[int(groups[each])]
                + rng.normal(0, noise)
                for each in ids
            }
            if metric == "memorised":
                for each in ids:
                    scores[step][metric][each] = float(rng.random() < mean)
    return scores, groups


def curve(fidelity, drift=None, memorised=None, prompt=None):
    """100, 200 ... after the base."""
    n = len(fidelity)
    rows = zip(
        fidelity,
        drift or [0.0] + [0.1] * (n - 1),
        memorised or [0.0] * n,
        prompt or [0.8] * n,
        strict=True,
    )
    names = ("fidelity", "drift", "memorised", "prompt_fidelity")
    return {100 * i: dict(zip(names, row, strict=True)) for i, row in enumerate(rows)}


def test_the_earliest_of_equals_that_drifts_less():
    """Fidelity is full from step 300 on; more training only changes other pictures."""
    curves = curve([0.3, 0.4, 0.5, 0.62, 0.63, 0.63], [0, 0.05, 0.08, 0.1, 0.2, 0.3])
    result = recommendation.recommend(*table(curves))
    assert (result.step, result.verdict) == (300, CHOSEN)
    assert set(result.worse) == {100, 200}
    assert "change pictures without the trigger more" in result.reason
    assert "300 is the earliest" in result.reason


def test_a_later_one_with_less_drift_wins_over_an_earlier_one():
    curves = curve([0.3, 0.62, 0.62], [0, 0.3, 0.1])
    assert recommendation.recommend(*table(curves)).step == 200


def test_copies_of_training_pictures_count_after_drift():
    curves = curve([0.3, 0.6, 0.6, 0.61], None, [0, 0.6, 0.0, 0.7])
    result = recommendation.recommend(*table(curves))
    assert result.step == 200 and "copy training pictures more" in result.reason


def test_prompts_that_are_no_longer_followed_count_last():
    curves = curve([0.3, 0.6, 0.61], None, None, [0.9, 0.4, 0.9])
    result = recommendation.recommend(*table(curves))
    assert result.step == 200 and "follow prompts less" in result.reason


def test_a_clear_best_is_taken_whatever_it_harms():
    """Rule 2 before rule 3: what has not learned the style is no alternative."""
    curves = curve([0.3, 0.4, 0.8], [0, 0.05, 0.4])
    result = recommendation.recommend(*table(curves))
    assert result.step == 200 and result.verdict == CHOSEN


def test_fidelity_that_falls_again():
    curves = curve([0.3, 0.5, 0.7, 0.55, 0.4])
    result = recommendation.recommend(*table(curves))
    assert result.step == 200 and set(result.worse) == {100, 300, 400}


def test_one_checkpoint():
    assert recommendation.recommend(*table(curve([0.3, 0.6]))).step == 100
    result = recommendation.recommend(*table(curve([0.3, 0.3])))
    assert result.step is None and result.verdict == INCONCLUSIVE


def test_too_few_prompts_tell_nothing():
    result = recommendation.recommend(*table(curve([0.3, 0.9, 0.9]), prompts=4))
    assert result.step is None and result.verdict == INCONCLUSIVE
    assert "4 prompts are too few" in result.reason


def test_noise_alone_is_inconclusive():
    """No checkpoint differs from the base: at most 5 % of the tables may say otherwise."""
    wrong = 0
    for seed in range(200):
        result = recommendation.recommend(*table(curve([0.3] * 6), seed=seed))
        wrong += result.verdict != INCONCLUSIVE or result.step is not None
    assert wrong <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_little_power_does_not_favour_the_least_trained():
    """Noise as large as the gain: the earliest must not pass for as good as the best. 100 has half
    of the gain; it may be taken by chance alone, when it is the best by its mean."""
    early = noisy = 0
    for seed in range(60):
        curves = curve([0.3, 0.35, 0.4])
        result = recommendation.recommend(*table(curves, noise=0.12, prompts=8, seed=seed))
        noisy += result.verdict == INCONCLUSIVE
        early += result.step == 100 and result.best != 100
    assert early <= 3 and noisy >= 30


def test_when_nothing_is_told_apart_the_best_is_named_inconclusive():
    seen = set()
    for seed in range(60):
        result = recommendation.recommend(
            *table(curve([0.1, 0.5, 0.5, 0.5]), noise=0.2, prompts=8, seed=seed)
        )
        if result.undecided and len(result.undecided) == 2:
            assert result.verdict == INCONCLUSIVE and result.step == result.best
            assert "do not tell whether" in result.reason
            seen.add(result.step)
    assert seen


def test_equals_are_seldom_called_worse():
    """The best is chosen by the same pictures, which makes the others look worse than they are."""
    wrong = sum(
        bool(recommendation.recommend(*table(curve([0.3] + [0.6] * 6), seed=seed)).worse)
        for seed in range(100)
    )
    assert wrong <= 25


def test_against_the_last_one():
    curves = curve([0.3, 0.6, 0.6], [0, 0.1, 0.4])
    scores, groups = table(curves)
    rows = recommendation.against(scores, groups, 100, 200)
    assert rows["drift"].verdict == "better" and rows["fidelity"].verdict == "inconclusive"
    text = recommendation.against_text(rows, 200)
    assert text.startswith("against step 200: fidelity a tie (") and "drift better (-0." in text


@pytest.mark.parametrize("missing", ["memorised", "drift", "prompt_fidelity"])
def test_a_measure_that_was_not_taken_decides_nothing(missing):
    curves = curve([0.3, 0.6, 0.6])
    for row in curves.values():
        del row[missing]
    assert recommendation.recommend(*table(curves)).step == 100
