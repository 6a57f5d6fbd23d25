"""What a training of a LoRA leaves: checkpoints, the chosen one in two forms, a card."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onecard import fsio
from onecard.errors import DataError
from onecard.evaluation.stats import Interval
from onecard.runs import record
from onecard.runs.record import Run
from onecard.tasks.diffusion import adapters, lora_files, lora_metadata
from onecard.tasks.diffusion import comparison as comparisons
from onecard.tasks.diffusion.configs import TrainConfig
from onecard.tasks.diffusion.dataset import TrainingPicture, TrainingSet
from onecard.tasks.diffusion.pipeline import LoadedPipeline
from onecard.tasks.diffusion.training_facts import FACTS

FILES = {"diffusers": "lora.safetensors", "kohya": "lora-kohya.safetensors"}
MAX_DIFFERENCE = {"diffusers": 0.0, "kohya": 1e-5}
"""Of the denoiser's output between our loader and another, or another form: what a training's files
are held to."""
PRIVATE = ("data", "class_data", "output_dir", "model", "caption_model", "report_to", "resume")
"""Settings that name places on the user's machine: a LoRA is passed on."""
MAX_TAGS = 1000


def write_facts(
    config: TrainConfig, loaded: LoadedPipeline, pictures: TrainingSet, side: int, out: Path
) -> None:
    """OUT/diffusion.json: what the comparison of checkpoints needs."""
    facts = {
        "model": str(loaded.folder),
        "name": config.model,
        "quant": config.quant,
        "trigger": config.trigger,
        "class_prompt": config.class_prompt,
        "data": config.data,
        "imgsz": side,
        "height": side,
        "validation_prompts": list(config.validation_prompts),
        "pictures": [
            {
                "path": str(picture.path),
                "name": picture.name,
                "caption": picture.caption,
                "sha256": picture.sha256,
                "bucket": list(picture.bucket),
            }
            for picture in pictures.pictures
        ],
    }
    fsio.write_text(out / FACTS, json.dumps(facts, ensure_ascii=False, indent=1))


def checkpoint_path(out: Path, step: int) -> Path:
    return out / "loras" / f"checkpoint-{step:06d}.safetensors"


def checkpoint_paths(out: Path) -> list[tuple[int, Path]]:
    """(step, LoRA file), earliest first."""
    rows = [
        (int(path.stem.rpartition("-")[2]), path)
        for path in (out / "loras").glob("checkpoint-*.safetensors")
        if path.stem.rpartition("-")[2].isdigit()
    ]
    return sorted(rows)


def write_checkpoint(
    config: TrainConfig,
    loaded: LoadedPipeline,
    nets: dict[str, nn.Module],
    step: int,
    pictures: Sequence[TrainingPicture],
    out: Path,
) -> None:
    """OUT/loras/checkpoint-000100.safetensors in diffusers' form."""
    lora_files.write(
        checkpoint_path(out, step),
        adapters.state(nets),
        form="diffusers",
        family=loaded.family,
        alpha=adapters.alpha(config),
        layers=_layers(loaded),
        metadata=metadata(config, loaded, pictures, step),
    )


def _layers(loaded: LoadedPipeline) -> int:
    layers = loaded.pipe.unet.config.layers_per_block
    return int(layers if isinstance(layers, int) else layers[0])


def metadata(
    config: TrainConfig, loaded: LoadedPipeline, pictures: Sequence[TrainingPicture], step: int
) -> dict[str, str]:
    """Trigger, settings and base, without a path of this machine."""
    unet = loaded.pipe.unet.config
    own = loaded.pipe.scheduler.config.get("prediction_type", "epsilon")
    prediction = own if config.prediction_type == "auto" else config.prediction_type
    width = unet.cross_attention_dim
    kind = lora_metadata.kind_of(
        loaded.family, width if isinstance(width, int) else width[0], prediction
    )
    settings = config.model_dump(mode="json", exclude=set(PRIVATE))
    side = config.imgsz or loaded.side
    return lora_metadata.build(
        title=config.trigger or Path(config.data).name,
        kind=kind,
        rank=config.rank,
        alpha=adapters.alpha(config),
        trigger=config.trigger,
        size=(side, config.height or side),
        prediction_type=prediction,
        base=Path(config.model).name,
        tags=dict(Counter(picture.caption for picture in pictures).most_common(MAX_TAGS)),
        settings={**settings, "step": step, "pictures": len(pictures)},
    )


def publish(
    config: TrainConfig,
    loaded: LoadedPipeline,
    chosen: Path,
    pictures: TrainingSet,
    out: Path,
) -> tuple[list[Path], list[str], dict[str, Any]]:
    """(files, verdicts, metrics): the chosen checkpoint in diffusers' and kohya's form, each loaded
    again by our code and by diffusers' own.

    Raises DataError where a file does not give the same picture, or changes nothing.
    """
    file = lora_files.read(chosen)
    state: dict[str, Tensor] = dict(file.tensors)
    files = []
    for form, name in FILES.items():
        path = out / name
        lora_files.write(
            path,
            state,
            form="kohya" if form == "kohya" else "diffusers",
            family=loaded.family,
            layers=_layers(loaded),
            metadata=file.metadata,
        )
        files.append(path)
    prompt = pictures.pictures[0].caption
    verdicts, metrics = _compare_forms(loaded, chosen, files, prompt)
    return files, verdicts, metrics


def _compare_forms(
    loaded: LoadedPipeline, chosen: Path, files: Sequence[Path], prompt: str
) -> tuple[list[str], dict[str, Any]]:
    base = _denoised(loaded, prompt)
    lora_files.apply(loaded, [(chosen, 1.0)])
    own = _denoised(loaded, prompt)
    change = float((own - base).abs().max())
    if not math.isfinite(change):
        raise DataError(
            f"{chosen.name} breaks the model",
            why="the denoiser gives no numbers with it (NaN or infinite)",
            fix="start anew with a smaller --learning_rate and another --output_dir",
        )
    if change == 0:
        raise DataError(
            f"{chosen.name} changes nothing",
            why="the denoiser gives the same with the LoRA and without it",
            fix="more steps or a larger --learning_rate",
        )
    verdicts = [f"with the LoRA the denoiser's output changes by up to {change:.3g}"]
    metrics = {"lora_on_off": _figure(change)}
    for (form, limit), path in zip(MAX_DIFFERENCE.items(), files, strict=True):
        lora_files.apply(loaded, [(path, 1.0)])
        ours = float((_denoised(loaded, prompt) - own).abs().max())
        loaded.pipe.unload_lora_weights()
        loaded.pipe.load_lora_weights(str(path.parent), weight_name=path.name)
        theirs = float((_denoised(loaded, prompt) - own).abs().max())
        loaded.pipe.unload_lora_weights()
        worst = max(ours, theirs)
        allowed = limit + (0 if loaded.dtype == torch.float32 else 1e-2)
        if worst > allowed:
            raise DataError(
                f"{path.name} does not give the checkpoint's picture",
                why=f"the denoiser's output differs by {worst:.3g}, allowed is {allowed:g}",
                fix=f"use {chosen}, and report this",
            )
        metrics[f"{form}_difference"] = _figure(worst)
        verdicts.append(
            f"{path.name} loaded again by onecard and by diffusers differs by {worst:.2g}"
        )
    return verdicts, metrics


@torch.no_grad()
def _denoised(loaded: LoadedPipeline, prompt: str) -> Tensor:
    """Latents of a picture after two steps of the sampler on fixed noise."""
    pipe = loaded.pipe
    result = pipe(
        prompt,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
    latents: Tensor = result.images.float().cpu()
    return latents


def _figure(value: float) -> dict[str, Any]:
    return Interval(value, value, value, 1).as_dict()


def loss_metrics(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """First and last validation loss."""
    if not history:
        return {}
    name = next(key for key in history[0] if key.endswith("_mse"))
    return {
        f"base.{name}": _figure(history[0][name]),
        f"tuned.{name}": _figure(history[-1][name]),
    }


def choose(
    config: TrainConfig, loaded: LoadedPipeline, out: Path, run: Run
) -> tuple[Path, list[str], dict[str, Any]]:
    """(the checkpoint to use, why, metrics): the recommended one, or the last where none was
    compared or the pictures do not tell."""
    rows = checkpoint_paths(out)
    step, path = rows[-1]
    if not config.num_eval_images:
        return path, [f"the last checkpoint (step {step}) is used: none was compared"], {}
    facts = record.read_json(out / FACTS)
    n = config.num_eval_images
    comparison = comparisons.compare(loaded, rows, facts, n, out, run)
    run.reporter.line(comparison.render())
    run.items(comparison.items())
    verdicts = list(comparison.lines[1:])
    if comparison.recommended is None:
        verdicts.append(f"the last checkpoint (step {step}) is used")
    else:
        path = dict(rows)[comparison.recommended]
    return path, verdicts, dict(comparison.metrics)


def write_card(
    config: TrainConfig,
    loaded: LoadedPipeline,
    pictures: TrainingSet,
    metrics: Mapping[str, Any],
    verdicts: Sequence[str],
    out: Path,
) -> None:
    """OUT/MODEL_CARD.md."""
    rows = [f"| {name} | {row['value']:.4g} |" for name, row in metrics.items()]
    trigger = f"`{config.trigger}`" if config.trigger else "none"
    text = [
        f"# LoRA of {config.trigger or Path(config.data).name}",
        "",
        f"For {Path(config.model).name}. Trigger: {trigger}. Rank {config.rank}, "
        f"{config.max_train_steps} steps on {len(pictures.pictures)} pictures of "
        f"{config.imgsz or loaded.side} px.",
        "",
        f"- `{FILES['diffusers']}`: diffusers, onecard, ComfyUI",
        f"- `{FILES['kohya']}`: kohya's names, for A1111, Forge and sd-scripts",
        "- `loras/`: every saved checkpoint",
        "",
        *(f"- {line}" for line in verdicts),
        "",
        "| figure | value |",
        "|---|---|",
        *rows,
        "",
    ]
    fsio.write_text(out / "MODEL_CARD.md", "\n".join(text))
