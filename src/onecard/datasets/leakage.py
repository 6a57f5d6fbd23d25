"""Whether items of the evaluation set stand in the training set too."""

from collections.abc import Hashable, Iterable, Sequence

from onecard.errors import DataError

Keyed = Iterable[tuple[Hashable, str]]
"""(key, name): items with the same key are the same item; the name is shown to the user."""


def shared_items(train: Keyed, evaluation: Keyed) -> list[tuple[str, str]]:
    """(name in train, name in evaluation) of each evaluation item whose key is in train too.

    >>> shared_items([(1, "a"), (2, "b")], [(2, "c")])
    [('b', 'c')]
    """
    names = dict(train)
    return [(names[key], name) for key, name in evaluation if key in names]


def refuse_leakage(
    shared: Sequence[tuple[str, str]],
    noun: str,
    fix: str = "remove them from one of the two, or leave --eval_dataset out: a part is then "
    "split off cleanly",
) -> None:
    """Raises DataError where `shared` is not empty. `noun`: what the items are, as "rows"."""
    if shared:
        raise DataError(
            f"{len(shared)} {noun} stand in both train and eval",
            why="; ".join(f"{a} = {b}" for a, b in shared[:3])
            + ": a score on them would prove nothing",
            fix=fix,
        )
