"""A chat request of OpenAI's API with pictures: its shape judged at once, its pictures decoded
later. Knows no engine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onecard.errors import DataError
from onecard.inference import schema_limits
from onecard.serving import guards
from onecard.serving.openai_schemas import wants_usage
from onecard.tasks.vlm import picture_inputs
from onecard.tasks.vlm.engine import AS_SET, Picture, Question, Sampling
from onecard.tasks.vlm.items import MARKER, Role, Turn
from onecard.tasks.vlm.picture_inputs import Bounds

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
TEXT_PARTS = ("text", "input_text", "refusal")
IMAGE_PARTS = ("image_url", "input_image", "image")
OF_THE_SERVER = ("frequency_penalty", "presence_penalty", "logprobs")
"""Settings that not every engine has: those of a request change nothing."""
SAMPLING_LIMITS = {"temperature": (0.0, 2.0), "top_p": (1e-6, 1.0)}
SEEDS = (1 << 32) - 1
"""llama.cpp's: the number behind them draws one by itself."""
MAX_STOPS, MAX_STOP = 16, 200
MAX_MESSAGES = 2000


@dataclass(frozen=True)
class ChatRequest:
    turns: tuple[Turn, ...]
    """The system's, if any, then user and assistant in alternation; the last is the user's."""
    sources: tuple[str, ...]
    """Data URIs and addresses, as many as the markers in the turns."""
    max_tokens: int = 0
    """0 for the server's."""
    sampling: Sampling = AS_SET
    schema: Mapping[str, Any] | None = None
    stops: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False
    """The stream is to end with its usage."""
    unenforced: tuple[str, ...] = ()
    """What of the schema is not enforced, and which settings are the server's own."""

    def question(self, bounds: Bounds) -> Question:
        """With its pictures decoded, or fetched where allowed. Raises DataError."""
        pictures: list[Picture] = picture_inputs.pictures_of(self.sources, bounds)
        return Question(self.turns, tuple(pictures))


def unmarked(text: str) -> str:
    """A text in which no word stands for a picture: what a user or a document writes is not a
    place for one.

    >>> unmarked("the tag <image> of HTML")
    'the tag < image> of HTML'
    """
    return text.replace(MARKER, f"{MARKER[0]} {MARKER[1:]}")


def parse(content: bytes, system: str, max_images: int) -> ChatRequest:
    """`system`: used where the request brings none. Raises DataError."""
    body = guards.parse_body(content)
    _require_plain(body)
    turns, sources = _turns(body.get("messages"), max_images)
    if system and turns[0].role != "system":
        turns = [Turn("system", system), *turns]
    schema, unenforced = _schema(body.get("response_format"))
    chosen = [name for name in OF_THE_SERVER if body.get(name) not in (None, False)]
    notes = [*unenforced, *(f"{name} is the server's" for name in chosen)]
    return ChatRequest(
        tuple(turns),
        tuple(sources),
        _max_tokens(body),
        _sampling(body),
        schema,
        _stops(body.get("stop")),
        bool(body.get("stream")),
        wants_usage(body),
        tuple(notes),
    )


def _require_plain(body: Mapping[str, Any]) -> None:
    n = body.get("n")
    if n is not None and (n != 1 or isinstance(n, bool)):
        raise _invalid("n", "one answer is generated a request", "send the request n times")
    if body.get("tools") or body.get("functions"):
        raise _invalid("tools", "no tools are called here", "onecard chat serve calls tools")
    if body.get("stream") not in (None, True, False):
        raise _invalid("stream", "it is neither true nor false")
    if body.get("audio") or body.get("modalities") not in (None, ["text"]):
        raise _invalid("modalities", "answers are text")


def _max_tokens(body: Mapping[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 20:
            raise _invalid(name, f"{json.dumps(value)[:40]} is no whole number from 1")
        return value
    return 0


def _sampling(body: Mapping[str, Any]) -> Sampling:
    shares: dict[str, float | None] = dict.fromkeys(SAMPLING_LIMITS)
    for name, (low, high) in SAMPLING_LIMITS.items():
        value = body.get(name)
        if value is None:
            continue
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not low <= value <= high
        ):
            raise _invalid(name, f"{json.dumps(value)[:40]} is no number from {low:g} to {high:g}")
        shares[name] = float(value)
    seed = body.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise _invalid("seed", f"{json.dumps(seed)[:40]} is no whole number")
    return Sampling(**shares, seed=None if seed is None else seed % SEEDS)


def _stops(value: Any) -> tuple[str, ...]:
    rows = [value] if isinstance(value, str) else value
    if rows is None:
        return ()
    if not isinstance(rows, list) or not all(isinstance(each, str) and each for each in rows):
        raise _invalid("stop", "it is neither a text nor a list of texts")
    if len(rows) > MAX_STOPS or any(len(each) > MAX_STOP for each in rows):
        raise _invalid("stop", f"at most {MAX_STOPS} texts of {MAX_STOP} letters are looked for")
    return tuple(rows)


def _schema(value: Any) -> tuple[Mapping[str, Any] | None, list[str]]:
    """(the schema that is demanded, what of it is not enforced)."""
    if value is None:
        return None, []
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None, []
    if kind == "json_object":
        inner = value.get("schema") or {"type": "object"}
    elif kind == "json_schema":
        holder = value.get("json_schema")
        inner = holder.get("schema") if isinstance(holder, dict) else None
    else:
        raise _invalid("response_format", "its type is none of text, json_object, json_schema")
    if not isinstance(inner, dict):
        raise _invalid("response_format", "it has no json_schema.schema that is an object")
    return inner, schema_limits.check(inner, "response_format")


# Messages


def _turns(messages: Any, max_images: int) -> tuple[list[Turn], list[str]]:
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", 'it must be a list of {"role": ..., "content": ...}')
    if len(messages) > MAX_MESSAGES:
        raise _invalid("messages", f"it has more than {MAX_MESSAGES} messages")
    turns: list[Turn] = []
    sources: list[str] = []
    for i, message in enumerate(messages):
        role, text, pictures = _message(message, f"messages[{i}]")
        if role == "system" and any(turn.role != "system" for turn in turns):
            raise _invalid(f"messages[{i}]", "a system message stands after others", "put it first")
        sources += pictures
        if len(sources) > max_images:
            raise _invalid(
                f"messages[{i}]",
                f"the conversation has more than {max_images} pictures",
                "fewer pictures, or a server with a larger --max_images",
            )
        if turns and turns[-1].role == role:  # most templates want turns in alternation
            turns[-1] = Turn(role, f"{turns[-1].text}\n{text}")
        else:
            turns.append(Turn(role, text))
    if turns[-1].role != "user":
        raise _invalid("messages", "the last message is not the user's", "end with a question")
    return turns, sources


def _message(message: Any, place: str) -> tuple[Role, str, list[str]]:
    """(role, text with markers, the pictures' sources)."""
    if not isinstance(message, dict):
        raise _invalid(place, "it is no object")
    name = message.get("role")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise _invalid(place, "its role is none of system, user, assistant")
    content = message.get("content")
    if content is None:
        content = ""
    parts: Sequence[Any] = (
        content if isinstance(content, list) else [{"type": "text", "text": content}]
    )
    texts: list[str] = []
    sources: list[str] = []
    for i, part in enumerate(parts):
        at = f"{place}.content[{i}]" if isinstance(content, list) else place
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in TEXT_PARTS:
            text = part.get("text", part.get("refusal"))
            if not isinstance(text, str):
                raise _invalid(at, "its text is no text")
            texts.append(unmarked(text))
        elif kind in IMAGE_PARTS:
            if role != "user":
                raise _invalid(at, f"a picture stands in a message of the {role}")
            sources.append(_source(part, at))
            texts.append(MARKER)
        else:
            raise _invalid(at, f"a part of type {str(kind)[:40]!r} cannot be read here")
    return role, "\n".join(texts), sources


def _source(part: Mapping[str, Any], place: str) -> str:
    value = part.get("image_url", part.get("image"))
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url:
        raise _invalid(
            place, "it names no picture", '{"type": "image_url", "image_url": {"url": "data:..."}}'
        )
    return url


def _invalid(place: str, why: str, fix: str = "correct the request") -> DataError:
    return DataError(f"{place} is not valid", why=why, fix=fix)
