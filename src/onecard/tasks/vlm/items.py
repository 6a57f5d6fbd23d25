"""Pictures, turns and accepted answers of one row. Knows no file format."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]

MARKER = "<image>"
"""Where a picture stands in a turn of the user; the model's own marker takes its place later."""


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class VlmItem:
    """One row. The markers in its turns are as many as its pictures, in their order."""

    id: str
    """Unique in its set; the same in all controls of an item."""
    images: tuple[Path, ...]
    turns: tuple[Turn, ...]
    """A system turn at most, then user and assistant by turns; the last is the answer, or the
    question where there is none."""
    source: str
    """file:line, or file[number] where rows have no line of their own."""
    group: str = ""
    """What its pictures come from (a document, a film), where the row says so."""
    answers: tuple[str, ...] = ()
    """All accepted answers of the last turn, repeated ones too: ten annotators may agree."""

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """The turns before the last answer."""
        return self.turns[:-1] if self.has_answer else self.turns

    @property
    def has_answer(self) -> bool:
        return bool(self.turns) and self.turns[-1].role == "assistant"

    @property
    def answer(self) -> str:
        """The reference; empty without one."""
        return self.turns[-1].text if self.has_answer else ""

    @property
    def question(self) -> str:
        """The last turn of the user without markers."""
        last = next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")
        return without_markers(last)

    @property
    def conversation(self) -> str:
        """All that is said before the answer, without markers: what a blind reader knows."""
        return "\n".join(without_markers(turn.text) for turn in self.prompt)

    @property
    def place(self) -> str:
        return short_place(self.source)

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "images": [str(path) for path in self.images],
            "messages": [{"role": turn.role, "content": turn.text} for turn in self.turns],
            "answers": list(self.answers),
            "group": self.group,
            "source": self.source,
        }


def from_dict(row: Mapping[str, Any]) -> VlmItem:
    """What `VlmItem.as_dict` gives. Raises KeyError, TypeError."""
    return VlmItem(
        str(row["id"]),
        tuple(Path(path) for path in row["images"]),
        tuple(Turn(turn["role"], str(turn["content"])) for turn in row["messages"]),
        str(row["source"]),
        str(row["group"]),
        tuple(str(answer) for answer in row["answers"]),
    )


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not used, and why."""

    source: str
    reason: str
    raw: str = ""

    def as_dict(self) -> dict[str, str]:
        return {"source": self.source, "reason": self.reason, "raw": self.raw}


def short_place(source: str) -> str:
    """The last two names of a place, for a table.

    >>> short_place("/data/sets/train/rows.jsonl:7")
    'train/rows.jsonl:7'
    """
    return "/".join(source.split("/")[-2:])


def without_markers(text: str) -> str:
    """The text alone, with single spaces where a marker stood.

    >>> without_markers("<image>\\nIs <image> red?")
    'Is red?'
    """
    if MARKER not in text:
        return text.strip()
    parts = [part.strip() for part in text.split(MARKER)]
    return " ".join(part for part in parts if part)


def fingerprint(items: Iterable[VlmItem], digests: Mapping[Path, bytes] | None = None) -> str:
    """sha256 over turns, answers and pictures, in hex: the same in any order and any folder.

    `digests`: picture -> sha256 of its file; a picture without one counts by its name.
    """
    rows = []
    for item in items:
        pictures = [
            digests[path].hex() if digests and path in digests else path.name
            for path in item.images
        ]
        turns = [[turn.role, turn.text] for turn in item.turns]
        rows.append(json.dumps([turns, sorted(item.answers), pictures], ensure_ascii=False))
    text = "\n".join(sorted(rows))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
