"""Reads training samples: Alpaca, ShareGPT, messages, prompt/completion, question/answer and
preference pairs from JSONL, JSON, CSV, Parquet or XML. Knows no model.

A row that cannot be read is never dropped silently: it is returned as a RejectedRow with its place
and the reason.
"""

import csv
import hashlib
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard.datasets.encoding import decode
from onecard.errors import DataError, NotFound, SettingsError

ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "system": "system",
}
SUFFIXES = (".xml", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
PARTS = ("system", "prompt", "completion", "rejected", "group", "item")
"""What --columns can map to a column of another name."""
PROMPT_COLUMNS = ("prompt", "question", "instruction", "query", "Question")
ANSWER_COLUMNS = ("completion", "answer", "output", "response", "chosen", "Answer")
GROUP_COLUMNS = ("group", "document", "doc_id", "document_id", "source_file")
MAX_RAW_CHARS = 100_000
"""Of a rejected row, what is kept to be shown."""

Message = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """One conversation that ends with an answer; `rejected` is the worse answer of a preference
    pair."""

    messages: tuple[Message, ...]
    source: str
    """file:line it came from."""
    group: str = ""
    """What belongs together in a split, as its document. Empty: a group of its own."""
    rejected: str = ""

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"]

    @property
    def question(self) -> str:
        return next((m["content"] for m in reversed(self.messages[:-1]) if m["role"] == "user"), "")

    @property
    def key(self) -> str:
        """A hash of the text: equal where only whitespace and case differ."""
        text = "\x1f".join(
            f"{m['role']}:{' '.join(m['content'].lower().split())}" for m in self.messages
        )
        return hashlib.sha256(
            f"{text}\x1f{' '.join(self.rejected.lower().split())}".encode()
        ).hexdigest()[:24]


@dataclass(frozen=True)
class RejectedRow:
    source: str
    reason: str
    raw: str


@dataclass
class ParsedDataset:
    samples: list[Sample] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)


def read(path: Path, columns: Sequence[str] = ()) -> ParsedDataset:
    """All samples of a file or folder.

    Raises NotFound, SettingsError, DataError where no row can be used.
    """
    names = _column_names(columns)
    parsed = ParsedDataset()
    for file in _files(path):
        for source, row in _rows(file, names):
            if isinstance(row, RejectedRow):
                parsed.rejected.append(row)
                continue
            try:
                samples = list(_samples(row, names, source))
            except ValueError as fault:
                raw = json.dumps(row, ensure_ascii=False, default=str)[:MAX_RAW_CHARS]
                parsed.rejected.append(RejectedRow(source, str(fault), raw))
            else:
                parsed.samples += samples
    if not parsed.samples:
        why = "it is empty"
        if parsed.rejected:
            first = parsed.rejected[0]
            why = (
                f"{len(parsed.rejected)} rows are broken; the first, {first.source}: {first.reason}"
            )
        raise DataError(
            f"{path} holds no sample",
            why=why,
            fix='rows like {"prompt": ..., "completion": ...}; other names with --columns '
            "prompt=NAME --columns completion=NAME",
        )
    return parsed


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise NotFound(
            f"there is no dataset {path}",
            why="nothing lies at that path",
            fix="--dataset FILE.jsonl, or a folder of XML files",
        )
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"{path} holds no data",
            why="it has no .jsonl, .json, .csv, .tsv, .parquet or .xml file",
            fix="give a file in one of these formats",
        )
    return files


def _column_names(columns: Sequence[str]) -> dict[str, str]:
    names = {}
    for column in columns:
        part, sign, name = column.partition("=")
        if not sign or part not in PARTS or not name:
            raise SettingsError(
                f"'{column}' names no column",
                why=f"PART=NAME is needed, with one of the parts {', '.join(PARTS)}",
                fix="--columns prompt=question --columns completion=reply",
            )
        names[part] = name
    return names


# Files to rows


def _rows(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """(file:line, row) of one file; a RejectedRow where a line cannot be read."""
    match path.suffix.lower():
        case ".parquet":
            yield from _parquet(path)
        case ".xml":
            yield from _xml(path, names)
        case ".csv" | ".tsv":
            yield from _csv(path)
        case _:
            yield from _json(path)


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(
        io.StringIO(decode(path.read_bytes(), path)[0]),
        delimiter="\t" if path.suffix.lower() == ".tsv" else ",",
    )
    csv.field_size_limit(1 << 27)
    try:
        for row in reader:
            cells = {key: value for key, value in row.items() if key and value is not None}
            yield f"{path}:{reader.line_num}", cells
    except csv.Error as fault:
        yield "", RejectedRow(f"{path}:{reader.line_num}", str(fault), "")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    text = decode(path.read_bytes(), path)[0]
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        try:
            for number, row in enumerate(json.loads(text), 1):
                yield f"{path}[{number}]", row
        except (ValueError, RecursionError) as fault:
            raise DataError(
                f"{path} is not JSON",
                why=str(fault),
                fix="write one JSON object a line, as .jsonl: then a broken line costs only itself",
            ) from None
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", json.loads(line)
        except (ValueError, RecursionError) as fault:
            yield "", RejectedRow(f"{path}:{number}", f"not JSON: {fault}", line[:MAX_RAW_CHARS])


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    # pyarrow comes with the package `datasets`; only this format needs it
    import pyarrow.parquet as parquet

    try:
        for number, row in enumerate(parquet.read_table(path).to_pylist(), 1):
            yield f"{path}[{number}]", row
    except (OSError, ValueError) as fault:
        raise DataError(
            f"{path} is no Parquet file",
            why=str(fault)[:200],
            fix="write it again, or save it as CSV",
        ) from None


def _xml(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    data = path.read_bytes()
    if b"<!ENTITY" in data[:65536]:
        # entities that expand to entities fill the memory ("billion laughs")
        yield "", RejectedRow(str(path), "it declares XML entities, which are not expanded", "")
        return
    try:
        root = ET.fromstring(data)
    except ET.ParseError as fault:
        yield "", RejectedRow(str(path), f"not XML: {fault}", data[:2000].decode(errors="replace"))
        return
    tags = {
        "prompt": names.get("prompt", "Question"),
        "completion": names.get("completion", "Answer"),
    }
    for number, item in enumerate(root.iter(names.get("item", "QAPair")), 1):
        row = {"group": str(path)}
        for part, tag in tags.items():
            element = item.find(f".//{tag}")
            if element is not None:
                row[names.get(part, part)] = " ".join("".join(element.itertext()).split())
        yield f"{path}[{number}]", row


# Rows to samples


def _samples(row: Any, names: Mapping[str, str], source: str) -> Iterator[Sample]:
    """One sample, or one for each instance of a seed task. Raises ValueError with the reason."""
    if not isinstance(row, dict):
        raise ValueError(f"no JSON object but {str(row)[:60]!r}")
    group = str(_first(row, (names["group"],) if "group" in names else GROUP_COLUMNS) or "")
    conversation = row.get("messages") or row.get("conversations") or row.get("conversation")
    if conversation:
        yield Sample(_conversation(conversation), source, group)
    elif isinstance(row.get("instances"), list) and isinstance(row.get("instruction"), str):
        for instance in row["instances"]:
            messages = _pair(
                row["instruction"], instance.get("input"), instance.get("output"), None
            )
            yield Sample(messages, source, group or source)
    else:
        yield _prompt_and_answer(row, names, source, group)


def _prompt_and_answer(
    row: Mapping[str, Any], names: Mapping[str, str], source: str, group: str
) -> Sample:
    """A sample of separate columns, whose values are texts or lists of messages."""
    rejected = _first(row, (names["rejected"],) if "rejected" in names else ("rejected",))
    prompt = _first(row, (names["prompt"],) if "prompt" in names else PROMPT_COLUMNS)
    answer = _first(row, (names["completion"],) if "completion" in names else ANSWER_COLUMNS)
    if rejected is not None and isinstance(answer, list):
        return _preference_of_conversations(prompt, answer, rejected, source, group)
    rejected_text = _text(rejected) if rejected is not None else ""
    if isinstance(prompt, list):
        end: tuple[Message, ...]
        if isinstance(answer, list):
            end = _conversation(answer)
        else:
            end = ({"role": "assistant", "content": _text(answer)},)
        messages = (*_conversation(prompt, whole=False), *end)
        return Sample(messages, source, group, rejected_text)
    if prompt is None or answer is None:
        raise ValueError(
            f"no {'prompt' if prompt is None else 'answer'} in its columns "
            f"({', '.join(map(str, row))[:120]})"
        )
    system = row.get(names.get("system", "system"))
    messages = _pair(prompt, row.get("input"), answer, system)
    return Sample(messages, source, group, rejected_text)


def _preference_of_conversations(
    prompt: Any, chosen: list[Any], rejected: Any, source: str, group: str
) -> Sample:
    """Chosen and rejected are whole conversations, whose common beginning is the prompt, or answers
    to a separate prompt."""
    better, worse = _conversation(chosen), _conversation(rejected)
    if len(better) == 1:
        if isinstance(prompt, list):
            better = (*_conversation(prompt, whole=False), *better)
        elif isinstance(prompt, str):
            better = ({"role": "user", "content": prompt}, *better)
    return Sample(better, source, group, worse[-1]["content"])


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"a text is needed, not {str(value)[:60]!r}")


def _pair(prompt: Any, context: Any, answer: Any, system: Any) -> tuple[Message, ...]:
    """`context`: Alpaca's `input`, which continues the instruction."""
    question = _text(prompt).strip()
    if isinstance(context, str) and context.strip():
        question = f"{question}\n\n{context.strip()}"
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(answer).strip()},
    ]
    if isinstance(system, str) and system.strip():
        messages.insert(0, {"role": "system", "content": system.strip()})
    return tuple(messages)


def _conversation(turns: Any, whole: bool = True) -> tuple[Message, ...]:
    """Messages of OpenAI's or ShareGPT's form; `whole`: they must end with an answer.

    Raises ValueError for an unknown role or a conversation without an answer at its end.
    """
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"a list of messages is needed, not {str(turns)[:60]!r}")
    messages = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise ValueError(f"a message is {str(turn)[:60]!r}")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role not in ROLES:
            raise ValueError(f"the role {role!r} is not known; roles: {', '.join(ROLES)}")
        if isinstance(content, list):  # OpenAI's content parts
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        messages.append({"role": ROLES[str(role)], "content": _text(content).strip()})
    if whole and messages[-1]["role"] != "assistant":
        if len(messages) < 2 or messages[-2]["role"] != "assistant":
            raise ValueError("the conversation does not end with an answer")
        messages.pop()
    return tuple(messages)
