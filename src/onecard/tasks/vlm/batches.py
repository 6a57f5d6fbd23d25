"""Rows as tensors: pictures are decoded when they are needed, answers alone have labels.

Letters at the end of a tensor's name: B rows, T tokens.
"""

import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from onecard.errors import DataError
from onecard.tasks.vlm import prompts
from onecard.tasks.vlm.engine import picture
from onecard.tasks.vlm.items import RejectedRow, VlmItem
from onecard.tasks.vlm.model import Vlm
from onecard.training.seeds import STEP_STRIDE

IGNORED = -100
"""Label of a token that is no part of an answer."""
WINDOW = 32
"""Batches whose rows are sorted by length together, so that little is padded."""
TURN_TOKENS = 12
"""Allowance for what a chat template puts around a turn."""


@dataclass(frozen=True)
class Batch:
    inputs: dict[str, Any]
    """As the processor gives them, with `labels` [B, T]."""
    n_tokens: int
    """Without padding, pictures included."""
    n_answer: int
    """Tokens with a label."""
    sources: tuple[str, ...]


def encode(vlm: Vlm, items: Sequence[VlmItem]) -> Batch:
    """A micro-batch. Raises DataError for a row that the model does not take."""
    rendered = [prompts.render_with_answers(vlm.processor, item.turns) for item in items]
    inputs = vlm.inputs(
        [each.text for each in rendered],
        [[picture(path) for path in item.images] for item in items],
        padding_side="right",
        return_offsets_mapping=True,
        return_text_replacement_offsets=True,
    )
    offsets = inputs.pop("offset_mapping")
    replaced = inputs.pop("text_replacement_offsets", [[] for _ in items])
    ids_BT = inputs["input_ids"]
    labels_BT = torch.full_like(ids_BT, IGNORED)
    for row, (each, spans) in enumerate(zip(rendered, offsets.tolist(), strict=True)):
        places = replaced[row] if row < len(replaced) else []
        for start, end in each.answers:
            low, high = _moved(start, places), _moved(end, places)
            for t, (a, b) in enumerate(spans):
                # a token may begin with the space that a template has put before the answer
                if a < high and b > max(low, a):
                    labels_BT[row, t] = ids_BT[row, t]
    # nothing stands before the first token, and padding is no answer
    labels_BT[:, 0] = IGNORED
    labels_BT[inputs["attention_mask"] == 0] = IGNORED
    labels_BT[ids_BT == vlm.processor.image_token_id] = IGNORED
    inputs["labels"] = labels_BT
    n_labels = (labels_BT != IGNORED).sum(1)
    for item, n in zip(items, n_labels.tolist(), strict=True):
        if not n:
            raise DataError(
                f"the answer of {item.place} has no tokens",
                why="the tokenizer makes nothing of it, or its offsets are not known",
                fix="take the row out; a model needs a fast tokenizer to be trained",
            )
    return Batch(
        inputs,
        int(inputs["attention_mask"].sum()),
        int(n_labels.sum()),
        tuple(item.place for item in items),
    )


def _moved(place: int, replacements: Sequence[dict[str, Any]]) -> int:
    """A place of the rendered text in the text whose pictures are written out."""
    shift = 0
    for each in replacements:
        if each["span"][1] <= place:
            shift = each["new_span"][1] - each["span"][1]
    return place + shift


def text_lengths(vlm: Vlm, items: Sequence[VlmItem]) -> list[int]:
    """Tokens of each row's text, about: what the template adds is allowed for, not counted."""
    texts = ["\n".join(turn.text for turn in item.turns) for item in items]
    if not texts:
        return []
    rows = vlm.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [len(row) + TURN_TOKENS * len(item.turns) for row, item in zip(rows, items, strict=True)]


def within(
    vlm: Vlm, items: Sequence[VlmItem], text_tokens: int
) -> tuple[list[VlmItem], list[RejectedRow]]:
    """(rows whose text fits, the others)."""
    kept, rejected = [], []
    for item, n in zip(items, text_lengths(vlm, items), strict=True):
        if n <= text_tokens:
            kept.append(item)
        else:
            reason = f"its text has about {n:,} tokens, more than --text_tokens {text_tokens:,}"
            rejected.append(RejectedRow(item.source, reason, item.question[:200]))
    return kept, rejected


class Batches:
    """Micro-batches in an order that follows from seed and number alone; the next one is made
    ready while one is computed."""

    def __init__(
        self, vlm: Vlm, items: Sequence[VlmItem], size: int, seed: int, *, shuffle: bool = True
    ) -> None:
        self.vlm, self.items, self.size, self.seed = vlm, items, size, seed
        self.shuffle = shuffle
        self.lengths = text_lengths(vlm, items)
        self.per_epoch = -(-len(items) // size)
        self._epoch, self._order = -1, [[0]]
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Batch]] | None = None

    def rows(self, number: int) -> list[VlmItem]:
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._order, self._epoch = self._shuffled(epoch), epoch
        return [self.items[i] for i in self._order[place]]

    def __getitem__(self, number: int) -> Batch:
        """Raises DataError for a picture that is gone, or a row that the model does not take."""
        if self._next and self._next[0] == number:
            batch = self._next[1].result()
        else:
            batch = encode(self.vlm, self.rows(number))
        self._next = (number + 1, self._pool.submit(encode, self.vlm, self.rows(number + 1)))
        return batch

    def _shuffled(self, epoch: int) -> list[list[int]]:
        if not self.shuffle:
            numbers = range(len(self.items))
            return [list(numbers[i : i + self.size]) for i in range(0, len(numbers), self.size)]
        draw = random.Random(self.seed * STEP_STRIDE + epoch)
        order = draw.sample(range(len(self.items)), len(self.items))
        if self.size == 1:
            return [[i] for i in order]
        batches: list[list[int]] = []
        for start in range(0, len(order), self.size * WINDOW):
            window = sorted(order[start : start + self.size * WINDOW], key=self._key)
            parts = [window[i : i + self.size] for i in range(0, len(window), self.size)]
            batches += draw.sample(parts, len(parts))
        return batches

    def _key(self, i: int) -> tuple[int, int, int]:
        return len(self.items[i].images), self.lengths[i], i

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
