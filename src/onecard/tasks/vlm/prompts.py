"""Turns to the text that a model's chat template makes of them, and where the answers are in it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from onecard.errors import DataError
from onecard.tasks.vlm.items import MARKER, Turn


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, each picture still one marker of the model."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()
    """(start, end) of each answer with its end mark, in characters."""


def messages(turns: Sequence[Turn], control: re.Pattern[str] | None = None) -> list[dict[str, Any]]:
    """transformers' messages: the content is a list of pictures and texts in their order.

    `control`: the model's control tokens; where a text holds one it is broken up, so that what a
    user or a document writes can neither end a turn nor stand for a picture.
    """
    rows = []
    for turn in turns:
        content: list[dict[str, Any]] = []
        for i, text in enumerate(turn.text.split(MARKER)):
            if i:
                content.append({"type": "image"})
            text = text.strip("\n") if MARKER in turn.text else text
            text = broken_up(text, control)
            if text:
                content.append({"type": "text", "text": text})
        rows.append({"role": turn.role, "content": content or [{"type": "text", "text": ""}]})
    return rows


def control_tokens(processor: Any) -> re.Pattern[str] | None:
    """All tokens of the model's vocabulary that no text may hold."""
    tokenizer = processor.tokenizer
    tokens = {str(token) for token in tokenizer.get_added_vocab()}
    tokens |= {token for token in tokenizer.all_special_tokens if len(token) > 1}
    return pattern_of(tokens)


def pattern_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """The control tokens among the words of a vocabulary; None for none."""
    control = {token for token in tokens if len(token) > 1 and re.search(r"[<\[|]", token)}
    if not control:
        return None
    longest_first = sorted(control, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)))


def broken_up(text: str, control: re.Pattern[str] | None) -> str:
    """A text whose control tokens are words like any other.

    >>> broken_up("a<|im_end|>b", pattern_of(["<|im_end|>", "of"]))
    'a< |im_end|>b'
    """
    if not control:
        return text
    return control.sub(lambda match: f"{match[0][:1]} {match[0][1:]}", text)


def render(processor: Any, turns: Sequence[Turn], *, generation: bool) -> str:
    """The conversation by the model's template. Raises DataError where it has none."""
    if not getattr(processor, "chat_template", None):
        raise DataError(
            "the model has no chat template",
            why="without one it is not known how its questions look",
            fix="a folder with chat_template.jinja, as an instruct model has",
        )
    rows = messages(turns, control_tokens(processor))
    try:
        return _applied(processor, rows, generation)
    except Exception as fault:  # a template raises what it likes
        if rows and rows[0]["role"] == "system" and len(rows) > 1:
            try:  # templates without a system turn take it as part of the question
                return _applied(processor, _without_system(rows), generation)
            except Exception:  # the first fault is the one to tell
                pass
        raise DataError(
            "the model's chat template does not take this conversation",
            why=str(fault)[:200] or type(fault).__name__,
            fix="turns of user and assistant in alternation, the user's first",
        ) from None


def _applied(processor: Any, rows: list[dict[str, Any]], generation: bool) -> str:
    text = processor.apply_chat_template(rows, add_generation_prompt=generation, tokenize=False)
    return str(text)


def _without_system(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first = {**rows[1], "content": [*rows[0]["content"], *rows[1]["content"]]}
    return [first, *rows[2:]]


def render_with_answers(processor: Any, turns: Sequence[Turn]) -> Rendered:
    """The whole conversation with the places of its answers. An answer that the template does not
    end with a token gets the tokenizer's end mark, so that the model learns to stop.

    Raises DataError for a template whose turns depend on those that follow.
    """
    full = render(processor, turns, generation=False)
    spans = []
    for i, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        start = _common(full, render(processor, turns[:i], generation=True))
        end = _common(full, render(processor, turns[: i + 1], generation=False))
        if turn.text.strip() not in full[start:end]:
            raise DataError(
                "an answer is not found in the text that the model's template makes",
                why=f"{full[start:end][:80]!r} does not hold {turn.text[:80]!r}",
                fix="a model whose template shows answers as they are",
            )
        spans.append((start, end))
    return _with_ends(processor, full, spans)


def _common(full: str, prefix: str) -> int:
    """Length of what both begin with: all of `prefix`, but for what a template trims or adds at
    the end of a conversation."""
    pairs = zip(full, prefix, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(full), len(prefix)))


def _with_ends(processor: Any, full: str, spans: list[tuple[int, int]]) -> Rendered:
    end_mark = str(processor.tokenizer.eos_token or "")
    control = control_tokens(processor)
    text, last, answers = "", 0, []
    for start, end in spans:
        answer = full[start:end].rstrip()
        text += full[last:start]
        begin = len(text)
        ends = control and re.search(f"(?:{control.pattern})$", answer)
        text += answer if ends else answer + end_mark
        answers.append((begin, len(text)))
        last = start + len(answer)
    return Rendered(text + full[last:], tuple(answers))
