"""The folder that a training writes to: where it is, who may write to it, and what is in it."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onecard import fsio
from onecard.errors import DataError, SettingsError
from onecard.runs.record import Run
from onecard.training.config import VisionTrainConfig
from onecard.units import size

MANIFEST = "training.json"


def resolve(output_dir: str, run: Run) -> Path:
    """`output_dir`, else the artifacts folder of the run, else `artifacts` in the current folder
    for a run that records nothing."""
    if output_dir:
        return Path(output_dir).expanduser()
    return (run.folder or Path.cwd()) / "artifacts"


@contextmanager
def training_folder(
    output_dir: str,
    run: Run,
    identity: Mapping[str, Any],
    *,
    resume: bool,
    may_change: Sequence[str] = (),
) -> Iterator[Path]:
    """The folder of one training, locked and with its manifest written.

    Raises SettingsError as `lock` and `write_manifest` do.
    """
    out = resolve(output_dir, run)
    with lock(out):
        explicit = bool(output_dir)
        write_manifest(
            out, identity, run.id, resume=resume, explicit=explicit, may_change=may_change
        )
        yield out


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Create the folder and hold its lock. Raises SettingsError when another training holds it, or
    it cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file_lock = FileLock(out / ".lock", timeout=0)
        file_lock.acquire()
    except Timeout:
        raise SettingsError(
            f"{out} is in use",
            why="another training is writing to it",
            fix="--output_dir elsewhere, or wait for the other training to end",
        ) from None
    except OSError as fault:
        raise SettingsError(
            f"{out} cannot be written to",
            why=fault.strerror or str(fault),
            fix="--output_dir with a folder of your own",
        ) from None
    try:
        yield
    finally:
        file_lock.release()


def write_manifest(
    out: Path,
    identity: Mapping[str, Any],
    run_id: str,
    *,
    resume: bool,
    explicit: bool,
    may_change: Sequence[str] = (),
) -> None:
    """Record what is trained in the folder: `identity` holds the settings that a resumed training
    must share with the first one.

    `explicit`: the user named the folder with --output_dir. Raises SettingsError where the folder
    belongs to another training, or where there is nothing to resume.
    """
    manifest = out / MANIFEST
    if manifest.exists():
        previous = json.loads(manifest.read_text(encoding="utf-8"))
        differences = [
            f"{key} {previous.get(key)!r}"
            for key, value in identity.items()
            if key in previous and previous[key] != value
        ]
        if previous.get("run") != run_id and not resume:
            raise SettingsError(
                f"{out} holds another training",
                why=f"run {previous.get('run') or 'unknown'} wrote to it",
                fix="--resume to continue it, or --output_dir elsewhere",
            )
        if differences and resume:
            raise SettingsError(
                f"the training in {out} differs from this one",
                why=f"it was started with {', '.join(differences)}",
                fix="the same data and settings as before"
                + (f" ({', '.join(may_change)} may change)" if may_change else "")
                + ", or --output_dir elsewhere",
            )
    elif resume and not (out / "checkpoints").is_dir():
        raise SettingsError(
            "there is nothing to resume",
            why=f"{out} holds no training" + ("" if explicit else "; --output_dir is not set"),
            fix="--output_dir with the folder of the stopped training",
        )
    fsio.write_text(manifest, json.dumps({**identity, "run": run_id}))


def vision_identity(
    config: VisionTrainConfig, labels: str, classes: Sequence[str]
) -> dict[str, Any]:
    """What a resumed training of a vision model must share with the one before: settings, the
    fingerprint of its labels, its classes. The batch is not among them, so that a smaller one can
    go on."""
    names = ("model", "imgsz", "height", "epochs", "seed", "optimizer", "lr0", "freeze", "ema")
    values = {name: getattr(config, name) for name in names}
    return {**values, "train": labels, "classes": list(classes)}


def require_space(
    folder: Path,
    n_bytes: int,
    what: str = "a checkpoint",
    fix: str = "free some disk space, or --output_dir elsewhere",
) -> None:
    """Raises DataError where the disk of `folder` has less than `n_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise DataError(
            f"{folder} has no room for {what}",
            why=f"{size(free)} are free, {size(n_bytes)} are needed",
            fix=fix,
        )
