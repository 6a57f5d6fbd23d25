"""What answers questions about pictures: one contract for transformers, llama.cpp and servers.

Pictures are decoded once, by our own reader, so that every engine sees the same pixels whatever the
file was. Knows no library.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from onecard.datasets.images import decode
from onecard.datasets.images.decode import Rgb
from onecard.tasks.vlm.items import MARKER, Turn


@dataclass(frozen=True)
class Picture:
    """An upright picture."""

    rgb: Rgb
    """[height, width, 3], uint8."""
    name: str = "the picture"

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])


@lru_cache(maxsize=8)
def picture(path: Path) -> Picture:
    """Raises DataError, NotFound."""
    return Picture(decode.read_rgb(path), path.name)


@dataclass(frozen=True)
class Question:
    """Turns whose markers `<image>` are as many as the pictures, in their order; the last turn is
    the user's."""

    turns: tuple[Turn, ...]
    pictures: tuple[Picture, ...] = ()

    @property
    def n_markers(self) -> int:
        return sum(turn.text.count(MARKER) for turn in self.turns)


@dataclass(frozen=True)
class Sampling:
    """How the words of one answer are drawn; None for the setting of the engine."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def options(self) -> dict[str, float | int]:
        """Those that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


AS_SET = Sampling()
GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: int = 0
    """Pictures included; 0 where the engine does not tell."""
    picture_tokens: int = 0
    """Of all pictures together; 0 where the engine does not tell."""
    completion_tokens: int = 0
    seconds: float = 0.0
    finish_reason: str = "stop"
    """`stop`, or `length` where it was cut off."""


class Engine(Protocol):
    """A model that is loaded and ready."""

    @property
    def name(self) -> str: ...

    def picture_tokens(self, picture: Picture) -> int:
        """Tokens that the picture becomes in a prompt, at the sizes that are set; 0 where the
        engine does not tell."""
        ...

    def answer(
        self,
        question: Question,
        *,
        max_tokens: int = 0,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling = AS_SET,
    ) -> Answer:
        """One whole answer. `max_tokens`: 0 for that of the settings; `schema`: a JSON schema that
        the answer is to keep. Raises DataError for a question that is too long, EngineError."""
        ...

    def stream(
        self,
        question: Question,
        *,
        max_tokens: int = 0,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling = AS_SET,
    ) -> Generator[str, None, Answer]:
        """The answer in pieces as they come; the generator's value is the whole. Closing it stops
        the engine."""
        ...

    def answers(self, questions: Iterable[Question], *, max_tokens: int = 0) -> Iterator[Answer]:
        """Of many questions, in their order, greedy."""
        ...


def with_pictures(
    text: str, pictures: Sequence[Picture], system: str = "", before: Sequence[Turn] = ()
) -> tuple[Turn, ...]:
    """Turns of a question with a marker for each picture before its text; markers that the text
    holds already are kept."""
    missing = len(pictures) - sum(turn.text.count(MARKER) for turn in before) - text.count(MARKER)
    lines = [*[MARKER] * max(missing, 0), text]
    turns = [Turn("system", system)] if system else []
    return (*turns, *before, Turn("user", "\n".join(lines)))
