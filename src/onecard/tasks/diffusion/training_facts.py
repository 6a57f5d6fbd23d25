"""What a training of a LoRA noted for those who use it later: where it is, and what it says."""

from pathlib import Path
from typing import Any

from onecard.errors import DataError, NotFound, SettingsError
from onecard.runs import record, store
from onecard.tasks.diffusion.configs import EvaluateConfig, GenerateConfig

FACTS = "diffusion.json"
"""Beside loras/: model, trigger, class_prompt, imgsz, height, pictures."""


def training_folder(run_id: str) -> Path:
    """The folder that a training wrote to: named itself, or by its run. Raises SettingsError,
    NotFound."""
    if not run_id.strip():
        raise SettingsError(
            "no training is named",
            why="checkpoints of a training are compared",
            fix="onecard diffusion evaluate RUN, or the folder that holds loras/",
        )
    run_id = run_id.strip().removeprefix("run:")
    path = Path(run_id).expanduser()
    if run_id == "last" and (newest := last_folder(FACTS)):
        return newest
    if path.is_dir():
        folders = [path, path.parent] if path.name == "loras" else [path, path / "artifacts"]
    else:
        folders = store.output_folders(store.find(run_id))
    for folder in folders:
        if (folder / FACTS).is_file():
            return folder
    raise NotFound(
        f"{run_id} is no training of a LoRA",
        why=f"it has no {FACTS}",
        fix="the run or the --output_dir of onecard diffusion train",
    )


def last_folder(pattern: str) -> Path | None:
    """Where the newest training left a file of such a name: the newest run of all is often the
    pictures or the comparison that were made since."""
    for run in store.recent(100_000):
        if (run.task, run.command) != ("diffusion", "train"):
            continue
        try:
            folders = store.output_folders(run)
        except SettingsError:  # its settings are damaged
            continue
        for folder in folders:
            if any(folder.glob(pattern)):
                return folder
    return None


def read(config: EvaluateConfig, folder: Path) -> dict[str, Any]:
    """The facts, with the base's place of today. Raises DataError."""
    path = folder / FACTS
    facts = record.read_json(path)
    if not _is_usable(facts):
        raise DataError(
            f"{path} is not usable",
            why="it names no model and no pictures: it is damaged or of another program",
            fix="start the training again with --resume: it is written anew",
        )
    if config.model:
        facts["model"] = config.model
    elif not Path(str(facts["model"])).exists():
        facts["model"] = str(facts.get("name") or facts["model"])
    return facts


def _is_usable(facts: dict[str, Any]) -> bool:
    """Whether the values are of the kinds that a training writes."""
    kinds = {**dict.fromkeys(("imgsz", "height"), int), "validation_prompts": list}
    return (
        isinstance(facts.get("model"), str)
        and bool(facts["model"].strip())
        and isinstance(facts.get("pictures"), list)
        and all(isinstance(row, dict) for row in facts["pictures"])
        and all(isinstance(facts.get(name, kind()), kind) for name, kind in kinds.items())
    )


def as_generation(config: EvaluateConfig) -> GenerateConfig:
    """What a comparison does most of the time, for its plan. Raises SettingsError, NotFound,
    DataError."""
    facts = read(config, training_folder(config.run_id))
    return GenerateConfig(
        model=str(facts["model"]),
        imgsz=int(facts.get("imgsz") or 0),
        height=int(facts.get("height") or 0),
        quant=str(facts.get("quant") or "fp16"),
        num_images=config.batch,
    )
