"""onecard diffusion evaluate: the checkpoints of a training compared by their pictures."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onecard.errors import NotFound, SettingsError
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run
from onecard.tasks.diffusion import (
    comparison,
    dataset,
    lora_files,
    lora_use,
    outputs,
    pipeline,
    places,
    samplers,
    training_facts,
)
from onecard.tasks.diffusion.configs import CheckConfig, EvaluateConfig
from onecard.tasks.diffusion.pipeline import Sampling
from onecard.training import output_dir

DEFAULT_SIDE = 512


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    places.require_writable(config.output_dir)
    others = lora_use.parse([config.compose_lora] if config.compose_lora else [])
    folder = training_facts.training_folder(config.run_id)
    facts = training_facts.read(config, folder)
    checkpoints = outputs.checkpoint_paths(folder)
    if not checkpoints:
        raise NotFound(
            f"{folder} has no checkpoints",
            why=f"{folder / 'loras'} holds no checkpoint-*.safetensors",
            fix="a training with --save_steps 100 keeps one every 100 steps",
        )
    facts = {**facts, **_pictures_elsewhere(config, facts, run)}
    out = output_dir.resolve(config.output_dir, run)
    _require_free(out, config)
    loaded = pipeline.load(
        str(facts["model"]), quant=str(facts.get("quant") or "fp16"), reporter=run.reporter
    )
    for other in others:  # refused before a picture is made
        file = lora_files.read(other.path)
        lora_files.require_fit(file, lora_files.match(loaded, file), loaded.name)
    samplers.choose(loaded.pipe, config.scheduler)
    result = comparison.compare(
        loaded,
        checkpoints,
        facts,
        config.num_eval_images,
        out,
        run,
        features_name=config.features,
        compose_lora=str(others[0].path) if others else "",
        batch_size=0 if loaded.device.type == "cpu" else config.batch,
        seed=config.seed,
        sampling=replace(
            Sampling(),
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
        ),
    )
    run.scores(result.metrics, verdicts=list(result.lines))
    run.items(result.items())
    lines = [result.render(), *(f"wrote {path}" for path in result.files)]
    data = {
        "recommended": result.recommended,
        "verdict": result.verdict,
        "reason": result.reason,
        "metrics": result.metrics,
        "checkpoint": str(dict(checkpoints).get(result.recommended or 0, "")),
        "files": [str(path) for path in result.files],
        "output_dir": str(out),
    }
    return Result(data, "\n".join(lines), (result.table,))


def _pictures_elsewhere(
    config: EvaluateConfig, facts: Mapping[str, Any], run: Run
) -> dict[str, Any]:
    """The training pictures in --data: those of the training by their content, else all."""
    if not config.data:
        return {}
    side = int(facts.get("imgsz") or DEFAULT_SIDE)
    check = CheckConfig(data=config.data, caption_source="template", min_side=2)
    pictures = dataset.read(check, side, 2, Reporter()).pictures  # nothing is learned from them
    captions = {row.get("sha256"): row.get("caption") for row in facts["pictures"]}
    same = [picture for picture in pictures if picture.sha256 in captions]
    if not same:
        run.reporter.warn(f"{config.data} has none of the training's pictures: all of it is taken")
    rows = [
        {
            "path": str(picture.path),
            "name": picture.name,
            "sha256": picture.sha256,
            "caption": captions.get(picture.sha256, picture.caption),
        }
        for picture in same or pictures
    ]
    return {"pictures": rows}


def _require_free(out: Path, config: EvaluateConfig) -> None:
    """Raises SettingsError where pictures of another comparison lie and no one said --resume."""
    if config.output_dir and not config.resume and (out / "eval").is_dir():
        raise SettingsError(
            f"{out} holds pictures of a comparison",
            why="without --resume nothing that is there is used or written over",
            fix="--resume to go on with them, or --output_dir elsewhere",
        )
