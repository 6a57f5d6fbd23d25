"""Finds runs. Knows the folder's files, not the tasks."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from onecard import config as configs
from onecard import fsio, paths
from onecard.config import C, Layer
from onecard.errors import DataError, NotFound, not_found
from onecard.runs.record import read_json, this_machine

NOTE = "note.md"


@dataclass(frozen=True)
class RunRecord:
    """A run that lies on the disk."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def about(self) -> dict[str, Any]:
        return read_json(self.folder / "run.json")

    @property
    def task(self) -> str:
        """onecard 0.1 wrote it as `kind`."""
        return str(self.about.get("task") or self.about.get("kind") or "")

    @property
    def command(self) -> str:
        """onecard 0.1 wrote it as `verb`, and the words of the command line as `command`."""
        command = self.about.get("command")
        return command if isinstance(command, str) else str(self.about.get("verb") or "")

    @property
    def argv(self) -> list[str]:
        """The command line; onecard 0.1 wrote it as `command`."""
        words = self.about.get("argv") or self.about.get("command") or []
        return [str(word) for word in words] if isinstance(words, list) else []

    @property
    def status(self) -> str:
        """running, done, failed, stopped, killed, or unknown: started on another machine, whose
        processes nobody sees from here."""
        try:
            status = (self.folder / "status").read_text().strip()
        except OSError:
            return "unknown"
        return _fate(self.folder, self.about) if status == "running" else status

    @property
    def note(self) -> str:
        """What the user wrote of the run."""
        try:
            return (self.folder / NOTE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def set_note(self, text: str) -> None:
        """Raises DataError where the disk is full."""
        fsio.write_text(self.folder / NOTE, text)

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        metrics = read_json(self.folder / "scores.json").get("metrics")
        if not isinstance(metrics, dict):
            return {}
        return {
            name: row
            for name, row in metrics.items()
            if isinstance(row, dict) and isinstance(row.get("value"), int | float | None)
        }

    def config(self, schema: type[C]) -> C:
        """The settings of the run as a config of this onecard; what it does not know is passed
        over. Raises SettingsError."""
        values = self.settings()
        known = {
            name: value
            for name, value in values.items()
            if configs.renamed(name, schema) in schema.model_fields
        }
        return configs.load(schema, Layer(self.id, known))

    def settings(self) -> dict[str, Any]:
        return configs.read_toml(self.folder / "settings.toml")

    def items(self) -> dict[str, dict[str, Any]]:
        """Evaluated items by id. Raises DataError with file:line."""
        path = self.folder / "artifacts" / "items.jsonl"
        rows: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return rows
        # by \n alone: an answer may hold U+2028, at which splitlines would cut
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.split("\n"), 1):
            if not line:
                continue
            try:
                row = dict(json.loads(line))
                rows[str(row["id"])] = row
            except (ValueError, KeyError, TypeError) as fault:
                raise DataError(
                    f"{path}:{number} is no item of a run",
                    why=str(fault),
                    fix="remove the line, or evaluate again",
                ) from None
        return rows

    def data_differs(self, other: "RunRecord") -> bool:
        """Whether the two runs read other questions; what was never noted counts as equal."""
        mine, theirs = (read_json(run.folder / "data.json") for run in (self, other))
        return any(
            _digest(mine[k]) != _digest(theirs[k])
            for k in mine.keys() & theirs.keys()
            if k.startswith("questions")
        )

    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        rows = []
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break  # a run that was killed may end in half a line
            if isinstance(row, dict):
                rows.append(row)
        return rows


def _digest(row: Any) -> Any:
    """Of a data file, as data.json has it."""
    return row.get("sha256") if isinstance(row, dict) else None


def _fate(folder: Path, about: dict[str, Any]) -> str:
    """What became of a run that wrote no end: running, killed or unknown."""
    machine, here = about.get("machine"), this_machine()
    if isinstance(machine, dict):
        if machine.get("host") != here.get("host") or (
            machine.get("boot") == here.get("boot") and machine.get("pids") != here.get("pids")
        ):
            return "unknown"
        if machine.get("boot") != here.get("boot"):
            return "killed"  # the machine was started anew since
    pid = about.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool):
        return "unknown"
    start = about.get("process_start")
    if start:
        return "running" if fsio.process_start(pid) == start else "killed"
    # an older onecard, or a system without /proc: the process must have begun before the record
    try:
        process = psutil.Process(pid)
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        older = process.create_time() <= (folder / "run.json").stat().st_mtime + 1
    except (psutil.Error, OSError, ValueError, OverflowError):
        return "killed"
    return "running" if older and not ended else "killed"


def recent(limit: int = 50) -> list[RunRecord]:
    """The newest first."""
    home = paths.runs()
    folders = [path.parent for path in home.glob("*/run.json")] if home.is_dir() else []
    return [
        RunRecord(folder)
        for folder in sorted(folders, key=lambda folder: folder.name, reverse=True)[:limit]
    ]


def find(name: str) -> RunRecord:
    """By its whole id, a part of it that only one has, or 'last', which is never the run that this
    process has just started. Raises NotFound."""
    known = recent(100_000)
    if name == "last" and (others := [run for run in known if not _is_own(run)]):
        return others[0]
    hits = [run for run in known if run.id == name] or [
        run for run in known if name and name in run.id
    ]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise NotFound(
            f"'{name}' is the name of {len(hits)} runs",
            why=", ".join(run.id for run in hits[:5]) + (" ..." if len(hits) > 5 else ""),
            fix="write more of the ID",
        )
    raise not_found("run", name, [run.id for run in known], "onecard runs list")


def _is_own(run: RunRecord) -> bool:
    """Whether this process started it, and still works on it."""
    return run.about.get("pid") == os.getpid() and run.status == "running"


def result_model(name: str) -> Path:
    """The model file that a run left: a GGUF, else a folder of safetensors. 'last' is the newest
    run that left one.

    Raises NotFound.
    """
    runs = [find(name)]
    if name == "last":
        runs = [run for run in recent(100_000) if not _is_own(run)]
    for run in runs:
        named = Path(str(read_json(run.folder / "artifacts" / "result.json").get("model", "")))
        if named.suffix == ".gguf" and named.is_file():
            return named
        for folder in output_folders(run):
            files = sorted(folder.rglob("*.gguf")) or sorted(folder.rglob("*.safetensors"))
            if files:
                return files[0] if files[0].suffix == ".gguf" else files[0].parent
    raise NotFound(
        f"run {name} left no model",
        why=f"no .gguf or .safetensors in {runs[0].folder / 'artifacts'}"
        if len(runs) == 1
        else f"none of {len(runs)} runs has a .gguf or .safetensors",
        fix="onecard runs list",
    )


def output_folders(run: RunRecord) -> list[Path]:
    """Where a run may have left its results: its own folder, and the user's --output_dir."""
    named = str(run.settings().get("output_dir") or "")
    folders = [run.folder / "artifacts", *([Path(named).expanduser()] if named else [])]
    return [folder for folder in folders if folder.is_dir()]
