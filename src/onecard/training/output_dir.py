"""The folder that a training writes to: one training at a time, marked with what is in it, and a
Ctrl-C that loses nothing. Knows no trainer."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onecard import fsio
from onecard.errors import SettingsError


class Stop:
    """The first Ctrl-C (or SIGTERM) asks for a checkpoint after the step, a second one ends at
    once."""

    asked = False

    @contextmanager
    def heard(self) -> Iterator["Stop"]:
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def hear(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        for number in held:
            signal.signal(number, hear)
        try:
            yield self
        finally:
            for number, before in held.items():
                signal.signal(number, before)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Raises SettingsError when another training writes to this folder now."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SettingsError(
            f"{out} is in use",
            why="another training writes to it now",
            fix="--output_dir elsewhere, or wait for it to end",
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_manifest(
    out: Path, mine: Mapping[str, Any], run_id: str, *, resume: bool, named: bool
) -> None:
    """Mark the folder with what is trained in it.

    `named`: the user gave it. Raises SettingsError where another training's work lies there.
    """
    mark = out / "training.json"
    if mark.exists():
        held = json.loads(mark.read_text(encoding="utf-8"))
        differs = [
            f"{key} {held.get(key)!r}" for key, value in mine.items() if held.get(key) != value
        ]
        if held.get("run") != run_id and not resume:
            raise SettingsError(
                f"{out} holds another training",
                why=f"run {held.get('run') or 'unknown'} wrote to it",
                fix="--resume to go on with it, or --output_dir elsewhere",
            )
        if differs and resume:
            raise SettingsError(
                f"{out} holds a training that differs",
                why=f"it had {', '.join(differs)}",
                fix="the same settings as before, or --output_dir elsewhere",
            )
    elif resume and not (out / "checkpoints").is_dir():
        raise SettingsError(
            "there is nothing to go on with",
            why=f"{out} holds no training" + ("" if named else "; --output_dir is not given"),
            fix="--output_dir with the folder of the stopped training",
        )
    fsio.write_text(mark, json.dumps({**mine, "run": run_id}))
