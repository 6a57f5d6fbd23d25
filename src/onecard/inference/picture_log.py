"""The results of a run over pictures, a line each, as they come: what a stopped run goes on from
and what all other files are made from."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.errors import DataError, SettingsError

RESULTS, SETTINGS = "results.jsonl", "predict.json"
BY = "written_by"
"""In the settings: the run that wrote last."""
END = -2
"""In place of a frame's number: the row that ends a video."""
Key = tuple[str, int]
"""Path of the source and number of the frame; -1 for a picture."""


class ResultsLog:
    """results.jsonl of a folder. A line is written at once and whole; half a line that a power cut
    left is removed. Of two rows of one key the later counts."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, resume: bool, run_id: str = ""
    ) -> None:
        """`run_id`: of this run, which goes on with its own results after memory ran out.

        Raises SettingsError where the folder holds other results, DataError for a folder that
        cannot be written.
        """
        self.path = folder / RESULTS
        self._places: dict[Key, int] = {}
        self._failed: set[Key] = set()
        mark = json.loads(json.dumps(settings))
        if self.path.exists() and self.path.stat().st_size:
            _require_same(folder, mark, resume, run_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as fault:
            raise _unwritable(self.path, fault) from None
        text = json.dumps({**mark, BY: run_id}, indent=2, ensure_ascii=False)
        fsio.write_text(folder / SETTINGS, text + "\n")
        self._read()

    def __enter__(self) -> "ResultsLog":
        return self

    def __exit__(self, *fault: Any) -> None:
        self._file.close()

    def _read(self) -> None:
        """Where each row lies."""
        self._file.seek(0)
        place = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                break
            try:
                row = json.loads(line)
                self._note(row, place)
            except (ValueError, KeyError, TypeError):
                pass  # a broken line is as if it were not there: its picture is looked at again
            place += len(line)

    def _note(self, row: Mapping[str, Any], place: int) -> None:
        frame = END if "end" in row else int(row.get("frame", -1))
        key = (str(row["source"]), frame)
        self._places[key] = place
        (self._failed.add if "error" in row else self._failed.discard)(key)

    def __contains__(self, key: Key) -> bool:
        """Whether the row is there, and no error, which is tried again."""
        return key in self._places and key not in self._failed

    def get(self, key: Key) -> dict[str, Any]:
        """The row of a key that is there."""
        self._file.seek(self._places[key])
        row: dict[str, Any] = json.loads(self._file.readline())
        return row

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises DataError where the disk is full."""
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
        except OSError as fault:
            raise _unwritable(self.path, fault) from None
        self._note(row, place)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows in the order in which they first came, read one by one."""
        for key in self._places:
            yield self.get(key)


def _require_same(folder: Path, mark: Mapping[str, Any], resume: bool, run_id: str) -> None:
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    if not resume and not (run_id and before.get(BY) == run_id):
        raise SettingsError(
            f"{folder} holds results already",
            why=f"{RESULTS} lies in it",
            fix="--resume to go on with them, or --output_dir elsewhere",
        )
    other = [
        f"{key} {before.get(key)!r}" for key, value in mark.items() if before.get(key) != value
    ]
    if other:
        raise SettingsError(
            f"the results in {folder} are of other settings",
            why=f"they were made with {', '.join(other)}"[:400],
            fix="the same settings as before, or --output_dir elsewhere",
        )


def _unwritable(path: Path, fault: OSError) -> DataError:
    return DataError(
        f"{path} cannot be written",
        why=fault.strerror or str(fault),
        fix="free some disk space or choose another folder; then go on with --resume",
    )
