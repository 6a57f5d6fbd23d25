"""Every failure a user can meet, as one tree; the class is the exit status. Knows nothing of what
went wrong where.

OneCardError      1   anything below
+- SettingsError  2   a flag or field is unknown, missing or out of range
+- DoesNotFit     3   the plan needs more memory than the card has free
+- MissingExtra   4   the packages of a kind are not installed
+- DataError      5   a file or folder is not what it promises to be
+- NotFound       6   no kind, verb, preset, model, run or file of that name
+- EngineError    7   a language-model or embedding engine is dead, unreachable or answers nonsense

Ctrl-C ends with 130, as in a shell.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class OneCardError(Exception):
    """What happened, why, and what to do: three short texts."""

    code = 1

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  fix: {self.fix}"


class SettingsError(OneCardError):
    code = 2


class DoesNotFit(OneCardError):
    code = 3


class MissingExtra(OneCardError):
    code = 4


class DataError(OneCardError):
    code = 5


class NotFound(OneCardError):
    code = 6


class EngineError(OneCardError):
    code = 7


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most two names that look like `name`, the nearest first.

    >>> nearest("chnk_tokens", ["chunk_tokens", "top_k"])
    ['chunk_tokens']
    """
    folded = {word.lower(): word for word in known}
    return [
        folded[word] for word in difflib.get_close_matches(name.lower(), folded, n=2, cutoff=0.6)
    ]


def unreadable_file(path: Path, fault: OSError) -> DataError:
    """The refusal of a file that the operating system does not give."""
    return DataError(
        f"{path} cannot be read",
        why=fault.strerror or str(fault),
        fix="check its permissions; a file that vanished is skipped",
    )


def not_found(noun: str, name: str, known: Iterable[str], fix: str = "") -> NotFound:
    """All that exists as the reason; the near misses, else `fix`, as what to do."""
    known = sorted(set(known))
    near = nearest(name, known)
    shown = ", ".join(known[:30]) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
    if near:
        fix = f"did you mean {' or '.join(near)}?"
    elif not fix:
        fix = "give one of these" if known else "make one first: onecard --help"
    return NotFound(
        f"there is no {noun} named '{name}'",
        why=f"there are: {shown}" if known else "there is none yet",
        fix=fix,
    )
