"""Which checkpoint of a LoRA to keep, from scores of pictures, or that they do not tell.

The rule, over checkpoints compared on the same prompts and seeds:

1. Learned: fidelity (likeness to the training pictures) above the base's, tested for all
   checkpoints together. If none has learned, or there are too few prompts: inconclusive.
2. Of those the one with the highest fidelity is the best. Another one is as good when it is not
   significantly worse and its interval shows that it keeps 80 % of the best one's gain over the
   base. One that is neither worse nor as good is undecided, and left aside: a test that sees little
   must not make the least trained checkpoint look as good as the best.
3. Of the best and those as good, whatever changes pictures without the trigger significantly more
   than the one that does so least is dropped; of the rest whatever copies training pictures more;
   of the rest whatever follows prompts less.
4. The earliest of what is left: less training is less of all that was not measured.

If nothing can be told of any other one that has learned, the best one is named and called
inconclusive.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from onecard.evaluation import stats
from onecard.evaluation.stats import Comparison

CHOSEN, INCONCLUSIVE = "chosen", "inconclusive"
KEPT_GAIN = 0.8
"""Of the best one's gain in fidelity over the base."""
FIDELITY = "fidelity"
HARMS = (
    ("drift", False, "change pictures without the trigger more"),
    ("memorised", False, "copy training pictures more"),
    ("prompt_fidelity", True, "follow prompts less"),
)
"""(metric, higher is better, what a worse one does), the first weighs most."""

Scores = Mapping[str, Mapping[str, float]]
"""Metric -> id of a picture -> score."""
Groups = Mapping[str, Hashable]
"""Id of a picture -> its prompt: pictures of one prompt say nearly the same thing."""


@dataclass(frozen=True)
class Recommendation:
    step: int | None
    """None where no checkpoint is shown to have learned anything."""
    verdict: str
    """CHOSEN or INCONCLUSIVE."""
    reason: str
    best: int | None = None
    """The step with the highest fidelity."""
    as_good: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()
    worse: tuple[int, ...] = ()
    against_base: Mapping[int, Comparison] = field(default_factory=dict)
    """Fidelity of each checkpoint against the base's."""
    against_best: Mapping[int, Comparison] = field(default_factory=dict)


def recommend(scores: Mapping[int, Scores], groups: Groups) -> Recommendation:
    """`scores`: step -> scores, with the base as step 0; ids are shared between steps."""
    steps = sorted(step for step in scores if step)
    base = scores[0]
    against_base = _together(
        {step: _compare(base, scores[step], FIDELITY, True, groups) for step in steps}
    )
    learned = [step for step in steps if against_base[step].verdict == stats.BETTER]
    if not learned:
        return Recommendation(
            None, INCONCLUSIVE, _nothing(scores, against_base), against_base=against_base
        )
    means = {step: fmean(scores[step][FIDELITY].values()) for step in learned}
    best = max(learned, key=lambda step: (means[step], -step))
    margin = (1 - KEPT_GAIN) * against_base[best].delta.value
    others = [step for step in learned if step != best]
    against_best = _together(
        {step: _compare(scores[best], scores[step], FIDELITY, True, groups) for step in others}
    )
    worse = tuple(step for step in others if against_best[step].verdict == stats.WORSE)
    as_good = tuple(
        step for step in others if step not in worse and against_best[step].delta.low > -margin
    )
    undecided = tuple(step for step in others if step not in (*worse, *as_good))
    pool, dropped = _least_harm(sorted((best, *as_good)), scores, groups)
    unlearned = tuple(step for step in steps if step not in learned)
    nothing_told = bool(others) and len(undecided) == len(others)
    return Recommendation(
        pool[0],
        INCONCLUSIVE if nothing_told else CHOSEN,
        _reason(pool, best, as_good, undecided, (*worse, *unlearned), dropped, nothing_told),
        best,
        as_good,
        undecided,
        worse,
        against_base,
        against_best,
    )


def _compare(
    old: Scores, new: Scores, metric: str, higher_is_better: bool, groups: Groups
) -> Comparison:
    return stats.compare(
        old.get(metric, {}),
        new.get(metric, {}),
        higher_is_better=higher_is_better,
        groups=groups,
    )


def _together(comparisons: Mapping[int, Comparison]) -> dict[int, Comparison]:
    """Judged with p adjusted for their number (Holm)."""
    adjusted = stats.holm({str(step): one for step, one in comparisons.items()})
    return {step: adjusted[str(step)] for step in comparisons}


def _least_harm(
    pool: Sequence[int], scores: Mapping[int, Scores], groups: Groups
) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """(what is left of the pool, what was dropped for which harm)."""
    left, dropped = list(pool), []
    for metric, higher_is_better, words in HARMS:
        values = {step: scores[step].get(metric, {}) for step in left}
        if len(left) < 2 or not all(values.values()):
            continue
        sign = -1 if higher_is_better else 1
        least = min(left, key=lambda step: (sign * fmean(values[step].values()), step))
        rest = _together(
            {
                step: _compare(scores[least], scores[step], metric, higher_is_better, groups)
                for step in left
                if step != least
            }
        )
        gone = [step for step, one in rest.items() if one.verdict == stats.WORSE]
        if gone:
            dropped.append((words, gone))
            left = [step for step in left if step not in gone]
    return left, dropped


# Words


def _nothing(scores: Mapping[int, Scores], against_base: Mapping[int, Comparison]) -> str:
    if not against_base:
        return "there is no checkpoint"
    last = against_base[max(against_base)]
    if last.n_units < stats.MIN_UNITS:
        return f"{last.n_units} prompts are too few to tell, {stats.MIN_UNITS} are the least"
    words = "like the training pictures more than the base's are"
    return f"no checkpoint's pictures are shown to be {words}; the last one: {last.render()}"


def steps_text(steps: Sequence[int]) -> str:
    """
    >>> steps_text([100, 200, 300])
    '100, 200 and 300'
    """
    texts = [str(step) for step in sorted(steps)]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _reason(
    pool: Sequence[int],
    best: int,
    as_good: Sequence[int],
    undecided: Sequence[int],
    worse: Sequence[int],
    dropped: Sequence[tuple[str, list[int]]],
    nothing_told: bool,
) -> str:
    if nothing_told:
        return (
            f"step {best} has the highest fidelity, but the pictures do not tell whether "
            f"{steps_text(undecided)} would do as well"
        )
    parts = [f"step {best} has the highest fidelity"]
    if as_good:
        verb = "keeps" if len(as_good) == 1 else "keep"
        parts.append(f"{steps_text(as_good)} {verb} at least {KEPT_GAIN:.0%} of its gain")
    if worse:
        verb = "is" if len(worse) == 1 else "are"
        parts.append(f"{steps_text(worse)} {verb} less like the training pictures")
    if undecided:
        parts.append(f"of {steps_text(undecided)} the pictures do not tell")
    parts += [f"{steps_text(steps)} {words}" for words, steps in dropped]
    if pool[0] == best and not as_good:
        return "; ".join(parts)
    return "; ".join([*parts, f"{pool[0]} is the earliest of what is left"])


def against(
    scores: Mapping[int, Scores], groups: Groups, chosen: int, other: int
) -> dict[str, Comparison]:
    """The chosen step against another one, in fidelity and each harm, judged together."""
    metrics: Sequence[tuple[str, bool, str]] = ((FIDELITY, True, ""), *HARMS)
    rows = {
        metric: _compare(scores[other], scores[chosen], metric, higher, groups)
        for metric, higher, _ in metrics
        if scores[chosen].get(metric) and scores[other].get(metric)
    }
    return stats.holm(rows)


def against_text(rows: Mapping[str, Comparison], other: int) -> str:
    """One line: what is better, worse or a tie against another step."""
    parts = []
    for metric, one in rows.items():
        delta = f"{one.delta.value:+.3f} [{one.delta.low:+.3f}, {one.delta.high:+.3f}]"
        word = "a tie" if one.verdict in (stats.INCONCLUSIVE, stats.EQUAL) else one.verdict
        parts.append(f"{metric} {word} ({delta})")
    return f"against step {other}: " + "; ".join(parts)
