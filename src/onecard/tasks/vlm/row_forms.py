"""Rows to items: LLaVA's and ShareGPT's conversations, OpenAI's messages, columns with a picture, a
question and an answer. Told apart by their columns.

Every column of a row is used, makes the row refused, or is reported as not used.
"""

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard.tasks.vlm import markers
from onecard.tasks.vlm.items import MARKER, Role, Turn, VlmItem
from onecard.tasks.vlm.picture_files import PictureFiles

ROLES: dict[str, Role] = {
    **dict.fromkeys(("human", "user", "prompter", "question"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt", "answer"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
IMAGE_COLUMNS = (
    *("image", "images", "picture", "pictures", "image_path", "image_paths", "file_name"),
    *("filename", "image_file", "img", "img_path", "image_name", "file", "path"),
    *("image_id", "imageid", "img_id"),
)
"""The ids are a picture's name without its ending, or its number."""
QUESTION_COLUMNS = ("question", "prompt", "instruction", "query", "problem")
ANSWER_COLUMNS = (
    *("answer", "response", "output", "completion", "multiple_choice_answer", "ground_truth"),
    *("label", "caption", "text"),
)
ALL_ANSWERS = ("answers", "ground_truths", "all_answers")
GROUP_COLUMNS = (
    *("group", "document", "doc_id", "docid", "document_id", "ucsf_document_id", "patient"),
    *("patient_id", "video", "video_id", "film", "scene"),
)
ID_COLUMNS = ("id", "question_id", "questionid", "qid", "uid", "item_id")
CONVERSATION_COLUMNS = ("conversations", "messages", "conversation")
PARTS = {
    "image": IMAGE_COLUMNS,
    "question": QUESTION_COLUMNS,
    "answer": ANSWER_COLUMNS,
    "answers": ALL_ANSWERS,
    "group": GROUP_COLUMNS,
    "id": ID_COLUMNS,
    "system": ("system", "system_prompt"),
}
"""What --columns can name -> the usual names."""
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
PICTURE_PARTS = ("image", "image_url", "input_image")


@dataclass(frozen=True)
class NamedRow:
    """A row whose file says what it is."""

    form: str
    values: Mapping[str, Any]


@dataclass
class RowParser:
    """Items of rows, with what was mended and passed over, counted."""

    names: Mapping[str, str]
    """Part -> the user's own column."""
    question: str
    """Of rows that have none."""
    needs_answer: bool = True
    forms: Counter[str] = field(default_factory=Counter)
    mendings: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)

    def parse(self, row: Any, place: str, pictures: PictureFiles) -> VlmItem:
        """Its id is the row's own, or empty. Raises ValueError with the reason why it cannot be
        used."""
        own_form = ""
        if isinstance(row, NamedRow):
            own_form, row = row.form, row.values
        if not isinstance(row, Mapping):
            raise ValueError(f"no JSON object but {repr(row)[:60]}")
        columns = Columns(row, self.names)
        notes: list[str] = []
        inner: list[Any] = []
        is_pair = False
        if (turns_value := columns.get_named(CONVERSATION_COLUMNS)) is not None:
            turns, form = self._conversation(turns_value, inner, notes)
            answers: tuple[str, ...] = _answers(columns.get("answers"))
        else:
            turns, answers, form = self._columns(columns, notes)
            is_pair = True
        if turns[0].role != "system" and isinstance(system := columns.get("system"), str):
            turns = [Turn("system", system.strip()), *turns]
        images = self._images(columns, inner, pictures)
        unified, note = markers.unify(turns)
        notes.append(note)
        fitting, note = markers.fit(unified, len(images))
        if not is_pair or len(images) > 1:  # columns name no place: before the question is usual
            notes.append(note)
        self._require_order(fitting)
        if any(HALF_CHARACTER.search(turn.text) for turn in fitting):
            raise ValueError("it holds half a character, which no tokenizer takes")
        if fitting[-1].role == "assistant" and not answers:
            answers = (fitting[-1].text,)
        group, own_id = columns.get("group"), columns.get("id")
        item = VlmItem(
            "" if own_id is None else str(own_id)[:200],
            images,
            fitting,
            place,
            "" if group is None else str(group)[:200],
            answers,
        )
        form = own_form or form
        self.forms[form if images else f"{form}, text only"] += 1
        self.mendings.update(note for note in notes if note)
        self.unused.update(columns.unused())
        return item

    def _images(
        self, columns: "Columns", inner: Sequence[Any], pictures: PictureFiles
    ) -> tuple[Path, ...]:
        """Those of the column, then those that stand in the messages, where they say which: a part
        of the type image without a path takes the next of the column."""
        value = columns.get("image")
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            with contextlib.suppress(ValueError):  # a name may begin with a bracket
                value = json.loads(value)
        listed = value if isinstance(value, list) else [value]
        listed = [] if value is None else listed
        if any(_is_missing(each) for each in listed):
            raise ValueError("one of its pictures is empty")
        own = [each for each in inner if each is not None]
        if listed and own:
            raise ValueError("pictures stand in its messages and in its columns")
        return tuple(pictures.find(each) for each in (own or listed))

    # Forms

    def _conversation(
        self, value: Any, inner: list[Any], notes: list[str]
    ) -> tuple[list[Turn], str]:
        """Turns of a list of messages; `inner` gets the pictures that stand in them, None for one
        without a name."""
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            value = json.loads(value)
        if not isinstance(value, list) or not value:
            raise ValueError(f"a list of messages is needed, not {repr(value)[:60]}")
        turns, has_parts, is_sharegpt = [], False, False
        for message in value:
            if not isinstance(message, Mapping):
                raise ValueError(f"a message is {repr(message)[:60]}")
            is_sharegpt |= "from" in message
            role = message.get("role", message.get("from"))
            if not isinstance(role, str) or role.lower() not in ROLES:
                raise ValueError(f"the role {role!r} is not known; roles: {', '.join(ROLES)}")
            content = message.get("content", message.get("value"))
            if isinstance(content, list):
                has_parts = True
                content = _joined(content, inner)
            if not isinstance(content, str):
                raise ValueError(f"a message has no text but {repr(content)[:60]}")
            turns.append(Turn(ROLES[role.lower()], content.strip()))
        if self.needs_answer and len(turns) > 2 and turns[-1].role == "user":
            turns.pop()
            notes.append("the question after the last answer was left out")
            if MARKER in turns[-1].text:
                raise ValueError("a picture stands in the question after the last answer")
        form = "conversations of LLaVA's form" if is_sharegpt else "messages"
        return turns, "messages with parts" if has_parts else form

    def _columns(
        self, columns: "Columns", notes: list[str]
    ) -> tuple[list[Turn], tuple[str, ...], str]:
        """A question with its answer, or a caption with the question that the user gave."""
        question = columns.get("question")
        form = "columns of pictures, questions and answers"
        if question is None and self.question:
            question, form = self.question, "captions with the question that was given"
        if question is None:
            raise ValueError(
                f"no question in its columns ({', '.join(map(str, columns.row))[:120]}); "
                "--question gives one for all rows"
            )
        text = _text(question, "question").strip()
        more = columns.get_named(("input", "context"))
        if isinstance(more, str) and more.strip():
            text = f"{text}\n\n{more.strip()}"
        everyone = _answers(columns.get("answers"))
        value = columns.get("answer")
        if isinstance(value, list):
            everyone, value = everyone or _answers(value), None
        if value is None:
            # the most frequent one: annotators disagree; of equals the first
            reference = Counter(everyone).most_common(1)[0][0] if everyone else None
        else:
            reference = _answer(value)
            if isinstance(value, Mapping) or _has_parse(value):
                notes.append("answers that are objects became JSON text")
        if reference is None:
            if self.needs_answer:
                shown = ", ".join(map(str, columns.row))[:120]
                raise ValueError(f"no answer in its columns ({shown})")
            return [Turn("user", text)], (), form
        if everyone and reference not in everyone:
            everyone = (reference, *everyone)
        turns = [Turn("user", text), Turn("assistant", reference.strip())]
        return turns, everyone, form

    def _require_order(self, turns: Sequence[Turn]) -> None:
        """Raises ValueError unless user and assistant speak by turns, from the user on."""
        spoken = [turn.role for turn in turns if turn.role != "system"]
        if "system" in [turn.role for turn in turns[1:]]:
            raise ValueError("a system turn stands after others")
        expected = [("user", "assistant")[i % 2] for i in range(len(spoken))]
        if not spoken or spoken != expected:
            raise ValueError(
                f"its turns are {', '.join(spoken[:6])}: user and assistant must take turns"
            )
        if self.needs_answer and spoken[-1] != "assistant":
            raise ValueError("the conversation does not end with an answer")


class Columns:
    """A row by the parts of an item; notes which columns were read. A missing value, None, NaN and
    an empty text are one."""

    def __init__(self, row: Mapping[Any, Any], names: Mapping[str, str]) -> None:
        self.row, self.names = row, names
        self.by_lower = {str(name).lower(): name for name in row}
        self.read: set[Any] = set()

    def get(self, part: str) -> Any:
        usual = (self.names[part].lower(),) if part in self.names else PARTS[part]
        value = self.get_named(usual)
        return value

    def get_named(self, names: Sequence[str]) -> Any:
        for name in names:
            column = self.by_lower.get(name)
            if column is None or column in self.read:
                continue
            value = self.row[column]
            if not _is_missing(value):
                self.read.add(column)
                return value
        return None

    def unused(self) -> list[str]:
        """Columns with a value that nobody read."""
        return [
            str(name)
            for name, value in self.row.items()
            if name not in self.read and not _is_missing(value) and value not in ([], {})
        ]


def _joined(parts: Sequence[Any], inner: list[Any]) -> str:
    """A text of OpenAI's or Hugging Face's content parts, a marker for each picture."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping):
            raise ValueError(f"a part of a message is {repr(part)[:60]}")
        kind = str(part.get("type", "text" if "text" in part else ""))
        if kind in PICTURE_PARTS:
            value = next(
                (part[key] for key in ("image_url", "image", "path", "url") if part.get(key)), None
            )
            inner.append(value)
            texts.append(f"{MARKER}\n")
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise ValueError(f"a message holds a part of the type {kind[:40] or 'unknown'}")
    if None in inner and any(each is not None for each in inner):
        raise ValueError("some pictures of its messages have a path and some have none")
    return "".join(texts)


def _answers(value: Any) -> tuple[str, ...]:
    """Accepted answers of a list, of VQA's [{answer: ...}], or of a JSON list in a cell."""
    if value is None:
        return ()
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        with contextlib.suppress(ValueError):  # an answer may begin with a bracket
            value = json.loads(value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):  # SQuAD's form
        value = value["text"]
    listed = value if isinstance(value, list) else [value]
    answers = [_answer(each) for each in listed if not _is_missing(each)]
    return tuple(answer.strip() for answer in answers)


def _answer(value: Any) -> str:
    """A text, a number, VQA's {answer: ...}, or an object as JSON."""
    if isinstance(value, Mapping):
        if isinstance(value.get("answer"), str):
            return str(value["answer"])
        return json.dumps(value, ensure_ascii=False)
    if _has_parse(value):
        return json.dumps(json.loads(value)["gt_parse"], ensure_ascii=False)
    return _text(value, "answer")


def _has_parse(value: Any) -> bool:
    """Donut's ground truth: a JSON text with the fields under gt_parse."""
    if not isinstance(value, str) or '"gt_parse"' not in value[:2000]:
        return False
    try:
        return "gt_parse" in json.loads(value)
    except (ValueError, TypeError, RecursionError):
        return False


def _text(value: Any, noun: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise ValueError(f"its {noun} is no text but {repr(value)[:60]}")


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))
