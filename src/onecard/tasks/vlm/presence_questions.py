"""Questions of presence from labelled boxes, POPE's way (Li et al. 2023): is there a dog in the
image? As many that are there as that are not, so that saying yes to all is worth one half.

Absent things are chosen at random, from the most frequent ones of the set (popular), or from those
that stand most often beside what the picture shows (adversarial).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onecard.datasets.images.records import ImageDataset, Picture
from onecard.datasets.splits import hash_rank
from onecard.errors import DataError
from onecard.tasks.vlm.items import MARKER, Turn, VlmItem

Strategy = Literal["random", "popular", "adversarial"]

STRATEGIES: tuple[Strategy, ...] = ("random", "popular", "adversarial")
PER_PICTURE = 3
"""Questions of each answer, as in POPE."""
QUESTION = "Is there {article} {name} in the image?"


@dataclass(frozen=True)
class _Contents:
    """What a picture shows, by numbers of classes."""

    picture: Picture
    present: tuple[int, ...]
    unsure: frozenset[int]
    """Classes that are there and too small to be asked about."""


def presence_questions(
    dataset: ImageDataset,
    *,
    n: int = PER_PICTURE,
    seed: int = 0,
    split: str = "",
    max_pictures: int = 0,
    min_side: float = 0.0,
    question: str = QUESTION,
) -> dict[Strategy, list[VlmItem]]:
    """Strategy -> its questions; those about what is there are the same in all three.

    `n`: at most so many of each answer a picture, and as many of one as of the other; `split`: of
    the data set, empty for all; `max_pictures`: chosen by hash, 0 for all; `min_side`: objects with
    a shorter side are neither there nor absent (px). A region of many objects (crowd) counts as
    there.
    Raises DataError where no picture has a present and an absent class.
    """
    contents = [
        _contents(picture, min_side)
        for picture in dataset.pictures
        if not split or picture.split == split
    ]
    # asked about are classes that occur: a name without any picture is known to be absent
    n_pictures = Counter(label for each in contents for label in each.present)
    beside = _neighbours(contents)
    askable = [each for each in contents if each.present]
    askable.sort(key=lambda each: hash_rank(seed, each.picture.name))
    questions: dict[Strategy, list[VlmItem]] = {strategy: [] for strategy in STRATEGIES}
    n_used = 0
    for each in askable:
        absent = [c for c in n_pictures if c not in each.present and c not in each.unsure]
        k = min(n, len(each.present), len(absent))
        if k < 1 or (max_pictures and n_used == max_pictures):
            continue
        n_used += 1
        present = _by_hash(each, each.present, seed)[:k]
        for strategy in STRATEGIES:
            ranked = _ranked(strategy, each, absent, n_pictures, beside, seed)
            for label, answer in (*((c, "yes") for c in present), *((c, "no") for c in ranked[:k])):
                item = _item(each.picture, dataset.classes[label], answer, question)
                questions[strategy].append(item)
    if not n_used:
        raise DataError(
            f"{dataset.root} gives no question of presence",
            why=f"none of its {len(contents):,} pictures has both a class that is there and one of "
            "the set that is not",
            fix="boxes of two classes at least, in different pictures",
        )
    return questions


def _contents(picture: Picture, min_side: float) -> _Contents:
    present: set[int] = set()
    small: set[int] = set()
    for box in picture.boxes:
        is_small = min(box.x1 - box.x0, box.y1 - box.y0) < min_side
        (small if is_small else present).add(box.label)
    return _Contents(picture, tuple(sorted(present)), frozenset(small - present))


def _neighbours(contents: Sequence[_Contents]) -> Mapping[int, Counter[int]]:
    """Class -> how many pictures it shares with each other one."""
    beside: dict[int, Counter[int]] = {}
    for each in contents:
        for label in each.present:
            beside.setdefault(label, Counter()).update(c for c in each.present if c != label)
    return beside


def _ranked(
    strategy: Strategy,
    each: _Contents,
    absent: Sequence[int],
    n_pictures: Counter[int],
    beside: Mapping[int, Counter[int]],
    seed: int,
) -> list[int]:
    """Absent classes, those to ask about first; equal ones by hash."""
    shuffled = _by_hash(each, absent, seed)
    if strategy == "popular":
        return sorted(shuffled, key=lambda c: -n_pictures[c])
    if strategy == "adversarial":
        return sorted(shuffled, key=lambda c: -sum(beside[label][c] for label in each.present))
    return shuffled


def _by_hash(each: _Contents, labels: Sequence[int], seed: int) -> list[int]:
    return sorted(labels, key=lambda label: hash_rank(seed, f"{each.picture.name}:{label}"))


def _item(picture: Picture, name: str, answer: str, question: str) -> VlmItem:
    text = question.format(name=spoken(name), article=article(spoken(name)))
    turns = (Turn("user", f"{MARKER}\n{text}"), Turn("assistant", answer))
    return VlmItem(
        f"{picture.name}:{name}",
        (picture.path,),
        turns,
        str(picture.path),
        picture.group,
        (answer,),
    )


def spoken(name: str) -> str:
    """A class's name as it is said.

    >>> spoken("traffic_light"), spoken("Fire-Hydrant")
    ('traffic light', 'Fire Hydrant')
    """
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def article(name: str) -> str:
    """
    >>> article("dog"), article("apple")
    ('a', 'an')
    """
    return "an" if name[:1].lower() in tuple("aeiou") else "a"
