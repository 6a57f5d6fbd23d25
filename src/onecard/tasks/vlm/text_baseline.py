"""The best guess from the question alone: how far a set can be answered without its pictures."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from onecard.datasets.splits import hash_share
from onecard.evaluation import stats
from onecard.evaluation.metrics.text import words
from onecard.evaluation.metrics.vqa import normalize_answer
from onecard.evaluation.stats import Comparison, Interval
from onecard.tasks.vlm.items import VlmItem

FOLDS = 5
FIRST_WORDS = 3
"""Of a question that was not met in training: "how many dogs" says what kind of answer fits."""
MIN_ITEMS = 20

_normalized = lru_cache(maxsize=1 << 16)(normalize_answer)
_words = lru_cache(maxsize=1 << 16)(words)


class TextBaseline:
    """The most frequent answer to the same question, else to questions with the same beginning,
    else of all; questions and answers are normalized."""

    def __init__(self, items: Iterable[VlmItem]) -> None:
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        for item in items:
            answer = _normalized(item.answer)
            for key in _keys(item):
                self._counts[key][answer] += 1
        self.majority = _most_frequent(self._counts.get("", Counter()))

    def answer(self, item: VlmItem) -> str:
        """The normalized answer; empty where nothing was learned."""
        for key in _keys(item):
            if key in self._counts:
                return _most_frequent(self._counts[key])
        return ""

    def scores(self, items: Iterable[VlmItem]) -> dict[str, float]:
        """Item id -> 1 where the guess is an accepted answer."""
        return {item.id: _score(self.answer(item), item) for item in items if item.answers}


@dataclass(frozen=True)
class TextAlone:
    """How often the question alone gives the answer, cross-validated by pictures."""

    guess: Interval
    """Share of items whose answer `TextBaseline` gives."""
    majority: Interval
    """Share that the most frequent answer gives."""
    gain: Comparison
    """The guess against the most frequent answer."""
    scores: Mapping[str, float]
    """Item id -> 0 or 1 of the guess."""

    def render(self) -> str:
        low, high = 100 * self.guess.low, 100 * self.guess.high
        return (
            f"{100 * self.guess.value:.1f} % [{low:.1f}, {high:.1f}] of the answers follow from "
            "the question alone; the most frequent answer alone gives "
            f"{100 * self.majority.value:.1f} %"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "text_alone": self.guess.as_dict(),
            "majority": self.majority.as_dict(),
            "gain": self.gain.delta.as_dict(),
            "verdict": self.gain.verdict,
        }


def cross_validate(
    items: Sequence[VlmItem], groups: Sequence[Sequence[int]], seed: int = 0
) -> TextAlone | None:
    """Each fifth of the groups is guessed by what the others say; None for too few items or groups.

    `groups`: numbers of items that share a picture, as picture_facts.groups_of gives them.
    """
    usable = [
        group for group in ([i for i in numbers if items[i].answers] for numbers in groups) if group
    ]
    if sum(map(len, usable)) < MIN_ITEMS or len(usable) < FOLDS:
        return None
    folds: list[list[int]] = [[] for _ in range(FOLDS)]
    units: dict[str, str] = {}
    for group in usable:
        name = min(_rank_text(items[i]) for i in group)
        folds[int(hash_share(seed, name) * FOLDS)] += group
        units.update((items[i].id, items[group[0]].id) for i in group)
    guesses: dict[str, float] = {}
    majorities: dict[str, float] = {}
    for k, fold in enumerate(folds):
        learned = TextBaseline(items[i] for j, other in enumerate(folds) if j != k for i in other)
        held_out = [items[i] for i in fold]
        guesses |= learned.scores(held_out)
        majorities |= {item.id: _score(learned.majority, item) for item in held_out}
    names = list(guesses)
    unit_list = [units[name] for name in names]
    share = (0.0, 1.0)
    return TextAlone(
        stats.mean_interval([guesses[n] for n in names], bounds=share, groups=unit_list),
        stats.mean_interval([majorities[n] for n in names], bounds=share, groups=unit_list),
        stats.compare(majorities, guesses, bounds=share, groups=units),
        guesses,
    )


def _keys(item: VlmItem) -> tuple[str, str, str]:
    """From the whole question to none of it."""
    tokens = _words(item.conversation)
    return " ".join(tokens) + "?", " ".join(tokens[:FIRST_WORDS]) + " ...", ""


def _most_frequent(counts: Counter[str]) -> str:
    """Of equals the first in the alphabet, so that the order of rows does not matter."""
    return min(counts, key=lambda answer: (-counts[answer], answer), default="")


def _score(guess: str, item: VlmItem) -> float:
    return float(any(_normalized(answer) == guess for answer in item.answers))


def _rank_text(item: VlmItem) -> str:
    """The same wherever the set lies and whatever the order of its rows is."""
    names = " ".join(path.name for path in item.images)
    return f"{names}|{item.question}|{item.answer}"
