"""LoRAs of a command line put on a pipeline: files and weights read, what matched told, and that
they change a picture asserted."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from onecard.errors import DataError, NotFound, SettingsError
from onecard.reporting import Reporter
from onecard.runs import store
from onecard.tasks.diffusion import lora_files, pipeline, training_facts
from onecard.tasks.diffusion.lora_files import LoraFile
from onecard.tasks.diffusion.pipeline import LoadedPipeline

MAX_WEIGHT = 10.0
MAX_LORAS = 20
RESULT = "lora.safetensors"
"""What a training recommends, in its folder."""


@dataclass(frozen=True)
class Choice:
    """A LoRA that the user named."""

    path: Path
    weight: float


def parse(names: Sequence[str]) -> list[Choice]:
    """`FILE`, `FILE:0.8`, `run:ID`, `run:ID:0.8`. Raises SettingsError, NotFound, DataError for a
    pickle: before the model is loaded, which may take minutes."""
    if len(names) > MAX_LORAS:
        raise SettingsError(
            f"{len(names)} LoRAs are named",
            why=f"at most {MAX_LORAS} are mixed",
            fix="leave some out",
        )
    choices = [_choice(name) for name in names]
    for choice in choices:
        lora_files.require_safetensors(choice.path)
    return choices


def _choice(name: str) -> Choice:
    head, separator, tail = name.rpartition(":")
    if not separator or Path(name).expanduser().is_file():
        return Choice(_path(name), 1.0)
    try:
        weight = float(tail)
    except ValueError:
        if Path(head).expanduser().is_file():
            raise _no_weight(head, tail) from None
        return Choice(_path(name), 1.0)
    if head == "run":  # a run's id of digits alone
        return Choice(_path(name), 1.0)
    if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
        raise _no_weight(head, tail)
    return Choice(_path(head), weight)


def _no_weight(head: str, tail: str) -> SettingsError:
    return SettingsError(
        f"the weight '{tail}' of {head} is not usable",
        why=f"a weight is a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}; 1 is as trained",
        fix=f"--lora {head}:0.8",
    )


def _path(name: str) -> Path:
    if not name.strip():
        raise SettingsError(
            "--lora names no file",
            why="it is empty",
            fix="--lora FILE.safetensors, FILE.safetensors:0.8 or run:ID",
        )
    if name.startswith("run:"):
        return of_run(name[4:])
    path = Path(name).expanduser()
    if "://" not in name and path.is_dir():
        return _of_folder(path, name)
    return path


def of_run(run_id: str) -> Path:
    """The LoRA that a training left: its result, else the newest file. `last` is the newest
    training that left one: pictures and comparisons may have been made since.

    Raises NotFound.
    """
    if run_id == "last" and (folder := training_facts.last_folder("*.safetensors")):
        return _of_folder(folder, "run:last")
    run = store.find(run_id)
    for folder in store.output_folders(run):
        if list(folder.glob("*.safetensors")):
            return _of_folder(folder, f"run:{run.id}")
    raise NotFound(
        f"run {run.id} left no LoRA",
        why="its folders hold no .safetensors",
        fix="onecard runs list; --lora FILE.safetensors",
    )


def _of_folder(folder: Path, name: str) -> Path:
    if (folder / RESULT).is_file():
        return folder / RESULT
    files = sorted(folder.glob("*.safetensors"), key=lambda file: (file.stat().st_mtime, file.name))
    if not files:
        raise NotFound(
            f"there is no LoRA in {name}",
            why="it holds no .safetensors",
            fix="--lora FILE.safetensors, FILE.safetensors:0.8 or run:ID",
        )
    return files[-1]


def put_on(
    loaded: LoadedPipeline, choices: Sequence[Choice], prompt: str, reporter: Reporter
) -> list[LoraFile]:
    """Apply them, tell what matched, and assert that the pictures change.

    Raises NotFound, DataError for a file that does not fit or does nothing.
    """
    if not choices:
        return []
    _require_loader(loaded)
    rows = lora_files.apply(loaded, [(choice.path, choice.weight) for choice in choices])
    for (file, fit), choice in zip(rows, choices, strict=True):
        reporter.line(
            f"LoRA {file.path.name}, rank {file.rank}, weight {choice.weight:g}: {fit.render()}"
        )
        if missing := [word for word in file.triggers if not _holds(prompt, word)]:
            shown = ", ".join(f"'{word}'" for word in missing)
            reporter.warn(f"the prompt lacks the trigger of {file.path.name}: {shown}")
    if any(choice.weight for choice in choices):
        difference = effect(loaded, prompt)
        reporter.line(f"LoRA on differs from LoRA off: {difference:.3g} in one denoising step")
    else:
        reporter.warn("every LoRA has the weight 0: the pictures are the base's")
    return [file for file, _ in rows]


def _require_loader(loaded: LoadedPipeline) -> None:
    if not hasattr(loaded.pipe, "load_lora_weights"):
        raise SettingsError(
            f"{loaded.name} takes no LoRA",
            why=f"diffusers loads none into {type(loaded.pipe).__name__}",
            fix="leave out --lora, or --model sd-1.5, sdxl or flux.1",
        )


def _holds(prompt: str, word: str) -> bool:
    """Whether a text holds a word or phrase, whatever its case, not inside another word."""
    pattern = rf"(?<!\w){re.escape(word.lower())}(?!\w)"
    inside = re.search(pattern, prompt.lower()) is not None
    # Chinese stands without blanks around it
    return inside or (not word.isascii() and word.lower() in prompt.lower())


def effect(loaded: LoadedPipeline, prompt: str) -> float:
    """Greatest difference of a latent after one denoising step on fixed noise, LoRAs on and off.

    Raises DataError where there is none, or no number.
    """
    loaded.pipe.enable_lora()
    on = pipeline.first_latents(loaded, prompt)
    loaded.pipe.disable_lora()
    try:
        off = pipeline.first_latents(loaded, prompt)
    finally:
        loaded.pipe.enable_lora()
    if not bool(torch.isfinite(on).all()):
        raise DataError(
            "the LoRA breaks the model",
            why="a denoising step with it gives no numbers (NaN or infinite)",
            fix="a smaller weight: --lora FILE:0.5; or the file is damaged",
        )
    difference = float((on - off).abs().max())
    if difference == 0:
        raise DataError(
            "the LoRA changes nothing",
            why="a denoising step with it is the same as without it: its weights are zeros",
            fix="another file of the same training, or train longer",
        )
    return difference
