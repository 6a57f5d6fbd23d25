"""Controls of a score: the same questions without the picture, and with another one; and what they
say together. A score that the text alone gives is seen here."""

import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onecard.evaluation import stats
from onecard.evaluation.metrics.text import words
from onecard.evaluation.metrics.vqa import normalize_answer
from onecard.evaluation.stats import BETTER, Comparison
from onecard.tasks.vlm.items import MARKER, Turn, VlmItem, without_markers
from onecard.tasks.vlm.picture_facts import PictureFacts

TRIES = 500
"""Slots that are tried for a picture that may not stand where it was dealt."""
Scores = Mapping[str, float]


# Items


def blind(items: Sequence[VlmItem]) -> list[VlmItem]:
    """The items that have pictures, without them and their markers; ids stay."""
    return [
        replace(item, images=(), turns=tuple(_blind_turn(turn) for turn in item.turns))
        for item in items
        if item.images
    ]


def _blind_turn(turn: Turn) -> Turn:
    return Turn(turn.role, without_markers(turn.text)) if MARKER in turn.text else turn


@dataclass(frozen=True)
class Shuffled:
    items: tuple[VlmItem, ...]
    """Each with other pictures of the set; ids stay."""
    left_out: tuple[str, ...]
    """Ids of items for which the set has no other picture that may stand there."""


def shuffled(
    items: Sequence[VlmItem], seed: int = 0, facts: PictureFacts | None = None
) -> Shuffled:
    """The items that have pictures, each with pictures of others: all pictures of the set dealt
    anew, so that each is shown about as often as before.

    An item never gets a picture of its own, a copy of one (by `facts`), nor one to which the same
    question has the same answer, where the set says so.
    """
    facts = facts or PictureFacts()
    # sorted: the deal must not depend on the order of rows
    seeing = sorted((item for item in items if item.images), key=lambda item: item.id)
    slots = [i for i, item in enumerate(seeing) for _ in item.images]
    dealt = [path for item in seeing for path in item.images]
    source = random.Random(seed)
    source.shuffle(dealt)
    rules = _Rules(seeing, facts)
    for s, i in enumerate(slots):
        if not rules.permit(i, dealt[s]):
            _swap(s, slots, dealt, rules, source)
    pictures: dict[str, list[Path]] = defaultdict(list)
    left_out = set()
    for i, path in zip(slots, dealt, strict=True):
        pictures[seeing[i].id].append(path)
        if not rules.permit(i, path):
            left_out.add(seeing[i].id)
    return Shuffled(
        tuple(
            replace(item, images=tuple(pictures[item.id]))
            for item in items
            if item.images and item.id not in left_out
        ),
        tuple(item.id for item in items if item.id in left_out),
    )


class _Rules:
    """Which picture may stand before which question."""

    def __init__(self, items: Sequence[VlmItem], facts: PictureFacts) -> None:
        self.facts = facts
        self.own = [{facts.original(path) for path in item.images} for item in items]
        self.questions = [" ".join(words(item.conversation)) for item in items]
        self.answers = [{normalize_answer(a) for a in item.answers} for item in items]
        self.known: dict[tuple[str, Path], set[str]] = defaultdict(set)
        for i, originals in enumerate(self.own):
            for original in originals:
                self.known[self.questions[i], original] |= self.answers[i]

    def permit(self, i: int, path: Path) -> bool:
        original = self.facts.original(path)
        if original in self.own[i]:
            return False
        theirs = self.known.get((self.questions[i], original))
        return not theirs or not theirs & self.answers[i]


def _swap(
    s: int, slots: Sequence[int], dealt: list[Path], rules: _Rules, source: random.Random
) -> None:
    """Exchange the picture of a slot with another's, so that both may stand; where none can take
    it, show a picture of another slot a second time. `slots`: the item of each."""
    others = range(len(slots))
    tried = list(others) if len(slots) <= TRIES else [source.choice(others) for _ in range(TRIES)]
    source.shuffle(tried)
    for other in tried:
        if rules.permit(slots[s], dealt[other]) and rules.permit(slots[other], dealt[s]):
            dealt[s], dealt[other] = dealt[other], dealt[s]
            return
    for other in tried:
        if rules.permit(slots[s], dealt[other]):
            dealt[s] = dealt[other]
            return


# Verdict


@dataclass(frozen=True)
class Verdict:
    """What the controls say of a score, in sentences, with the paired comparisons behind them."""

    sentences: tuple[str, ...]
    comparisons: Mapping[str, Comparison]
    """Judged together (Holm); new minus old."""
    needs_picture: bool
    """Whether the model is shown to be better with the picture than without it."""

    def render(self) -> str:
        return "\n".join(self.sentences)

    def as_dict(self) -> dict[str, Any]:
        return {
            "sentences": list(self.sentences),
            "comparisons": {name: each.as_dict() for name, each in self.comparisons.items()},
            "needs_picture": self.needs_picture,
        }


def verdict(
    seeing: Scores,
    unseeing: Scores | None = None,
    shuffled_scores: Scores | None = None,
    base: Scores | None = None,
    base_unseeing: Scores | None = None,
    *,
    text_alone: Scores | None = None,
    groups: Mapping[str, Hashable] | None = None,
    metric: str = "accuracy",
    margin: float = 0.0,
) -> Verdict:
    """Whether a model's score comes from the pictures, by paired comparisons over units of pictures
    (`groups`: picture_facts.unit_names) with 95 % intervals.

    All scores are id -> score in [0, 1]: `seeing` with the picture, `unseeing` without it,
    `shuffled_scores` with another one, `base` and `base_unseeing` of the model before training,
    `text_alone` of text_baseline. `margin`: the smallest difference that matters.
    """
    pairs: dict[str, tuple[Scores, Scores]] = {}
    for name, old, new in (
        ("with the picture against without", unseeing, seeing),
        ("its own picture against another", shuffled_scores, seeing),
        ("against the best guess from the question", text_alone, seeing),
        ("trained against base", base, seeing),
        ("trained against base, both without the picture", base_unseeing, unseeing),
        (
            "use of the picture, trained against base",
            _difference(base, base_unseeing),
            _difference(seeing, unseeing),
        ),
    ):
        if old and new and old.keys() & new.keys():
            pairs[name] = (old, new)
    compared = {
        name: stats.compare(
            old,
            new,
            bounds=(-1.0, 1.0) if name.startswith("use") else (0.0, 1.0),
            groups=groups,
            margin=margin,
        )
        for name, (old, new) in pairs.items()
    }
    comparisons = stats.holm(compared)
    sentences = [f"{metric} with the picture: {_mean(seeing, groups)}"]
    for name, old_mean in (
        ("with the picture against without", "without it"),
        ("its own picture against another", "with another picture"),
        ("against the best guess from the question", "the best guess from the question"),
        ("trained against base", "before the training"),
    ):
        if name in pairs:
            sentences.append(
                f"{old_mean}: {_mean(pairs[name][0], groups)}; {_gain(comparisons[name])}"
            )
    sentences += _judgements(comparisons)
    sees = comparisons.get("with the picture against without")
    return Verdict(tuple(sentences), comparisons, sees is not None and sees.verdict == BETTER)


def _difference(one: Scores | None, other: Scores | None) -> dict[str, float]:
    if not one or not other:
        return {}
    return {name: one[name] - other[name] for name in one if name in other}


def _mean(scores: Scores, groups: Mapping[str, Hashable] | None) -> str:
    names = list(scores)
    units = [groups.get(name, name) for name in names] if groups else None
    return stats.mean_interval(
        [scores[name] for name in names], bounds=(0.0, 1.0), groups=units
    ).render()


def _gain(comparison: Comparison) -> str:
    delta = comparison.delta
    return (
        f"the difference is {delta.value:+.3f} [{delta.low:+.3f}, {delta.high:+.3f}] on "
        f"{delta.n:,} items: {comparison.verdict}, p={comparison.p_value:.3f}"
    )


def _judgements(comparisons: Mapping[str, Comparison]) -> list[str]:
    """The plain conclusions."""
    lines = []
    sees = comparisons.get("with the picture against without")
    if sees is None:
        lines.append("whether the score needs the picture is not known: it was not asked without")
    elif sees.verdict != BETTER:
        lines.append(
            f"the score comes from the text alone, as far as {sees.delta.n:,} items show: with the "
            "picture the model is not better than without it"
        )
    else:
        lines.append("the score needs the picture: without it the model is worse")
    own = comparisons.get("its own picture against another")
    if own is not None and own.verdict != BETTER:
        lines.append("any picture does: with another one the model is not shown to be worse")
    guess = comparisons.get("against the best guess from the question")
    if guess is not None and guess.verdict != BETTER:
        lines.append("the model is not shown to be better than a guess from the question alone")
    gained = comparisons.get("trained against base")
    use = comparisons.get("use of the picture, trained against base")
    unseeing = comparisons.get("trained against base, both without the picture")
    if gained is not None and gained.verdict == BETTER and use is not None and unseeing is not None:
        if use.verdict == BETTER:
            lines.append("the training made it use the picture more")
        elif unseeing.verdict == BETTER:
            lines.append(
                f"of the gain of {gained.delta.value:+.3f} the training also gives "
                f"{unseeing.delta.value:+.3f} without the picture: it learned the answers' words"
            )
    return lines
