"""A vision-language model behind an OpenAI-compatible address, asked about one picture at a
time, a few times at once. Pictures are sent as data URIs: the server fetches nothing."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np

from onecard.cancellation import CURRENT, Cancellation
from onecard.datasets.images.picture_uris import data_uri
from onecard.errors import EngineError, OneCardError
from onecard.inference import backends, sight
from onecard.inference.client import Client, Reply, has_gone
from onecard.inference.config import LlmConfig
from onecard.reporting import Reporter
from onecard.tasks.rag.configs import IndexConfig
from onecard.tasks.rag.descriptions import clean

AT_ONCE = 4
"""Requests at once: servers batch them, or let them wait."""
PREPARED = 8
"""Requests that are sent or ready to be: each holds a picture of some MB."""
MAX_FAULTS = 3
"""Failures in a row, of the server and not of a picture, after which it is asked no more."""

Keep = Callable[[str, str, bool], None]
"""Called in a thread with the text, the model's own name, and whether it was cut off."""


class PictureServer:
    """For one pass of an index; it is asked for its models when the first picture comes."""

    def __init__(self, config: IndexConfig, stop: Cancellation, reporter: Reporter) -> None:
        self.config, self.stop, self.reporter = config, stop, reporter
        self.ended: OneCardError | None = None
        """Why it is asked no more."""
        self._client: Client | None = None
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._waiting: set[Future[str]] = set()
        self._lock = threading.Lock()
        self._n_faults = 0

    def is_ready(self) -> bool:
        """Wait until there is room for one more request; false for a server that has ended."""
        if self._client is None and self.ended is None:
            try:
                self._client = self._opened()
            except OneCardError as fault:
                self.ended = fault
        while not self.ended and len(self._waiting) >= PREPARED:
            self._waiting = wait(self._waiting, return_when=FIRST_COMPLETED).not_done
        return self.ended is None

    def _opened(self) -> Client:
        """Raises EngineError for a server that is not there, has no model or one without vision."""
        config = self.config
        settings = LlmConfig(
            model=config.describe_model or "auto",
            base_url=config.describe_url,
            api_key_env=config.api_key_env,
            max_tokens=config.describe_max_tokens,
        )
        client = backends.served(
            config.describe_url,
            config.api_key_env,
            config.describe_model,
            settings,
            flag="--describe_model",
        )
        url = client.base_url
        if not sight.sees_pictures(client, data_uri(np.zeros((64, 64, 3), np.uint8))):
            raise EngineError(
                f"{client.model} is a model without vision",
                why=f"{url} says so, or leaves pictures out",
                fix="load a model that takes pictures there, or name it with --describe_model",
            )
        self.reporter.line(f"pictures and pages go to {client.model} at {url}")
        return client

    def ask(self, uri: str, keep: Keep) -> "Future[str]":
        """What the model says of a picture, after `is_ready`. The future raises EngineError,
        DataError."""
        context = contextvars.Context()
        future = self._pool.submit(context.run, self._answer, uri, keep)
        self._waiting.add(future)
        return future

    def _answer(self, uri: str, keep: Keep) -> str:
        assert self._client
        CURRENT.set(self.stop)
        if self.ended:
            raise self.ended
        content = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": self.config.describe_question},
        ]
        try:
            reply: Reply = self._client.chat([{"role": "user", "content": content}])
        except OneCardError as fault:
            self._count(fault)
            raise
        with self._lock:
            self._n_faults = 0
        text = clean(reply.text)
        keep(text, self._client.model, reply.finish_reason == "length")
        return text

    def _count(self, fault: OneCardError) -> None:
        with self._lock:
            self._n_faults = self._n_faults + 1 if has_gone(fault) else 0
            if self._n_faults >= MAX_FAULTS:
                self.ended = fault

    def close(self) -> None:
        """Requests on their way are given up."""
        self.stop.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
