"""Samples to tokens: chat template, loss on the answers only, packing without waste.

Knows a tokenizer by its methods, and no model.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from onecard.errors import DataError
from onecard.tasks.finetune.sample import Message, Sample

PROBE = "qzxanswer"
"""A word that no template writes by itself."""
IGNORED = -100
"""Label that cross-entropy skips (torch's ignore_index)."""


@dataclass(frozen=True)
class TokenizedExample:
    ids: list[int]
    labels: list[int]
    """The ids of answers, IGNORED elsewhere."""
    source: str
    answer_tokens: int
    n_answers: int = 1
    """Answers with labels."""


def require_chat_template(tokenizer: Any, name: str) -> None:
    """Raises DataError for a model without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{name} has no chat template",
            why="base models are not trained on conversations, and its tokenizer_config.json has "
            "no template",
            fix="take the model's Instruct version, or put a chat_template.jinja into its folder",
        )


@lru_cache(maxsize=8)
def end_mark(tokenizer: Any) -> str:
    """What the template writes right after an answer for the model to stop at, as <|im_end|>; ""
    where it writes none."""
    text = render(
        tokenizer, [{"role": "user", "content": "q"}, {"role": "assistant", "content": PROBE}]
    )
    end = text.rpartition(PROBE)[2].lstrip()
    marks = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return max((mark for mark in marks if mark and end.startswith(mark)), key=len, default="")


@lru_cache(maxsize=8)
def takes_system_turns(tokenizer: Any) -> bool:
    """Whether the template renders a system turn and does not refuse it, as Gemma's does."""
    turns = [
        {"role": "system", "content": PROBE},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    try:
        return PROBE in render(tokenizer, turns)
    except Exception:  # templates raise whatever they like
        return False


def fit_template(tokenizer: Any, sample: Sample) -> Sample:
    """The sample as the template takes it: where that has no system turn, the system's text opens
    the first question."""
    first, *rest = sample.messages
    if first["role"] != "system" or takes_system_turns(tokenizer):
        return sample
    for i, message in enumerate(rest):
        if message["role"] == "user":
            rest[i] = message | {"content": f"{first['content']}\n\n{message['content']}"}
            untrained = tuple(position - 1 for position in sample.untrained)
            return replace(sample, messages=tuple(rest), untrained=untrained)
    return sample


def encode(tokenizer: Any, sample: Sample) -> TokenizedExample:
    """One conversation. The loss counts the last answer with its end mark, and each earlier one
    that the template leaves as it was; nothing else.

    Raises ValueError where the template refuses the conversation, or changes the question once it
    is answered.
    """
    return _encode(tokenizer, list(sample.messages), _answers(sample), sample)[0]


def encode_turns(tokenizer: Any, sample: Sample) -> list[TokenizedExample]:
    """`encode`, and one example more for each earlier answer that the template rewrites later on:
    Qwen3's and others strip the thinking of earlier turns, and would train the last answer only.

    Raises ValueError as `encode` does.
    """
    examples, answers = [], _answers(sample)
    while answers:
        last = max(answers)
        example, covered = _encode(tokenizer, list(sample.messages[: last + 1]), answers, sample)
        answers = answers - covered - {last}
        examples.append(example)
    return examples


def _answers(sample: Sample) -> set[int]:
    """Positions of the answers that are trained."""
    return {
        i
        for i, message in enumerate(sample.messages)
        if message["role"] == "assistant" and i not in sample.untrained
    }


def _encode(
    tokenizer: Any, messages: list[Message], answers: set[int], sample: Sample
) -> tuple[TokenizedExample, set[int]]:
    """(example, positions of the answers that carry labels).

    The whole text is tokenized once, as the server tokenizes it, and answers are found by their
    character offsets: tokenized apart, the words at a seam would become other tokens.
    """
    tools = json.loads(sample.tools) if sample.tools else None
    mark = end_mark(tokenizer)
    text = _rendered(tokenizer, messages, tools)
    if not mark and tokenizer.eos_token:
        text = text.rstrip() + tokenizer.eos_token  # else the model would never learn to stop
    spans, covered = [], set()
    for i in sorted(answers):
        if i >= len(messages):
            continue
        before = _rendered(tokenizer, messages[:i], tools, add_generation_prompt=True)
        after = _rendered(tokenizer, messages[: i + 1], tools).rstrip()
        if text.startswith(before) and text.startswith(after) and len(after) > len(before):
            is_last = i == len(messages) - 1
            spans.append((len(before), len(text) if is_last and not mark else len(after)))
            covered.add(i)
        elif i == len(messages) - 1:
            raise ValueError("the template renders the question differently once it is answered")
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = []
    for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        # a token may hold the space before an answer and its first word
        in_answer = end > start and any(
            a < end <= b and (start >= a or text[start:a].isspace()) for a, b in spans
        )
        labels.append(token if in_answer else IGNORED)
    return _example(list(encoding["input_ids"]), labels, sample.source, len(covered)), covered


def _rendered(
    tokenizer: Any,
    messages: list[Message],
    tools: list[dict[str, Any]] | None,
    add_generation_prompt: bool = False,
) -> str:
    """`render`, with whatever the template raises as a ValueError: it costs one row."""
    try:
        return render(tokenizer, messages, add_generation_prompt, tools)
    except Exception as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise ValueError(f"the chat template refuses it: {reason[:150]}") from None


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The conversation as the template writes it; with the generation prompt, up to where the
    answer begins."""
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    )


def truncate(example: TokenizedExample, size: int) -> TokenizedExample:
    return _example(example.ids[:size], example.labels[:size], example.source, example.n_answers)


def _example(ids: list[int], labels: list[int], source: str, n_answers: int) -> TokenizedExample:
    n_labels = sum(label != IGNORED for label in labels)
    return TokenizedExample(ids, labels, source, n_labels, n_answers)


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
