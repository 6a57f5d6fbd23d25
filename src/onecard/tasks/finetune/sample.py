"""One training conversation, and a row that is none."""

import hashlib
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""role and content, as chat templates take them; also tool_calls, name, tool_call_id and
reasoning_content where the row has them."""


@dataclass(frozen=True)
class Sample:
    """One conversation that ends with an answer; `rejected` is the worse answer of a preference
    pair."""

    messages: tuple[Message, ...]
    source: str
    """file:line it came from."""
    group: str = ""
    """What belongs together in a split, as its document. Empty: a group of its own."""
    rejected: str = ""
    untrained: tuple[int, ...] = ()
    """Positions of answers that are context only (weight 0, train false)."""
    tools: str = ""
    """The tools offered to the model, as a JSON list; empty for none."""

    @property
    def answer(self) -> str:
        return str(self.messages[-1]["content"])

    @property
    def question(self) -> str:
        return next((m["content"] for m in reversed(self.messages[:-1]) if m["role"] == "user"), "")

    @property
    def key(self) -> str:
        """A hash of the text: equal where only whitespace and case differ."""
        parts = [f"{m['role']}:{_squeezed(str(m['content']))}" for m in self.messages]
        if self.tools:
            parts.append(self.tools)
        text = "\x1f".join(parts)
        return hashlib.sha256(f"{text}\x1f{_squeezed(self.rejected)}".encode()).hexdigest()[:24]

    def as_row(self) -> dict[str, Any]:
        """For a file that `dataset.read` reads again as the same sample."""
        messages = [
            message | ({"weight": 0} if i in self.untrained else {})
            for i, message in enumerate(self.messages)
        ]
        row: dict[str, Any] = {"id": self.source}
        if self.rejected:
            row |= {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": self.rejected}
        else:
            row |= {"messages": messages}
        if self.tools:
            row["tools"] = self.tools
        return row | ({"group": self.group} if self.group else {})

    @property
    def question_key(self) -> str:
        """A hash of all before the answer."""
        text = "\x1f".join(
            f"{m['role']}:{_squeezed(str(m['content']))}" for m in self.messages[:-1]
        )
        return hashlib.sha256(f"question\x1f{text}".encode()).hexdigest()[:24]


@dataclass(frozen=True)
class RejectedRow:
    source: str
    reason: str
    raw: str


def _squeezed(text: str) -> str:
    return " ".join(text.lower().split())
