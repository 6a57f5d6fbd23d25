"""What of a conversation is sent to its model: as much as its context holds, the newest part."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from onecard.web.chat_rows import Message

BYTES_PER_TOKEN = 3.2
"""Of English (4) and Chinese (3 a character, mostly a token each), rather too few."""
TOKENS_PER_MESSAGE = 8
"""Marks of a chat template around a message."""
TOKENS_PER_PICTURE = 800
MAX_PICTURES = 16
"""Of a request, as the vision server takes by default."""
SHORTEST = 300
"""Of fewer estimated tokens the marks of the template are too large a part."""
MARGIN = 1.05
"""The next turns may be denser than those that were counted."""
ANSWER_SHARE = 4
"""A quarter of the context at most is kept free for the answer."""
STEP = 4
"""Messages that are left out at once, so that the next questions find the same beginning in the
engine's prompt cache."""
THINKING = re.compile(r"\s*<think>(.*?)(</think>|\Z)", re.S)
GO_ON = "Go on exactly where you stopped. Repeat nothing."


@dataclass(frozen=True)
class Turn:
    """One message as the model reads it."""

    role: str
    text: str
    pictures: tuple[str, ...] = ()
    """Ids."""

    @property
    def tokens(self) -> float:
        """An estimate; the server's refusal tells the true number."""
        text = len(self.text.encode("utf-8", "replace")) / BYTES_PER_TOKEN
        return text + TOKENS_PER_MESSAGE + TOKENS_PER_PICTURE * len(self.pictures)


def answer_of(text: str) -> str:
    """A model's text without what it thought.

    >>> answer_of("<think>Hm.</think>Yes.")
    'Yes.'
    """
    match = THINKING.match(text)
    return text[match.end() :].lstrip() if match else text


def turns_of(messages: Iterable[Message]) -> list[Turn]:
    """User and assistant in alternation, as most templates want: neighbours are joined, answers
    that failed before their first word left out."""
    turns: list[Turn] = []
    for message in messages:
        text = message.content
        if message.role == "assistant":
            text = answer_of(text)
        if not text.strip() and not message.pictures:
            continue
        if turns and turns[-1].role == message.role:
            last = turns.pop()
            joined = "\n\n".join(filter(None, [last.text, text]))
            turns.append(Turn(last.role, joined, (*last.pictures, *message.pictures)))
        else:
            turns.append(Turn(message.role, text, tuple(message.pictures)))
    return turns


def scale_of(messages: Sequence[Message], system: str) -> float:
    """True tokens per estimated one, from the last answer whose prompt was counted."""
    for i in range(len(messages) - 1, -1, -1):
        stats = messages[i].stats
        if messages[i].role == "assistant" and stats.get("prompt_tokens"):
            turns = [*turns_of(messages[:i])[int(stats.get("left_out") or 0) :]]
            turns += [Turn("system", system)] if system else []
            estimate = sum(turn.tokens for turn in turns)
            if estimate > SHORTEST:
                ratio = float(stats["prompt_tokens"]) / estimate
                return min(max(MARGIN * ratio, 0.2), 4.0)
    return 1.0


def fit(
    turns: Sequence[Turn], system: str, n_ctx: int, max_tokens: int, scale: float = 1.0
) -> tuple[list[Turn], int]:
    """(the newest turns that the context holds, how many were left out). `scale`: true tokens per
    estimated one. The last question is always kept, and what follows it."""
    room = n_ctx - min(max_tokens, n_ctx // ANSWER_SHARE)
    room -= int(Turn("system", system).tokens * scale) if system else 0
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=0)
    first = len(turns)
    used, pictures = 0.0, 0
    while first > 0:
        turn = turns[first - 1]
        used += turn.tokens * scale
        pictures += len(turn.pictures)
        if first - 1 < last and (used > room or pictures > MAX_PICTURES):
            break
        first -= 1
    cut = _cut(turns, first, last)
    return list(turns[cut:]), cut


def _cut(turns: Sequence[Turn], first: int, last: int) -> int:
    """Where what is sent begins: at a question, and stable over several turns."""
    if first == 0:
        return 0
    stepped = -(-first // STEP) * STEP
    cut = stepped if stepped < last else first
    while cut < last and turns[cut].role != "user":
        cut += 1
    return min(cut, last)


def without_oldest(turns: Sequence[Turn]) -> list[Turn]:
    """Half of what stands before the last question is left out."""
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=0)
    cut = min(last, max(2, last // 2))
    return list(turns[_cut(turns, cut, last) :]) if last else list(turns)


def as_openai(
    turns: Sequence[Turn], system: str, picture_url: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Messages of OpenAI's API; `picture_url` gives a data URL, empty for what is gone."""
    out: list[dict[str, Any]] = []
    if system.strip():
        out.append({"role": "system", "content": system})
    for turn in turns:
        content: Any = turn.text
        if turn.pictures:
            urls = [picture_url(name) for name in turn.pictures[:MAX_PICTURES]]
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls if url]
            content.append({"type": "text", "text": turn.text})
        out.append({"role": turn.role, "content": content})
    return out
