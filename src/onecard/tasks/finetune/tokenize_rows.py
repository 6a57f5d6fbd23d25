"""Samples to tokens: the chat template, loss on the answers only, packs without waste.

Knows a tokenizer by its methods, and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onecard.errors import DataError
from onecard.tasks.finetune.dataset import Sample

IGNORED = -100
"""What cross-entropy passes over (torch's ignore_index)."""


@dataclass(frozen=True)
class TokenizedExample:
    ids: list[int]
    labels: list[int]
    """The ids where an answer stands, IGNORED elsewhere."""
    where: str
    answer_tokens: int


def need_template(tokenizer: Any, name: str) -> None:
    """Raises DataError for a model without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{name} has no chat template",
            why="a base model was never taught who speaks; its tokenizer_config.json names no "
            "template",
            fix="take the model's Instruct version, or put a chat_template.jinja into its folder",
        )


def encode(tokenizer: Any, sample: Sample) -> TokenizedExample:
    """One talk; every answer counts for the loss, its end mark too, nothing else. Raises ValueError
    where the template does not keep what went before.

    The whole text is cut into tokens once, as the server will cut it, and answers are found by
    their place in the text:
    cut apart, words at a seam would become other tokens.
    """
    messages = list(sample.messages)
    text = render(tokenizer, messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = (
            render(tokenizer, messages[:i], ask=True),
            render(tokenizer, messages[: i + 1]).rstrip(),
        )
        if text.startswith(before) and text.startswith(after) and len(after) > len(before):
            spans.append((len(before), len(after)))
        elif i == len(messages) - 1:
            raise ValueError("the template writes the question otherwise once it is answered")
    cut = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = []
    for token, (start, end) in zip(cut["input_ids"], cut["offset_mapping"], strict=True):
        labels.append(
            token if end > start and any(a <= start and end <= b for a, b in spans) else IGNORED
        )
    return TokenizedExample(
        list(cut["input_ids"]), labels, sample.where, sum(label != IGNORED for label in labels)
    )


def render(tokenizer: Any, messages: Sequence[dict[str, str]], ask: bool = False) -> str:
    """The talk as the template writes it; `ask` adds the words after which the answer comes."""
    return str(
        tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
    )


def cut_to(encoded: TokenizedExample, size: int) -> TokenizedExample:
    labels = encoded.labels[:size]
    return TokenizedExample(
        encoded.ids[:size], labels, encoded.where, sum(label != IGNORED for label in labels)
    )


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which samples lie in which row of at most `size` tokens: best fit, longest first (as good as
    11/9 of the fewest rows, Johnson 1973).

    >>> pack([5, 9, 4, 1], 10)
    [[1], [0, 2, 3]]
    """
    rows: list[list[int]] = []
    room: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        left = min(
            (space for space, held in room.items() if held and space >= lengths[index]),
            default=None,
        )
        if left is None:
            row, left = len(rows), size
            rows.append([])
        else:
            row = room[left].pop()
        rows[row].append(index)
        room.setdefault(left - lengths[index], []).append(row)
    return rows
