"""Vision-language models behind an OpenAI-compatible address: llama.cpp's, embedded here, or
another server.

Pictures are sent as data URIs of the decoded pixels, never as addresses or paths: no server fetches
anything for a document.
"""

import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai

from onecard.datasets.images.decode import Rgb
from onecard.datasets.images.picture_uris import data_uri
from onecard.errors import DataError, OneCardError, SettingsError
from onecard.inference import backends, llamacpp, sight
from onecard.inference.client import Client, Reply
from onecard.inference.config import LlmConfig
from onecard.memory.architectures import gguf, gguf_vocabulary, mmproj
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.tasks.vlm import class_tokens, gguf_pairs, picture_sizes, prompts, square_pictures
from onecard.tasks.vlm.configs import AnswerModelConfig, ServeConfig
from onecard.tasks.vlm.engine import AS_SET, Answer, Picture, Question, Sampling
from onecard.tasks.vlm.items import MARKER, Turn
from onecard.tasks.vlm.picture_sizes import PictureSizes
from onecard.tasks.vlm.square_pictures import Square

AT_ONCE = 4
"""Questions that a server is sent at once by `answers`; it batches them."""
COUNT = "/chat/completions/input_tokens"
"""llama.cpp's route that counts a prompt with its pictures without computing it."""
COUNT_S = 60


@contextmanager
def opened(config: AnswerModelConfig, plan: Plan, reporter: Reporter) -> Iterator["HttpEngine"]:
    """The server of --base_url, or llama.cpp on a GGUF pair; it ends with the block.

    Raises NotFound, DataError, EngineError, SettingsError.
    """
    n_parallel = config.n_parallel if isinstance(config, ServeConfig) else 1
    if config.base_url:
        yield _server(config, n_parallel)
        return
    pair = gguf_pairs.find(config, reporter)
    half = mmproj.read(pair.vision) if pair.vision else None
    square, vision = _prepared_here(pair.vision, half, reporter)
    limits = picture_sizes.token_limits(half, config.min_pixels, config.max_pixels)
    with backends.embedded(
        pair.language,
        config,
        plan,
        reporter,
        n_parallel=n_parallel,
        name=config.model,
        mmproj=vision,
        image_min_tokens=limits[0],
        image_max_tokens=limits[1],
    ) as process:
        reporter.line(f"{pair.language.name}: {process.placement()}")
        if warning := llamacpp.unused_gpu_warning(process.devices):
            reporter.warn(warning)
        settings = _language_settings(config)
        client = Client(process.base_url, process.api_key, process.name, settings, process)
        engine = HttpEngine(client, config, n_parallel, sees=bool(half))
        engine.control = prompts.pattern_of(gguf_vocabulary.steering_words(pair.language))
        if half:
            engine.square = square
            keys = gguf.read_header(pair.vision).keys if pair.vision else {}
            engine.after = str(keys.get(mmproj.AFTER) or "")[:8]
            engine.sizes = PictureSizes(
                engine.count_tokens,
                half,
                config.min_pixels,
                config.max_pixels,
                config.model,
                reporter,
            )
            engine.sizes.require_effect()
        else:
            reporter.warn(f"{pair.language.name} has no mmproj file beside it: it reads text only")
        yield engine


def _prepared_here(
    vision: Path | None, half: mmproj.Projector | None, reporter: Reporter
) -> tuple[Square | None, Path | None]:
    """(how a picture is made ready for llama.cpp, or None where it does that itself; the file of
    the vision half that it is given)."""
    if not vision or not half:
        return None, vision
    header = gguf.read_header(vision)
    square = square_pictures.of_keys(header.keys, half.side)
    if not class_tokens.is_concerned(header):
        return square, vision
    if not class_tokens.can_be_mended(header):
        reporter.warn(class_tokens.NOT_MENDED)
        return square, vision
    reporter.line(class_tokens.MENDED)
    square = square or square_pictures.padded(header.keys, half.side)
    return replace(square, roll=half.tower.patch), class_tokens.mended(vision)


def _language_settings(config: AnswerModelConfig) -> LlmConfig:
    known = set(LlmConfig.model_fields) & set(type(config).model_fields)
    return LlmConfig(**{name: getattr(config, name) for name in known})


def _server(config: AnswerModelConfig, n_parallel: int) -> "HttpEngine":
    """Raises EngineError for a server that is not there or serves nothing, SettingsError."""
    if config.mmproj:
        raise SettingsError(
            "--mmproj has no effect on a server",
            why="the server has loaded its own model",
            fix="leave --mmproj or --base_url out",
        )
    settings = _language_settings(config)
    client = backends.served(config.base_url, config.api_key_env, config.model, settings)
    engine = HttpEngine(client, config, n_parallel)
    engine.sizes = PictureSizes(
        engine.count_tokens, None, config.min_pixels, config.max_pixels, client.model
    )
    return engine


@dataclass
class HttpEngine:
    """One model at one address."""

    client: Client
    config: AnswerModelConfig
    n_parallel: int = 1
    sees: bool | None = None
    """Whether the model takes pictures; None until a server has been tried."""
    square: Square | None = None
    after: str = ""
    """What the model was trained to read between a picture and the text behind it."""
    sizes: PictureSizes | None = None
    control: re.Pattern[str] | None = None
    """Control tokens of a vocabulary that is at hand: no text may hold one. Another server keeps
    its own."""
    _base_tokens: int | None = None
    _cannot_count: bool = False
    _greedy: Client | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.client.model

    def picture_tokens(self, picture: Picture) -> int:
        self._require_sight()
        return self.sizes.tokens(self._pixels(picture)) if self.sizes else 0

    def answer(
        self,
        question: Question,
        *,
        max_tokens: int = 0,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling = AS_SET,
    ) -> Answer:
        return self._answer(self.client, question, max_tokens, schema, sampling)

    def _answer(
        self,
        client: Client,
        question: Question,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling = AS_SET,
    ) -> Answer:
        started = time.monotonic()
        with self._errors(question):
            messages = self._messages(question)
            reply = client.chat(
                messages, schema=schema, max_tokens=max_tokens, sampling=sampling.options()
            )
        return self._with_tokens(reply, question, started)

    def stream(
        self,
        question: Question,
        *,
        max_tokens: int = 0,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling = AS_SET,
    ) -> Generator[str, None, Answer]:
        started = time.monotonic()
        with self._errors(question):
            messages = self._messages(question)
            reply = yield from self.client.stream(
                messages,
                schema=schema,
                max_tokens=max_tokens,
                sampling=sampling.options(),
                usage=True,
            )
        return self._with_tokens(reply, question, started)

    def answers(self, questions: Iterable[Question], *, max_tokens: int = 0) -> Iterator[Answer]:
        """A server gets several at once, and an error of one ends all."""
        if self._greedy is None:
            client, settings = self.client, self.client.config
            greedy = settings.model_copy(update={"temperature": 0.0})
            self._greedy = Client(
                client.base_url, client.api_key, client.model, greedy, client.engine
            )
        n = self.n_parallel if self.client.engine else max(AT_ONCE, self.n_parallel)
        if n == 1:
            for question in questions:
                yield self._answer(self._greedy, question, max_tokens)
            return
        waiting = iter(questions)
        with ThreadPoolExecutor(n) as pool:
            futures: list[Future[Answer]] = []
            try:
                while True:
                    for question in islice(waiting, n - len(futures)):
                        futures.append(
                            pool.submit(self._answer, self._greedy, question, max_tokens)
                        )
                    if not futures:
                        return
                    yield futures.pop(0).result()
            finally:
                for future in futures:
                    future.cancel()

    def first_token(self, question: Question, top: int) -> dict[int, float]:
        """{token id: log-probability} of the likeliest first tokens of the answer; empty for a
        server that does not tell their ids."""
        with self._errors(question), self.client.translated_errors():
            reply: Any = self.client.openai.chat.completions.create(
                model=self.name,
                messages=self._messages(question),  # type: ignore[arg-type]
                max_tokens=1,
                temperature=0,
                logprobs=True,
                top_logprobs=top,
            )
        content = getattr(reply.choices[0].logprobs, "content", None) or []
        rows = content[0].top_logprobs if content else []
        return {
            int((row.model_extra or {})["id"]): row.logprob
            for row in rows
            if "id" in (row.model_extra or {})
        }

    def count_tokens(self, rgb: Rgb) -> int:
        """Tokens of the pixels as they are sent, by the server's own count; 0 where it has none."""
        if self._cannot_count:
            return 0
        try:
            if self._base_tokens is None:
                self._base_tokens = self._count([{"type": "text", "text": "?"}])
            part = {"type": "image_url", "image_url": {"url": data_uri(rgb)}}
            return self._count([part, {"type": "text", "text": "?"}]) - self._base_tokens
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            self._cannot_count = True
            return 0

    def _count(self, content: list[dict[str, Any]]) -> int:
        reply = httpx.post(
            self.client.base_url + COUNT,
            json={"model": self.name, "messages": [{"role": "user", "content": content}]},
            headers={"Authorization": f"Bearer {self.client.api_key or 'none'}"},
            timeout=COUNT_S,
        )
        reply.raise_for_status()
        return int(reply.json()["input_tokens"])

    # Messages

    def _messages(self, question: Question) -> list[dict[str, Any]]:
        """OpenAI's, each marker of the turns an image part."""
        if question.pictures:
            self._require_sight()
        if question.n_markers != len(question.pictures):
            raise DataError(
                f"{question.n_markers} markers {MARKER} and {len(question.pictures)} pictures",
                why="each picture has one place in the question",
                fix=f"write {MARKER} once for each, or leave it out",
            )
        uris = iter([data_uri(self._pixels(picture)) for picture in question.pictures])
        return [self._message(turn, uris) for turn in question.turns]

    def _message(self, turn: Turn, uris: Iterator[str]) -> dict[str, Any]:
        if MARKER not in turn.text:
            return {"role": turn.role, "content": prompts.broken_up(turn.text, self.control)}
        content: list[dict[str, Any]] = []
        for i, text in enumerate(turn.text.split(MARKER)):
            if i:
                content.append({"type": "image_url", "image_url": {"url": next(uris)}})
            text = prompts.broken_up(text.strip("\n"), self.control)
            if text := (self.after if i else "") + text:
                content.append({"type": "text", "text": text})
        return {"role": turn.role, "content": content}

    def _pixels(self, picture: Picture) -> Rgb:
        """As they are sent."""
        if self.square:
            return self.square.prepared(picture.rgb)
        return self.sizes.scaled(picture.rgb) if self.sizes else picture.rgb

    def _require_sight(self) -> None:
        """Raises DataError for a model that reads text only, before a picture is sent to it. Some
        servers leave the picture out and answer all the same: their count of the prompt tells."""
        if self.sees is None:
            self.sees = self._probe()
        if not self.sees:
            raise self._blind()

    def _probe(self) -> bool:
        """True also where the server does not count."""
        try:
            return sight.sees_pictures(self.client, data_uri(np.zeros((64, 64, 3), np.uint8)))
        except OneCardError as fault:
            raise _as_data(fault) from None

    def _blind(self) -> DataError:
        embedded = self.client.engine is not None
        return DataError(
            f"{self.name} is a model without vision",
            why="it has no mmproj file" if embedded else f"{self.client.base_url} says so of it",
            fix="--mmproj FILE, or a model that takes pictures: qwen3-vl-4b, smolvlm2-2.2b ..."
            if embedded
            else "load a model that takes pictures there",
        )

    @contextmanager
    def _errors(self, question: Question) -> Iterator[None]:
        """A server's errors become ours: what is the request's own fault is a DataError."""
        try:
            yield
        except OneCardError as fault:
            if question.pictures and sight.is_blind(fault):
                self.sees = False
                raise self._blind() from fault
            raise _as_data(fault) from fault.__cause__

    def _with_tokens(self, reply: Reply, question: Question, started: float) -> Answer:
        n_pictures = sum(
            self.sizes.tokens(self._pixels(picture)) if self.sizes else 0
            for picture in question.pictures
        )
        return Answer(
            reply.text,
            reply.prompt_tokens,
            n_pictures,
            reply.completion_tokens,
            round(time.monotonic() - started, 3),
            "length" if reply.finish_reason == "length" else "stop",
        )


def _as_data(fault: OneCardError) -> OneCardError:
    """The error of a request that the server refused for what it holds, not for its own state."""
    cause = fault.__cause__
    if isinstance(cause, openai.BadRequestError | openai.UnprocessableEntityError):
        return DataError(fault.what, why=fault.why, fix=fault.fix)
    return fault
