"""Where a pipeline comes from: a folder in diffusers' form, a single safetensors file, a name of
the catalog, a repository of the hub. Refuses all that could run a program."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline

from onecard.errors import DataError, NotFound, SettingsError
from onecard.hub import checkpoints, network
from onecard.memory.architectures import pipeline_folder, pipelines
from onecard.reporting import Reporter

INDEX = "model_index.json"
MAX_INDEX_BYTES = 1 << 20
LIBRARIES = ("diffusers", "transformers")
REPO = re.compile(r"(hf:)?[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    path: Path
    """A folder in diffusers' form, or a single file."""
    variant: str | None = None
    """`fp16` where the files carry that word."""
    class_name: str = ""
    """Of the pipeline, as its folder names it."""


def resolve(name: str, *, download: bool, half: bool, reporter: Reporter) -> Source:
    """`download`: the hub may be asked; `half`: the hub's fp16 files are enough.

    Raises SettingsError, NotFound, DataError.
    """
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="pictures are made by a model",
            fix="--model sd-1.5, sdxl, or a folder in diffusers' form",
        )
    if "://" in name:
        raise NotFound(
            f"{name} is an address",
            why="models are read from a folder, a file or the hub",
            fix="download it first, or give its name on the hub: owner/name",
        )
    path = Path(name).expanduser()
    pipeline_folder.refuse_pickle(path)
    if path.exists() and pipeline_folder.is_named(name):
        return folder(path) if path.is_dir() else _single_file(path)
    if name.startswith((".", "/", "~")) or path.suffix.lower() == ".safetensors":
        raise NotFound(
            f"there is no model {name}",
            why="nothing lies at that path",
            fix="a folder in diffusers' form, a .safetensors file, or a name as sd-1.5 or sdxl",
        )
    return _hub(name, download, half, reporter)


def _single_file(path: Path) -> Source:
    if path.suffix.lower() != ".safetensors":
        raise DataError(
            f"{path} is no model",
            why="a single file is a .safetensors",
            fix="give a .safetensors file or a folder in diffusers' form",
        )
    return Source(path)


def folder(path: Path) -> Source:
    """Raises DataError for what is no pipeline, holds pickles only, or brings a program of its
    own."""
    values = read_index(path)
    name = values.get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise DataError(
            f"{path} names a pipeline that diffusers does not have",
            why=f"_class_name in its {INDEX} is {str(name)[:80]}; a program in a folder is not run",
            fix="a folder that save_pretrained of a diffusers pipeline wrote; or a newer diffusers",
        )
    for component, row in values.items():
        if component.startswith("_") or not isinstance(row, list) or len(row) != 2:
            continue
        library, kind = row
        own = library is None or library in LIBRARIES or hasattr(diffusers.pipelines, library)
        if not own:
            raise DataError(
                f"{component} of {path} is of the unknown library {str(library)[:60]}",
                why="only classes of diffusers and transformers are loaded",
                fix="a folder that save_pretrained of a diffusers pipeline wrote",
            )
        if kind is not None:
            _require_safetensors(path, component)
    variant = "fp16" if _variant_only(path) else None
    return Source(path, variant, name)


def read_index(path: Path) -> dict[str, Any]:
    """model_index.json. Raises DataError."""
    file = path / INDEX
    try:
        if file.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError("it is larger than 1 MB")
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:
        raise DataError(
            f"{path} is no pipeline",
            why=f"it has no {INDEX}",
            fix="a folder that save_pretrained of a diffusers pipeline wrote",
        ) from None
    except (OSError, ValueError, RecursionError) as fault:
        raise DataError(
            f"{file} cannot be read", why=str(fault)[:200], fix="copy or download it again"
        ) from None
    return values


def _require_safetensors(path: Path, component: str) -> None:
    """Raises DataError for a network that lies there as a pickle only, or not at all."""
    part = path / component
    names = [file.name for file in part.iterdir()] if part.is_dir() else []
    if not names:
        raise DataError(
            f"{path} is not whole",
            why=f"its {INDEX} names {component}, which is missing",
            fix="copy or download it again",
        )
    pickles = [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise DataError(
            f"{path} has no safetensors for {component}",
            why=f"{pickles[0]} is a pickle, which can run any program when it is read",
            fix="save the pipeline again with save_pretrained(..., safe_serialization=True)",
        )


def _variant_only(path: Path) -> bool:
    """Whether the denoiser lies there in the fp16 variant alone."""
    for part in ("unet", "transformer"):
        names = [file.name for file in (path / part).glob("*.safetensors")]
        if names:
            return all(".fp16" in name for name in names)
    return False


# The hub


def repository(name: str) -> str:
    """The repository behind a name. Raises NotFound with the nearest name."""
    if REPO.fullmatch(name):
        return name.removeprefix("hf:")
    known = pipelines.find(name)
    if known.name not in pipelines.REPOS:
        raise NotFound(
            f"{known.name} makes no pictures here",
            why="it makes films, or comes in no form that diffusers opens by name; it is only "
            "planned",
            fix="--model sd-1.5, sdxl, sd3.5-medium, flux.1 or z-image-turbo",
        )
    return pipelines.REPOS[known.name]


def _hub(name: str, download: bool, half: bool, reporter: Reporter) -> Source:
    repo = repository(name)
    online = download and network.hub_reachable()
    if online:
        reporter.line(f"looking for {repo}; what is missing here is downloaded")
    fault: Exception = NotADirectoryError(repo)
    for variant in ("fp16", None) if half else (None, "fp16"):
        try:
            path = DiffusionPipeline.download(
                repo, use_safetensors=True, variant=variant, local_files_only=not online
            )
        except (OSError, ValueError) as error:
            fault = error
            continue
        return folder(Path(path))
    fix = "go online once, or give a folder in diffusers' form: --model FOLDER"
    raise checkpoints.refusal(repo, fault, fix) from fault
