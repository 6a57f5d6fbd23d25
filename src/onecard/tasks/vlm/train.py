"""onecard vlm train: a light fine-tune of a vision-language model with its proof. Validation,
answers of the base with their controls, training, the same answers again."""

import shlex
from typing import Any

import torch

from onecard.errors import DoesNotFit
from onecard.memory import number_types
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.vlm import held_out_rows, memory, model, training_data, tuning
from onecard.tasks.vlm.configs import TrainConfig, VisionTrainConfig
from onecard.tasks.vlm.model import Vlm
from onecard.tasks.vlm.training_data import LargestPictures
from onecard.tasks.vlm.validation import ValidationReport
from onecard.training import number_type, output_dir
from onecard.units import gib

MAY_CHANGE = (
    "num_train_epochs",
    "max_steps",
    "save_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "eval_items",
    "max_new_tokens",
    "controls",
    "metric",
    "imgsz",
    "height",
    "num_images",
    "report_to",
    "output_dir",
    "resume",
)
"""Settings that a resumed training may have otherwise: they change neither what is trained nor what
is learned from, or an out-of-memory fallback changes them."""
PLACES = ("data", "images", "eval_data")
"""Settings that name places: what lies there counts, not where it lies."""


def train(config: TrainConfig, run: Run) -> Result:
    """Tune, and say whether it is better and whether that comes from the pictures.

    Raises OneCardErrors. An out-of-memory error is left to api.run, which calls again with settings
    that need less.
    """
    report = held_out_rows.validated(config, run)
    run.reporter.line(report.render())
    config, autocast = precise(config, run)
    vlm = model.load(
        config.model,
        config,
        dtype=autocast or torch.float32,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        reporter=run.reporter,
    )
    return run_training(vlm, config.model, report, config, run, "train")


def precise(config: Any, run: Run) -> tuple[Any, torch.dtype | None]:
    """(the config with the width that this device computes in, the type of frozen weights or None
    for fp32)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = number_types.here(device)
    config = config.model_copy(update={"bf16": number_types.in_bf16(config, machine)})
    autocast = tuning.autocast_type(config, device)
    number_type.announce(autocast is not None, machine, run.reporter)
    return config, autocast


def run_training(
    vlm: Vlm,
    base_name: str,
    report: ValidationReport,
    config: VisionTrainConfig,
    run: Run,
    command: str,
) -> Result:
    """The folder of a training, and all that is done in it. Raises OneCardErrors."""
    identity = _identity(config, report)
    with output_dir.training_folder(
        config.output_dir, run, identity, resume=config.resume, may_change=MAY_CHANGE
    ) as out:
        data = training_data.prepare(config, report, vlm)
        training_data.record(data, out, run)
        largest = training_data.largest_pictures(vlm, data)
        run.reporter.line(
            f"{len(data.train):,} rows to train on, {len(data.evaluation):,} to judge by; "
            + largest.render()
        )
        require_fit(largest, config, run)
        try:
            tuned = tuning.tune(vlm, base_name, data, config, out, run)
        except KeyboardInterrupt:
            run.reporter.line(
                f"stopped; to continue: onecard vlm {command} ... --output_dir "
                f"{shlex.quote(str(out))} --resume"
            )
            raise
    lines = [*tuned.verdicts, *(f"wrote {path}" for path in tuned.files)]
    if run.id:
        lines.append(f'ask it: onecard vlm ask PICTURE "question" --model run:{run.id}')
    return Result(
        {
            "metrics": tuned.metrics,
            "verdicts": tuned.verdicts,
            "output_dir": str(out),
            "files": [str(path) for path in tuned.files],
        },
        "\n".join(lines),
    )


def _identity(config: VisionTrainConfig, report: ValidationReport) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude={*MAY_CHANGE, *PLACES})
    return {**settings, "rows": report.fingerprint}


def require_fit(largest: LargestPictures, config: VisionTrainConfig, run: Run) -> None:
    """The plan again, for the pictures that the rows have: before, only the settings were known.

    Raises DoesNotFit.
    """
    device = run.plan.device
    width, height = largest.size
    if not width or not device.real:
        return
    sized = config.model_copy(
        update={
            "imgsz": config.imgsz or width,
            "height": config.height or height,
            "num_images": config.num_images or largest.a_row,
        }
    )
    plan = memory.plan(sized, device)
    if not plan.fits:
        part = plan.largest()
        raise DoesNotFit(
            f"rows with pictures of {width}x{height} px need {gib(plan.total_bytes)}; "
            f"{gib(device.free_bytes)} is free on {device.name}",
            why=f"the largest part is {part.name}, {gib(part.bytes)}: {part.reason}",
            fix="--max_pixels 1000000 makes large pictures smaller; or --load_in_4bit, "
            "--gradient_checkpointing",
        )
