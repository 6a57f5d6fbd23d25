"""Synthetic data drafted by a language model from passages of the user's own notes.

A person checks each row before it is used; nothing that exists is overwritten.
"""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from onecard.errors import SettingsError
from onecard.reporting import Progress

Passage = TypeVar("Passage")


def refuse_overwrite(path: Path, noun: str, fix: str) -> None:
    """Raises SettingsError where `path` exists: its rows may carry the user's corrections."""
    if path.exists():
        raise SettingsError(
            f"{path} exists", why=f"{noun} that you corrected are never overwritten", fix=fix
        )


def draft_rows(
    passages: Iterable[Passage],
    draft: Callable[[Passage, int], dict[str, Any] | None],
    n: int,
    seed: int,
    bar: Progress,
) -> list[dict[str, Any]]:
    """Up to `n` rows, from passages in random order.

    `draft(passage, row number)` asks the model; None skips the passage.
    """
    shuffled = list(passages)
    random.Random(seed).shuffle(shuffled)
    rows: list[dict[str, Any]] = []
    for passage in shuffled:
        if len(rows) >= n:
            break
        row = draft(passage, len(rows))
        if row is not None:
            rows.append(row)
            bar.step()
    return rows
