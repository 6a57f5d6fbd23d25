"""onecard diffusion train: a LoRA of a style or a subject with its proof. Pictures, class pictures,
caches, training with sample grids, the comparison of its checkpoints, files for other programs."""

import math
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from onecard.errors import SettingsError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.diffusion import (
    adapters,
    captions,
    conditioning,
    dataset,
    outputs,
    pipeline,
    places,
    prior,
    samples,
)
from onecard.tasks.diffusion.configs import TrainConfig
from onecard.tasks.diffusion.dataset import TrainingPicture, TrainingSet
from onecard.tasks.diffusion.inputs import Encoders
from onecard.tasks.diffusion.objective import Objective
from onecard.tasks.diffusion.pipeline import LoadedPipeline
from onecard.tasks.diffusion.trainer import Batches, Trainer, cpu_threads, fit
from onecard.training import output_dir

MAX_VALIDATED = 16
"""Pictures of a validation loss: each is eight passes of the denoiser."""
MAY_CHANGE = (
    "train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "cache_latents",
    "vae_tiling",
    "save_steps",
    "validation_steps",
    "validation_prompts",
    "num_validation_images",
    "num_eval_images",
    "report_to",
    "output_dir",
    "resume",
)
"""Settings that a resumed training may have otherwise: they change neither the adapters' shape nor
what is learned from, or an out-of-memory fallback changes them."""


@dataclass(frozen=True)
class Prepared:
    """All that a training needs, in place."""

    loaded: LoadedPipeline
    pictures: TrainingSet
    class_pictures: tuple[TrainingPicture, ...]
    encoders: Encoders
    prompts: tuple[str, ...]
    """Of the sample grids."""
    side: int


def train(config: TrainConfig, run: Run) -> Result:
    """Raises OneCardErrors. An out-of-memory error is left to api.run, which calls again with
    settings that need less."""
    _require(config)
    loaded = pipeline.load(config.model, quant=config.quant, reporter=run.reporter)
    conditioning.require_unet(loaded.family, config.model)
    side = _side(config, loaded)
    share = config.val_share or None
    pictures = dataset.read(
        config,
        side,
        bucket_step(loaded),
        run.reporter,
        val_share=share,
        seed=config.seed,
        count_tokens=partial(_count_tokens, loaded),
    )
    run.data("pictures", rows=len(pictures.pictures), sha256=pictures.fingerprint)
    identity = _identity(config, pictures.fingerprint)
    with output_dir.training_folder(
        config.output_dir, run, identity, resume=config.resume, may_change=MAY_CHANGE
    ) as out:
        try:
            return _trained(config, loaded, pictures, side, out, run)
        except KeyboardInterrupt:
            run.reporter.line(
                "stopped; to continue: onecard diffusion train ... --output_dir "
                f"{shlex.quote(str(out))} --resume"
            )
            raise


def _trained(
    config: TrainConfig,
    loaded: LoadedPipeline,
    pictures: TrainingSet,
    side: int,
    out: Path,
    run: Run,
) -> Result:
    # 1. class pictures, latents, embeddings
    prepared = _prepare(config, loaded, pictures, side, out, run)
    outputs.write_facts(config, loaded, prepared.pictures, side, out)
    # 2. training
    nets = adapters.attach(loaded.pipe, config)
    trainer = _trainer(config, prepared, nets)
    _fit(config, prepared, trainer, nets, out, run)
    # 3. which checkpoint, and files that other programs load
    loaded.pipe.unload_lora_weights()
    prepared.encoders.restore()
    chosen, verdicts, metrics = outputs.choose(config, loaded, out, run)
    files, notes, differences = outputs.publish(config, loaded, chosen, prepared.pictures, out)
    history = trainer.state.history
    metrics |= differences | outputs.loss_metrics(history)
    run.scores(metrics, verdicts=[*verdicts, *notes])
    outputs.write_card(config, loaded, pictures, metrics, [*verdicts, *notes], out)
    lines = [*verdicts, *notes, *(f"wrote {path}" for path in files)]
    lines.append(
        f"use it: onecard diffusion generate {shlex.quote(prepared.prompts[0])} --model "
        f"{shlex.quote(config.model)} --lora {shlex.quote(str(files[0]))}"
    )
    data = {
        "metrics": metrics,
        "verdicts": [*verdicts, *notes],
        "output_dir": str(out),
        "files": [str(path) for path in files],
        "checkpoint": str(chosen),
    }
    return Result(data, "\n".join(lines))


def _require(config: TrainConfig) -> None:
    """What can be refused before a model is loaded or downloaded. Raises SettingsError, NotFound,
    DataError."""
    places.require_writable(config.output_dir)
    dataset.require_pictures(config)
    prior.require(config)
    captions.filled_template(config)
    captions.require_text("class_prompt", config.class_prompt)
    captions.require_text("validation_prompts", " ".join(config.validation_prompts))
    if config.method != "lora":
        raise SettingsError(
            "the whole denoiser cannot be trained here",
            why="--method full is planned only: of a few dozen pictures it learns them by heart",
            fix="--method lora",
        )


def _side(config: TrainConfig, loaded: LoadedPipeline) -> int:
    width = config.imgsz or config.height or loaded.side
    return math.isqrt(width * (config.height or width))


def bucket_step(loaded: LoadedPipeline) -> int:
    """What sides of a bucket are multiples of (px): the denoiser halves the latents so often."""
    levels = len(loaded.pipe.unet.config.block_out_channels)
    return loaded.factor * int(2 ** (levels - 1))


def _count_tokens(loaded: LoadedPipeline, text: str) -> int:
    return len(loaded.pipe.tokenizer(text, truncation=False).input_ids)


def _identity(config: TrainConfig, fingerprint: str) -> dict[str, Any]:
    """What a resumed training must share with the one before."""
    settings = config.model_dump(mode="json", exclude={*MAY_CHANGE, "data", "class_data"})
    return {**settings, "pictures": fingerprint}


def _prepare(
    config: TrainConfig,
    loaded: LoadedPipeline,
    pictures: TrainingSet,
    side: int,
    out: Path,
    run: Run,
) -> Prepared:
    class_pictures = prior.pictures(config, loaded, side, bucket_step(loaded), out, run)
    encoders = Encoders(
        loaded.pipe,
        loaded.family,
        loaded.device,
        out / "cache",
        caches=config.cache_latents,
        trains_text=config.train_text_encoder,
        flip=config.flip,
        reporter=run.reporter,
    )
    prompts = samples.prompts(config, [picture.caption for picture in pictures.pictures])
    usable = encoders.prepare(pictures.pictures, [*prompts, ""])
    val = encoders.prepare(pictures.val, ()) if pictures.val else ()
    rest = encoders.prepare(class_pictures, ()) if class_pictures else ()
    encoders.release()
    kept = TrainingSet(usable, val, pictures.rejected, pictures.warnings, pictures.fingerprint)
    return Prepared(loaded, kept, rest, encoders, tuple(prompts), side)


def _trainer(config: TrainConfig, prepared: Prepared, nets: dict[str, nn.Module]) -> Trainer:
    pipe = prepared.loaded.pipe
    if config.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
        for name, net in nets.items():
            if name != "unet":
                net.gradient_checkpointing_enable()  # type: ignore[operator]
    objective = Objective.of(
        pipe.scheduler, config.prediction_type, config.snr_gamma, config.noise_offset
    )
    loaded = prepared.loaded
    return Trainer(pipe, loaded.family, nets, objective, prepared.encoders, config, loaded.device)


def _fit(
    config: TrainConfig,
    prepared: Prepared,
    trainer: Trainer,
    nets: dict[str, nn.Module],
    out: Path,
    run: Run,
) -> None:
    pictures = prepared.pictures.pictures
    held_out = prepared.pictures.val[:MAX_VALIDATED]
    batches = Batches(pictures, config.train_batch_size, config.seed)
    class_pictures = prepared.class_pictures
    others = (
        Batches(class_pictures, config.train_batch_size, config.seed) if class_pictures else None
    )

    def on_validation(step: int) -> dict[str, float]:
        name = "validation_mse" if held_out else "training_pictures_mse"
        loss = trainer.validation_loss(held_out or pictures[:MAX_VALIDATED])
        _sample_grid(config, prepared, step, out, run)
        return {name: loss}

    def on_save(step: int) -> None:
        outputs.write_checkpoint(config, prepared.loaded, nets, step, pictures, out)

    sizes = {picture.bucket for picture in (*pictures, *class_pictures)}
    with cpu_threads(trainer, sizes):
        fit(trainer, batches, others, out, run, on_validation=on_validation, on_save=on_save)


def _sample_grid(config: TrainConfig, prepared: Prepared, step: int, out: Path, run: Run) -> None:
    """OUT/samples/step-000100.png, and in the run's report."""
    loaded, encoders = prepared.loaded, prepared.encoders
    step_px = bucket_step(loaded)
    side = max(step_px, prepared.side // step_px * step_px)
    with samples.decoder_on(loaded.pipe, loaded.device):
        if config.vae_tiling:
            loaded.pipe.vae.enable_tiling()

        def picture(prompt: str, seed: int) -> Any:
            return samples.generate(
                loaded.pipe,
                encoders.embeds([prompt]),
                encoders.embeds([""]),
                seed,
                (side, side),
                loaded.device,
            )

        path = out / "samples" / f"step-{step:06d}.png"
        n = config.num_validation_images
        samples.write_grid(picture, prepared.prompts, n, config.seed, path)
    run.artifact_file(path, f"samples-{step:06d}.png")
