"""Samples to tokens: chat template, loss on the answers only, packing without waste.

Knows a tokenizer by its methods, and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onecard.errors import DataError
from onecard.tasks.finetune.dataset import Sample

IGNORED = -100
"""Label that cross-entropy skips (torch's ignore_index)."""


@dataclass(frozen=True)
class TokenizedExample:
    ids: list[int]
    labels: list[int]
    """The ids of answers, IGNORED elsewhere."""
    source: str
    answer_tokens: int


def require_chat_template(tokenizer: Any, name: str) -> None:
    """Raises DataError for a model without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{name} has no chat template",
            why="base models are not trained on conversations, and its tokenizer_config.json has "
            "no template",
            fix="take the model's Instruct version, or put a chat_template.jinja into its folder",
        )


def encode(tokenizer: Any, sample: Sample) -> TokenizedExample:
    """One conversation. The loss counts every answer with its end mark, and nothing else.

    The whole text is tokenized once, as the server tokenizes it, and answers are found by their
    character offsets: tokenized apart, the words at a seam would become other tokens.

    Raises ValueError where the template changes earlier messages once the last one is added.
    """
    messages = list(sample.messages)
    text = render(tokenizer, messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:i], add_generation_prompt=True)
        after = render(tokenizer, messages[: i + 1]).rstrip()
        if text.startswith(before) and text.startswith(after) and len(after) > len(before):
            spans.append((len(before), len(after)))
        elif i == len(messages) - 1:
            raise ValueError("the template renders the question differently once it is answered")
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = []
    for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        in_answer = end > start and any(a <= start and end <= b for a, b in spans)
        labels.append(token if in_answer else IGNORED)
    return _example(list(encoding["input_ids"]), labels, sample.source)


def render(
    tokenizer: Any, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False
) -> str:
    """The conversation as the template writes it; with the generation prompt, up to where the
    answer begins."""
    return str(
        tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    )


def truncate(example: TokenizedExample, size: int) -> TokenizedExample:
    return _example(example.ids[:size], example.labels[:size], example.source)


def _example(ids: list[int], labels: list[int], source: str) -> TokenizedExample:
    return TokenizedExample(ids, labels, source, sum(label != IGNORED for label in labels))


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Sample numbers of each row of at most `size` tokens: best fit decreasing, which needs at most
    11/9 of the fewest rows (Johnson 1973).

    >>> pack([5, 9, 4, 1], 10)
    [[1], [0, 2, 3]]
    """
    rows: list[list[int]] = []
    rows_by_space: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        space = min(
            (
                space
                for space, open_rows in rows_by_space.items()
                if open_rows and space >= lengths[index]
            ),
            default=None,
        )
        if space is None:
            row, space = len(rows), size
            rows.append([])
        else:
            row = rows_by_space[space].pop()
        rows[row].append(index)
        rows_by_space.setdefault(space - lengths[index], []).append(row)
    return rows
