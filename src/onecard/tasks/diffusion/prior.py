"""Pictures of the class without the trigger, which a training learns as well so that they stay as
they were (Ruiz et al. 2022, DreamBooth)."""

from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.config import absolute_path
from onecard.errors import SettingsError
from onecard.runs.record import Run
from onecard.tasks.diffusion import dataset, pipeline
from onecard.tasks.diffusion.configs import CaptionedDataConfig, TrainConfig
from onecard.tasks.diffusion.dataset import TrainingPicture
from onecard.training.interrupt import graceful_interrupt

SEED = 1_000_000
"""Of the first class picture: far from the seeds of sample grids and comparisons."""


def require_prompt(config: TrainConfig) -> None:
    """Raises SettingsError where class pictures are wanted and nothing says of what."""
    if config.with_prior_preservation and not config.class_prompt:
        raise SettingsError(
            "class pictures have no caption",
            why="prior preservation learns pictures of the class beside yours, under a prompt",
            fix='--class_prompt "a dog", what the trigger is one of',
        )


def pictures(
    config: TrainConfig, loaded: Any, side: int, step: int, out: Path, run: Run
) -> tuple[TrainingPicture, ...]:
    """Those of the user's folder, or made by the base in out/class, where they are kept: empty
    without prior preservation.

    Raises DataError for a folder without a picture, KeyboardInterrupt between two pictures.
    """
    if not config.with_prior_preservation:
        return ()
    folder = Path(absolute_path(config.class_data)) if config.class_data else out / "class"
    if not config.class_data:
        _generate(config, loaded, side, folder, run)
    settings = CaptionedDataConfig(
        data=str(folder),
        caption=config.class_prompt,
        caption_source="template",
        imgsz=config.imgsz,
        buckets=config.buckets,
        min_side=config.min_side,
        allow_duplicates=True,
    )
    rows = dataset.read(settings, side, step, run.reporter).pictures
    return rows[: config.num_class_images]


def _generate(config: TrainConfig, loaded: Any, side: int, folder: Path, run: Run) -> None:
    """What is missing of num_class_images, each on a seed of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(config.num_class_images)
    left = [i for i in numbers if not (folder / f"{i:05d}.png").is_file()]
    if not left:
        return
    run.reporter.line(f"{len(left)} pictures of '{config.class_prompt}' are made by the base")
    sampling = pipeline.Sampling(width=side, height=side)
    with graceful_interrupt() as interrupt, run.reporter.progress("class", len(left)) as bar:
        texts = [config.class_prompt] * len(left)
        seeds = [SEED + i for i in left]
        for batch in pipeline.batches(
            loaded, texts, seeds, sampling, batch_size=config.train_batch_size
        ):
            for picture in batch:
                with fsio.atomic_write(folder / f"{picture.seed - SEED:05d}.png") as draft:
                    picture.image.save(draft, "PNG")
            bar.step(len(batch))
            if interrupt.requested:
                raise KeyboardInterrupt
