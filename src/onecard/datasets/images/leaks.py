"""Pictures of one side of a split that stand on another too: as a file, a copy, or a frame of the
same film."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from onecard.datasets.images.duplicates import Pairs
from onecard.datasets.images.records import SPLITS, Picture
from onecard.errors import DataError

KINDS = {
    "same file": "are the same file",
    "same picture": "are the same picture in another size, exposure or compression",
    "same group": "come from the same film, burst or frame",
}
MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Leak:
    """What two sides of a split share in one way."""

    kind: str
    """A key of KINDS."""
    sides: tuple[str, str]
    n: int
    """Pictures of the second side that stand on the first too."""
    of: int
    """Pictures of the second side."""
    examples: tuple[tuple[str, str], ...]
    """(name on the first side, name on the second)."""

    def render(self) -> str:
        first, second = self.sides
        text = f"{self.n:,} of {self.of:,} pictures of {second} and some of {first} "
        return text + f"{KINDS[self.kind]}: {self.examples[0][0]} = {self.examples[0][1]}"


@dataclass(frozen=True)
class LeakReport:
    """All that the sides of a split share; false where they share nothing."""

    leaks: tuple[Leak, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leaks)

    def as_dict(self) -> list[dict[str, Any]]:
        return [asdict(leak) for leak in self.leaks]

    def render(self) -> list[str]:
        return [leak.render() for leak in self.leaks]

    def refuse(self, where: object) -> None:
        """Raises DataError where there is a leak."""
        if self.leaks:
            raise DataError(
                f"the splits of {where} share pictures",
                why="; ".join(self.render()[:3]) + ": scores would be too high",
                fix="--regroup splits anew and keeps them on one side; --allow_leakage goes on",
            )


def leaks_of(pictures: Sequence[Picture], exact: Pairs, near: Pairs) -> LeakReport:
    """`exact` and `near`: pairs of numbers of pictures that are the same file or picture."""
    by_side: dict[str, list[int]] = {side: [] for side in SPLITS}
    for i, picture in enumerate(pictures):
        if picture.split:
            by_side[picture.split].append(i)
    leaks = []
    for sides in combinations(SPLITS, 2):
        of = len(by_side[sides[1]])
        for kind, pairs in (
            ("same file", _across(pictures, _all_pairs(exact), sides)),
            ("same picture", _across(pictures, near, sides)),
            ("same group", _shared_groups(pictures, by_side, sides)),
        ):
            if pairs:
                n = len({j for _, j in pairs})
                names = [(pictures[i].name, pictures[j].name) for i, j in pairs[:MAX_EXAMPLES]]
                leaks.append(Leak(kind, sides, n, of, tuple(names)))
    return LeakReport(tuple(leaks))


def _all_pairs(pairs: Pairs) -> Pairs:
    """Of (first, copy), (first, other copy) also (copy, other copy) in a chain: the first of a file
    may stand on a third side."""
    copies: dict[int, list[int]] = {}
    for first, copy in pairs:
        copies.setdefault(first, [first]).append(copy)
    return [pair for members in copies.values() for pair in combinations(members[:50], 2)]


def _across(pictures: Sequence[Picture], pairs: Pairs, sides: tuple[str, str]) -> Pairs:
    """Pairs between two sides, the one of the first side first."""
    ordered = [*pairs, *((j, i) for i, j in pairs)]
    return [(i, j) for i, j in ordered if (pictures[i].split, pictures[j].split) == sides]


def _shared_groups(
    pictures: Sequence[Picture], by_side: dict[str, list[int]], sides: tuple[str, str]
) -> Pairs:
    first = {pictures[i].group: i for i in reversed(by_side[sides[0]]) if pictures[i].group}
    return [(first[pictures[j].group], j) for j in by_side[sides[1]] if pictures[j].group in first]
