"""The engine of transformers: a model in this process."""

import json
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from onecard import cancellation
from onecard.cancellation import Cancellation, Cancelled
from onecard.errors import DataError
from onecard.evaluation.metrics.json_fields import parse_json, schema_faults
from onecard.memory import number_types
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.tasks.vlm import model, prompts
from onecard.tasks.vlm.configs import AnswerModelConfig
from onecard.tasks.vlm.engine import AS_SET, GREEDY, Answer, Picture, Question, Sampling
from onecard.tasks.vlm.items import Turn
from onecard.tasks.vlm.model import Vlm

BATCH = 8
"""Questions that are answered at once."""
LOOK_AHEAD = 8
"""Batches whose questions are sorted by length, so that little is padded."""
SCHEMA_TRIES = 2
"""Answers that do not keep a schema are asked for once more, with what is wrong with them."""


@contextmanager
def opened(config: AnswerModelConfig, plan: Plan, reporter: Reporter) -> Iterator["Transformers"]:
    """Raises NotFound, DataError, SettingsError, MissingExtra."""
    bits, dtype = model.precision_of(str(plan.choices.get("quant", "") or config.quant))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        on_card = device == "cuda" and bool(number_types.bf16_unit(number_types.here(device)))
        dtype = torch.bfloat16 if on_card else torch.float32
    vlm = model.load(
        config.model,
        bits,
        dtype=dtype,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        reporter=reporter,
    )
    at_once = int(plan.choices.get("questions at once", BATCH) or BATCH)
    yield Transformers(vlm, config, at_once)


@dataclass
class _Cancel(StoppingCriteria):  # type: ignore[misc]
    """Ends a generation whose reader has gone."""

    cancellations: Sequence[Cancellation | None]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
        stop = any(each is not None and each.is_set for each in self.cancellations)
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device)


class _Pieces:
    """transformers' streamer protocol: text as it becomes certain. A character of several tokens
    waits for its last one."""

    def __init__(self, tokenizer: Any, emit: Callable[[str], None]) -> None:
        self.tokenizer, self.emit = tokenizer, emit
        self.tokens: list[int] = []
        self.text, self.prompt = "", True

    def put(self, value: torch.Tensor) -> None:
        if self.prompt:  # the first call is the prompt
            self.prompt = False
            return
        self.tokens += value.flatten().tolist()
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._send(text)

    def end(self) -> None:
        self._send(self.tokenizer.decode(self.tokens, skip_special_tokens=True))

    def _send(self, text: str) -> None:
        if len(text) > len(self.text):
            self.emit(text[len(self.text) :])
            self.text = text


@dataclass
class Transformers:
    """One model; questions are answered one at a time, or in batches by `answers`."""

    vlm: Vlm
    config: AnswerModelConfig
    at_once: int = BATCH
    """Questions of `answers` in one batch: as many as the plan says fit."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.vlm.name

    def picture_tokens(self, picture: Picture) -> int:
        return self.vlm.picture_tokens(picture)

    def answer(
        self,
        question: Question,
        *,
        max_tokens: int = 0,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling = AS_SET,
    ) -> Answer:
        if schema is None:
            return self._generate([question], max_tokens, sampling)[0]
        return self._by_schema(question, max_tokens, schema, sampling)

    def _by_schema(
        self, question: Question, max_tokens: int, schema: Mapping[str, Any], sampling: Sampling
    ) -> Answer:
        """Nothing constrains the words here: what does not keep the schema is asked for again."""
        *before, last = question.turns
        request = _instruction(schema)
        current = Question((*before, Turn("user", f"{last.text}\n{request}")), question.pictures)
        answer = Answer("")
        for _ in range(SCHEMA_TRIES):
            answer = self._generate([current], max_tokens, sampling)[0]
            value = parse_json(answer.text)
            faults = schema_faults(value, schema) if value is not None else ["it is no JSON"]
            if not faults:
                break
            turns = (
                *current.turns,
                Turn("assistant", answer.text or "-"),
                Turn("user", f"This is wrong: {'; '.join(faults)[:500]}. {request}"),
            )
            current = Question(turns, question.pictures)
        return answer

    def stream(
        self,
        question: Question,
        *,
        max_tokens: int = 0,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling = AS_SET,
    ) -> Generator[str, None, Answer]:
        if schema is not None:
            answer = self.answer(question, max_tokens=max_tokens, schema=schema, sampling=sampling)
            yield answer.text
            return answer
        pieces: Queue[str | None] = Queue()
        stop = Cancellation()
        outcome: list[Answer | BaseException] = []

        def work() -> None:
            try:
                outcome.append(
                    self._generate([question], max_tokens, sampling, pieces.put, stop)[0]
                )
            except BaseException as fault:
                outcome.append(fault)
            finally:
                pieces.put(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                cancellation.check()
                yield piece
        finally:
            stop.cancel()
            thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def answers(self, questions: Iterable[Question], *, max_tokens: int = 0) -> Iterator[Answer]:
        window: list[Question] = []
        for question in questions:
            window.append(question)
            if len(window) == self.at_once * LOOK_AHEAD:
                yield from self._window(window, max_tokens)
                window = []
        yield from self._window(window, max_tokens)

    def _window(self, window: Sequence[Question], max_tokens: int) -> list[Answer]:
        order = sorted(range(len(window)), key=lambda i: _length(window[i]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), self.at_once):
            rows = order[start : start + self.at_once]
            batch = self._generate([window[i] for i in rows], max_tokens, GREEDY)
            answers.update(zip(rows, batch, strict=True))
        return [answers[i] for i in range(len(window))]

    def _generate(
        self,
        questions: Sequence[Question],
        max_tokens: int,
        sampling: Sampling,
        emit: Callable[[str], None] | None = None,
        stop: Cancellation | None = None,
    ) -> list[Answer]:
        """Raises DataError for a prompt that the context does not hold, Cancelled."""
        vlm, began = self.vlm, time.monotonic()
        texts = [
            prompts.render(vlm.processor, question.turns, generation=True) for question in questions
        ]
        inputs = vlm.inputs(texts, [question.pictures for question in questions])
        n_prompt = inputs["attention_mask"].sum(1).tolist()
        is_picture = inputs["input_ids"] == vlm.processor.image_token_id
        limit = max_tokens or self.config.max_tokens
        _require_room(vlm, max(n_prompt), limit)
        cancellations = (cancellation.CURRENT.get(), stop)
        tokenizer = vlm.processor.tokenizer
        options = self._options(limit, sampling)
        with self._lock, model.evaluating(vlm.net):
            if options["do_sample"]:
                torch.manual_seed(self.config.seed if sampling.seed is None else sampling.seed)
            output = vlm.net.generate(
                **vlm.on_device(inputs),
                **options,
                streamer=_Pieces(tokenizer, emit) if emit else None,
                stopping_criteria=StoppingCriteriaList([_Cancel(cancellations)]),
            )
        if (current := cancellation.CURRENT.get()) and current.is_set:
            raise Cancelled
        seconds = (time.monotonic() - began) / len(questions)
        replies = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._answer(reply, int(n), int(pictures), seconds, limit)
            for reply, n, pictures in zip(replies, n_prompt, is_picture.sum(1), strict=True)
        ]

    def _options(self, limit: int, sampling: Sampling) -> dict[str, Any]:
        config, tokenizer = self.config, self.vlm.processor.tokenizer
        options: dict[str, Any] = {
            "max_new_tokens": limit,
            "pad_token_id": tokenizer.pad_token_id
            if tokenizer.pad_token_id is not None
            else tokenizer.eos_token_id,
            "eos_token_id": _ends(self.vlm),
            "repetition_penalty": config.repeat_penalty,
        }
        heat = config.temperature if sampling.temperature is None else sampling.temperature
        if heat > 0:
            top_p = config.top_p if sampling.top_p is None else sampling.top_p
            return {**options, "do_sample": True, "temperature": heat, "top_p": top_p}
        return {**options, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}

    def _answer(
        self, tokens: list[int], n_prompt: int, n_pictures: int, seconds: float, limit: int
    ) -> Answer:
        ends = set(_ends(self.vlm))
        n = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        tokenizer = self.vlm.processor.tokenizer
        text = tokenizer.decode(tokens[:n], skip_special_tokens=True).strip()
        reason = "length" if n == len(tokens) and n >= limit else "stop"
        return Answer(text, n_prompt, n_pictures, n, seconds, reason)


def _instruction(schema: Mapping[str, Any]) -> str:
    """What a model without a grammar is told of a schema."""
    return f"Answer with JSON alone, by this schema: {json.dumps(schema, ensure_ascii=False)}"


def _length(question: Question) -> int:
    area = sum(picture.width * picture.height for picture in question.pictures)
    return area + sum(len(turn.text) for turn in question.turns)


def _ends(vlm: Vlm) -> list[int]:
    """Tokens at which an answer ends: the model's own and its chat template's."""
    numbers: list[int] = []
    for value in (
        getattr(vlm.base.generation_config, "eos_token_id", None),
        vlm.processor.tokenizer.eos_token_id,
    ):
        if value is not None:
            numbers += list(value) if isinstance(value, list | tuple) else [int(value)]
    return sorted(set(numbers))


def _require_room(vlm: Vlm, n_prompt: int, limit: int) -> None:
    text_config = vlm.base.config.get_text_config()
    most = int(getattr(text_config, "max_position_embeddings", 0) or 0)
    if most and n_prompt >= most:
        raise DataError(
            f"the question and its pictures are {n_prompt:,} tokens",
            why=f"the model reads {most:,}",
            fix="fewer or smaller pictures (--max_pixels), or a shorter question",
        )
