"""Your files to samples: Alpaca, ShareGPT, messages, prompt/completion, question/answer, preference
pairs, CSV, Parquet, XML. Knows no model.

A row that cannot be read is never dropped silently: it comes back with its place and what is wrong
with it.
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
PARTS = ("system", "prompt", "completion", "rejected", "group", "item")
PROMPTS = ("prompt", "question", "instruction", "query", "Question")
ANSWERS = ("completion", "answer", "output", "response", "chosen", "Answer")
GROUPS = ("group", "document", "doc_id", "document_id", "source_file")


@dataclass(frozen=True)
class Sample:
    """One talk that ends with an answer; `rejected` is the worse answer of a preference pair."""

    messages: tuple[dict[str, str], ...]
    where: str
    """file:line it came from."""
    group: str = ""
    """What belongs together in a split: its document. Empty: it stands alone."""
    rejected: str = ""

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"]

    @property
    def question(self) -> str:
        return next((m["content"] for m in reversed(self.messages[:-1]) if m["role"] == "user"), "")

    @property
    def key(self) -> str:
        """The same for the same words, whatever their spaces and case."""
        text = "\x1f".join(
            f"{m['role']}:{' '.join(m['content'].lower().split())}" for m in self.messages
        )
        return hashlib.sha256(
            f"{text}\x1f{' '.join(self.rejected.lower().split())}".encode()
        ).hexdigest()[:24]


@dataclass(frozen=True)
class RejectedRow:
    where: str
    why: str
    raw: str


@dataclass
class Read:
    samples: list[Sample] = field(default_factory=list)
    broken: list[RejectedRow] = field(default_factory=list)


def read(path: Path, columns: Sequence[str] = ()) -> Read:
    """All samples of a file or folder.

    Raises NotFound, SettingsError, DataError where no row can be used.
    """
    names = _columns(columns)
    if not path.exists():
        raise NotFound(
            f"there is no dataset {path}",
            why="nothing lies at that path",
            fix="--dataset FILE.jsonl, or a folder of XML files",
        )
    out = Read()
    files = (
        sorted(
            p
            for p in path.rglob("*")
            if p.suffix.lower() in (".xml", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
        )
        if path.is_dir()
        else [path]
    )
    if not files:
        raise DataError(
            f"{path} holds no data",
            why="no .jsonl, .json, .csv, .tsv, .parquet or .xml lies in it",
            fix="give a file in one of these forms",
        )
    for file in files:
        for where, row in _rows(file, names):
            if isinstance(row, RejectedRow):
                out.broken.append(row)
                continue
            try:
                found = list(_samples(row, names, where))
                out.samples += found
            except ValueError as fault:
                out.broken.append(
                    RejectedRow(
                        where,
                        str(fault),
                        json.dumps(row, ensure_ascii=False, default=str)[:100_000],
                    )
                )
    if not out.samples:
        first = out.broken[0] if out.broken else None
        raise DataError(
            f"{path} holds no sample",
            why=f"{len(out.broken)} rows are broken; the first, {first.where}: {first.why}"
            if first
            else "it is empty",
            fix='rows like {"prompt": ..., "completion": ...}; other names with --columns '
            "prompt=NAME --columns completion=NAME",
        )
    return out


def _columns(words: Sequence[str]) -> dict[str, str]:
    out = {}
    for word in words:
        part, sign, name = word.partition("=")
        if not sign or part not in PARTS or not name:
            raise SettingsError(
                f"'{word}' names no column",
                why=f"a part and its name are needed; parts: {', '.join(PARTS)}",
                fix="--columns prompt=question --columns completion=reply",
            )
        out[part] = name
    return out


def _rows(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """(file:line, row) of one file; Broken where a line cannot be read."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path)
    elif kind == ".xml":
        yield from _xml(path, names)
    elif kind in (".csv", ".tsv"):
        reader = csv.DictReader(
            io.StringIO(decode(path.read_bytes(), path)[0]),
            delimiter="\t" if kind == ".tsv" else ",",
        )
        csv.field_size_limit(1 << 27)
        try:
            for row in reader:
                yield (
                    f"{path}:{reader.line_num}",
                    {key: value for key, value in row.items() if key and value is not None},
                )
        except csv.Error as fault:
            yield "", RejectedRow(f"{path}:{reader.line_num}", str(fault), "")
    else:
        yield from _json(path)


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
            yield "", RejectedRow(f"{path}:{number}", f"not JSON: {fault}", line[:100_000])


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as parquet  # comes with `datasets`; the only reader of this form

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
    raw = path.read_bytes()
    if b"<!ENTITY" in raw[:65536]:
        yield "", RejectedRow(str(path), "it declares entities, which can blow a file up", "")
        return
    try:
        root = ET.fromstring(raw)
    except ET.ParseError as fault:
        yield "", RejectedRow(str(path), f"not XML: {fault}", raw[:2000].decode(errors="replace"))
        return
    for number, item in enumerate(root.iter(names.get("item", "QAPair")), 1):
        row = {
            part: " ".join("".join(found.itertext()).split())
            for part in ("prompt", "completion")
            if (
                found := item.find(
                    f".//{names.get(part, {'prompt': 'Question', 'completion': 'Answer'}[part])}"
                )
            )
            is not None
        }
        yield (
            f"{path}[{number}]",
            {names.get(part, part): value for part, value in row.items()} | {"group": str(path)},
        )


def _samples(row: Any, names: Mapping[str, str], where: str) -> Iterator[Sample]:
    """One sample, or one for each instance of a seed task. Raises ValueError with what is wrong."""
    if not isinstance(row, dict):
        raise ValueError(f"no JSON object but {str(row)[:60]!r}")
    group = str(_first(row, (names["group"],) if "group" in names else GROUPS) or "")
    rejected = _first(row, (names["rejected"],) if "rejected" in names else ("rejected",))
    talk = row.get("messages") or row.get("conversations") or row.get("conversation")
    if talk:
        yield Sample(_talk(talk), where, group)
        return
    if isinstance(row.get("instances"), list) and isinstance(row.get("instruction"), str):
        for one in row["instances"]:
            yield Sample(
                _pair(row["instruction"], one.get("input"), one.get("output"), None),
                where,
                group or where,
            )
        return
    prompt = _first(row, (names["prompt"],) if "prompt" in names else PROMPTS)
    answer = _first(row, (names["completion"],) if "completion" in names else ANSWERS)
    if rejected is not None and isinstance(
        answer, list
    ):  # whole talks: what they share is the prompt
        chosen, worse = _talk(answer), _talk(rejected)
        lead = (
            _talk(prompt, whole=False)
            if isinstance(prompt, list)
            else ({"role": "user", "content": prompt},)
            if isinstance(prompt, str)
            else ()
        )
        messages = chosen if len(chosen) > 1 else (*lead, chosen[-1])
        yield Sample(messages, where, group, worse[-1]["content"])
        return
    if isinstance(prompt, list):
        yield Sample(
            (
                *_talk(prompt, whole=False),
                *(
                    _talk(answer)
                    if isinstance(answer, list)
                    else ({"role": "assistant", "content": _text(answer)},)
                ),
            ),
            where,
            group,
            _text(rejected) if rejected is not None else "",
        )
        return
    if prompt is None or answer is None:
        raise ValueError(
            f"no {'prompt' if prompt is None else 'answer'} in its columns "
            f"({', '.join(map(str, row))[:120]})"
        )
    system = row.get(names.get("system", "system"))
    yield Sample(
        _pair(prompt, row.get("input"), answer, system),
        where,
        group,
        _text(rejected) if rejected is not None else "",
    )


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"a text is needed, not {str(value)[:60]!r}")


def _pair(prompt: Any, more: Any, answer: Any, system: Any) -> tuple[dict[str, str], ...]:
    said = _text(prompt).strip()
    if isinstance(more, str) and more.strip():  # Alpaca's second half of a question
        said = f"{said}\n\n{more.strip()}"
    head = (
        ({"role": "system", "content": _text(system).strip()},)
        if isinstance(system, str) and system.strip()
        else ()
    )
    return (
        *head,
        {"role": "user", "content": said},
        {"role": "assistant", "content": _text(answer).strip()},
    )


def _talk(turns: Any, whole: bool = True) -> tuple[dict[str, str], ...]:
    """Turns of either form.

    Raises ValueError for an unknown role or a talk that does not end with an answer.
    """
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"a list of turns is needed, not {str(turns)[:60]!r}")
    out = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise ValueError(f"a turn is {str(turn)[:60]!r}")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role not in ROLES:
            raise ValueError(f"the role {role!r} is not known; roles: {', '.join(ROLES)}")
        if isinstance(content, list):  # OpenAI's parts
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        out.append({"role": ROLES[str(role)], "content": _text(content).strip()})
    if whole and out[-1]["role"] != "assistant":
        if len(out) > 1 and out[-2]["role"] == "assistant":
            out = out[:-1]
        else:
            raise ValueError("the talk does not end with an answer")
    return tuple(out)
