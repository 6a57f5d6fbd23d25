"""Pictures of the class without the trigger, which a training learns as well so that they stay as
they were (Ruiz et al. 2022, DreamBooth)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.config import absolute_path
from onecard.errors import DataError, NotFound, SettingsError
from onecard.reporting import Reporter
from onecard.runs.record import Run
from onecard.tasks.diffusion import captions, dataset, pipeline
from onecard.tasks.diffusion.configs import CaptionedDataConfig, TrainConfig
from onecard.tasks.diffusion.dataset import TrainingPicture
from onecard.training.interrupt import graceful_interrupt

SEED = 1_000_000
"""Of the first class picture: far from the seeds of sample grids and comparisons."""


def require(config: TrainConfig) -> None:
    """Raises SettingsError where class pictures are wanted and nothing says of what, NotFound,
    DataError for a folder that has none."""
    if not config.with_prior_preservation:
        return
    if not config.class_prompt.strip():
        raise SettingsError(
            "class pictures have no caption",
            why="prior preservation learns pictures of the class beside yours, under a prompt",
            fix='--class_prompt "a dog", what the trigger is one of',
        )
    if config.class_data:
        with _named():
            dataset.require_pictures(CaptionedDataConfig(data=config.class_data))


@contextmanager
def _named() -> Iterator[None]:
    """Faults of the folder with the flag that names it here."""
    fix = "--class_data with a folder of pictures of the class; without it the base makes them"
    try:
        yield
    except NotFound as fault:
        raise NotFound(fault.what, why=fault.why, fix=fix) from None
    except DataError as fault:
        raise DataError(fault.what, why=fault.why, fix=fix) from None


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
        caption_source="auto" if config.class_data else "template",
        imgsz=config.imgsz,
        buckets=config.buckets,
        min_side=config.min_side,
        allow_duplicates=True,
    )
    with _named():
        class_set = dataset.read(settings, side, step, Reporter())
    if class_set.rejected:
        names = captions.shown([": ".join(row) for row in class_set.rejected])
        run.reporter.warn(f"{len(class_set.rejected)} class pictures are left out: {names}")
    rows = class_set.pictures[: config.num_class_images]
    # no template, in which {words} would be filled in
    plain = [row.name for row in rows if row.caption_source == "template"]
    return dataset.with_captions(rows, dict.fromkeys(plain, config.class_prompt))


def _generate(config: TrainConfig, loaded: Any, side: int, folder: Path, run: Run) -> None:
    """What is missing of num_class_images, each on a seed of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(config.num_class_images)
    left = [i for i in numbers if not (folder / f"{i:05d}.png").is_file()]
    if not left:
        return
    run.reporter.line(f"{len(left)} pictures of '{config.class_prompt}' are made by the base")
    sampling = pipeline.Sampling(width=side, height=side)
    flagged = 0
    with graceful_interrupt() as interrupt, run.reporter.progress("class", len(left)) as bar:
        texts = [config.class_prompt] * len(left)
        seeds = [SEED + i for i in left]
        for batch in pipeline.batches(
            loaded, texts, seeds, sampling, batch_size=config.train_batch_size
        ):
            for picture in batch:
                if picture.flagged:  # black: the class would be learned as black
                    flagged += 1
                    continue
                with fsio.atomic_write(folder / f"{picture.seed - SEED:05d}.png") as draft:
                    picture.image.save(draft, "PNG")
            bar.step(len(batch))
            if interrupt.requested:
                raise KeyboardInterrupt
    if flagged:
        run.reporter.warn(
            f"the safety checker blackened {flagged} class pictures, which are not learned from"
        )
