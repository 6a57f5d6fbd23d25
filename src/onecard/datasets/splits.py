"""Splits that depend on the seed and the items' content, not on their order."""

import hashlib
from collections.abc import Hashable, Iterable, Sequence


def hash_rank(seed: int, key: str) -> str:
    """A pseudo-random rank of an item: the same for the same seed and key, wherever it stands."""
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).hexdigest()


def hash_share(seed: int, key: str) -> float:
    """The rank as a number in [0, 1), uniform over keys."""
    return int(hash_rank(seed, key)[:8], 16) / 2**32


def connected_groups(
    labels: Sequence[Hashable], links: Iterable[tuple[int, int]] = ()
) -> list[list[int]]:
    """Item numbers that must stay on one side of a split: those with the same label (None and ""
    label nothing), and those that a link joins, directly or over others.

    >>> connected_groups(["a", "", "a", "", ""], [(1, 3)])
    [[0, 2], [1, 3], [4]]
    """
    parent = list(range(len(labels)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, label in enumerate(labels):
        if label:
            parent[root(i)] = root(first.setdefault(label, i))
    for i, j in links:
        parent[root(i)] = root(j)
    groups: dict[int, list[int]] = {}
    for i in range(len(labels)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
