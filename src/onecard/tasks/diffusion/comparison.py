"""Checkpoints of a LoRA compared by their pictures: same prompts, same seeds, the base beside them.

OUT/eval holds the pictures, comparison.json with every score, comparison.svg and grid.png. A
comparison that was stopped goes on with the pictures that are there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onecard import fsio
from onecard.datasets.images import decode
from onecard.errors import DataError, OneCardError, SettingsError
from onecard.evaluation import stats
from onecard.evaluation.stats import Interval
from onecard.reporting import Progress, Table, table
from onecard.runs.record import Run
from onecard.tasks.diffusion import (
    comparison_figures,
    comparison_prompts,
    dataset,
    features,
    fidelity,
    lora_files,
    recommendation,
)
from onecard.tasks.diffusion.comparison_pictures import Job, PictureStore, folder_name, to_vote_on
from onecard.tasks.diffusion.comparison_prompts import TwinPrompt
from onecard.tasks.diffusion.features import Extractor
from onecard.tasks.diffusion.fidelity import Features, Shots
from onecard.tasks.diffusion.pipeline import LoadedPipeline, Sampling
from onecard.tasks.diffusion.recommendation import Recommendation

STEPS = 20
"""Of the sampler, where none are named: what is compared is the same for all."""
MAX_TRAINING = 500
"""Training pictures that generated ones are compared with."""
FIRST_SEED = 20_000
"""Away from those of sample grids."""
PLAIN_SEEDS = 100_000
"""Added to the seeds of pictures without the trigger: one seed gives twin prompts one layout, by
which they would be known again whatever they show."""
COLUMNS = {
    "fidelity": "fidelity",
    "prompt_fidelity": "prompt followed",
    "clip_t": "CLIP-T",
    "diversity": "diversity",
    "drift": "drift",
    "leak": "leak",
    "nearest": "nearest",
    "memorised": "copies",
}
"""Measure -> head of its column; what each is says `LEGEND`."""
COSINE, DISTANCE = (-1.0, 1.0), (0.0, 2.0)
BOUNDS = {
    **dict.fromkeys(("fidelity", "clip_t", "leak", "nearest"), COSINE),
    **dict.fromkeys(("diversity", "drift"), DISTANCE),
    "prompt_fidelity": (0.0, 1.0),
    "memorised": stats.NO_BOUNDS,
}
"""The values that a picture can have; a share of pictures has an interval of its own kind."""
LITTLE = 0.1
"""Of the way from the base to the training pictures' own likeness."""
LEGEND = (
    "fidelity: cosine of {features} to the training pictures, with the trigger. prompt followed: "
    "share of other prompts whose base pictures are less like it than its own (chance .5). "
    "diversity: distance of pictures of one prompt. nearest: cosine to the nearest training "
    "picture; copies: share nearer than training pictures are to each other. Without the trigger: "
    "drift, the distance to the base's picture of the same seed; leak, cosine to the training "
    "pictures."
)


@dataclass(frozen=True)
class Comparison:
    """What the pictures say."""

    table: Table
    recommended: int | None
    """The step to use; None where no checkpoint is shown to have learned anything."""
    verdict: str
    """recommendation.CHOSEN or INCONCLUSIVE."""
    reason: str
    metrics: dict[str, dict[str, Any]]
    """Of the recommended checkpoint, else the last one, and the base: name -> interval."""
    lines: tuple[str, ...] = ()
    """What to tell: the legend, the recommendation, against the last and together with another."""
    files: tuple[Path, ...] = ()
    advice: Recommendation | None = None
    scores: Mapping[int, recommendation.Scores] = field(default_factory=dict)
    """Step -> measure -> id of a picture -> score; the base is step 0."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Id of a picture -> its prompt."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Id of a picture with the trigger -> the words of its prompt."""
    folder: Path | None = None
    """Where the pictures lie."""

    def render(self) -> str:
        return "\n\n".join([self.table, *self.lines])

    def items(self) -> list[dict[str, Any]]:
        """A line for each picture of the recommended checkpoint, else of the last one."""
        step = max(self.scores) if self.recommended is None else self.recommended
        by_id: dict[str, dict[str, float]] = {}
        for name, rows in self.scores[step].items():
            for each, value in rows.items():
                by_id.setdefault(each, {})[name] = value

        def shown(each: str) -> dict[str, Any]:
            folder, text = self.folder, self.texts.get(each)
            return to_vote_on(folder, step, each, text) if folder and text else {}

        return [
            {"id": each, "group": self.groups[each], "scores": values, **shown(each)}
            for each, values in sorted(by_id.items())
        ]


@dataclass
class _Bench:
    """What all checkpoints are measured with."""

    store: PictureStore
    extractor: Extractor
    twins: tuple[TwinPrompt, ...]
    triggered: list[Job]
    plain: list[Job]
    training: Features
    run: Run
    images: dict[int, dict[str, Image.Image]] = field(default_factory=dict)
    """Step -> pictures of the grid."""


def compare(
    loaded: LoadedPipeline,
    checkpoints: Sequence[tuple[int, Path]],
    facts: Mapping[str, Any],
    n: int,
    out: Path,
    run: Run,
    *,
    features_name: str = "auto",
    compose_lora: str = "",
    batch_size: int = 0,
    seed: int = -1,
    sampling: Sampling | None = None,
) -> Comparison:
    """About `n` pictures of each checkpoint with the trigger, and as many without.

    `facts`: OUT/diffusion.json. The pipeline is left without a LoRA.
    Raises SettingsError without a checkpoint, NotFound and DataError where the features or all
    training pictures are missing, or the disk is full.
    """
    if not checkpoints:
        raise SettingsError(
            "there is no checkpoint to compare",
            why=f"{out} holds no LoRA file",
            fix="--save_steps 100 in a training keeps one every 100 steps",
        )
    bench = _prepare(
        loaded, facts, n, out, run, features_name, batch_size, seed, sampling or Sampling()
    )
    scores: dict[int, recommendation.Scores] = {}
    known = []
    try:
        n_pictures = (len(checkpoints) + 1) * (len(bench.triggered) + len(bench.plain))
        bench.store.require_space(n_pictures)
        with run.reporter.progress("pictures compared", n_pictures) as progress:
            base = _shots(bench, 0, [], progress)
            scores[0] = _scores(bench, base, base)
            for step, path in checkpoints:
                try:
                    shots = _shots(bench, step, [(path, 1.0)], progress)
                except OneCardError as fault:
                    if isinstance(fault, SettingsError):
                        raise
                    run.reporter.warn(f"{path.name} is not compared: {fault.what} ({fault.why})")
                    continue
                scores[step] = _scores(bench, shots, base)
                known.append((step, path))
                means = {name: _mean(rows) for name, rows in scores[step].items() if rows}
                run.log(step, **means)
        if not known:
            raise DataError(
                "no checkpoint could be compared",
                why="none of them could be read and laid on the base",
                fix="--model with the base that they were trained on",
            )
        return _result(bench, scores, base, known, compose_lora, out)
    finally:
        lora_files.apply(loaded, [])


def _prepare(
    loaded: LoadedPipeline,
    facts: Mapping[str, Any],
    n: int,
    out: Path,
    run: Run,
    features_name: str,
    batch_size: int,
    seed: int,
    sampling: Sampling,
) -> _Bench:
    values = {
        "width": sampling.width or int(facts.get("imgsz") or 0),
        "height": sampling.height or int(facts.get("height") or facts.get("imgsz") or 0),
        "num_inference_steps": sampling.num_inference_steps or STEPS,
    }
    sampling = Sampling(**{**vars(sampling), **values})
    store = PictureStore(out / "eval", loaded, sampling, batch_size)
    n_prompts, n_seeds = comparison_prompts.shape(n)
    pictures = list(facts.get("pictures") or [])
    twins = comparison_prompts.twins(
        str(facts.get("trigger") or ""),
        str(facts.get("class_prompt") or ""),
        [str(row.get("caption") or "") for row in pictures],
        n_prompts,
        tuple(facts.get("validation_prompts") or ()),
    )
    first = FIRST_SEED if seed < 0 else seed
    triggered, plain = [], []
    for i, twin in enumerate(twins):
        for k in range(n_seeds):
            number = first + i * n_seeds + k
            triggered.append(Job(f"trigger-{i:02d}-{k}", twin.text, number))
            plain.append(Job(f"plain-{i:02d}-{k}", twin.plain, number + PLAIN_SEEDS))
    extractor = features.load(features_name, run.reporter)
    size = (store.sampling.width, store.sampling.height)
    training = extractor.pictures(_training_pictures(pictures, size, run))
    return _Bench(store, extractor, twins, triggered, plain, training, run)


def _training_pictures(
    rows: Sequence[Mapping[str, Any]], size: tuple[int, int], run: Run
) -> list[Image.Image]:
    """In the size of the generated ones, so that sharpness alone makes no difference."""
    images, missing = [], []
    step = max(1, len(rows) // MAX_TRAINING)
    for row in rows[::step]:
        try:
            rgb = decode.read_rgb(str(row.get("path")))
        except OneCardError as fault:
            missing.append(f"{row.get('name') or row.get('path')} ({fault.why})")
            continue
        images.append(Image.fromarray(dataset.cover(rgb, size)))
    if missing:
        run.reporter.warn(f"{len(missing)} training pictures cannot be read: {missing[0]}")
    if not images:
        raise DataError(
            "the training pictures are not there",
            why=missing[0] if missing else "the training named none",
            fix="--data with the folder where they lie now",
        )
    return images


# Measuring


def _shots(
    bench: _Bench,
    step: int,
    loras: Sequence[tuple[Path, float]],
    progress: Progress,
    name: str = "",
) -> tuple[Shots, Shots]:
    """Features of the pictures (with the trigger, without it)."""
    jobs = [*bench.triggered, *bench.plain]
    images = bench.store.pictures(name or folder_name(step), loras, jobs, progress)
    if len(images) < len(jobs):
        n = len(jobs) - len(images)
        bench.run.reporter.warn(f"step {step}: {n} pictures were blackened by the safety checker")
    if not name:
        bench.images[step] = {each: image for each, image in images.items() if each.endswith("-0")}
    first, second = (
        _features(bench, [job for job in part if job.id in images], images)
        for part in (bench.triggered, bench.plain)
    )
    return first, second


def _features(bench: _Bench, jobs: Sequence[Job], images: Mapping[str, Image.Image]) -> Shots:
    numbers = [int(job.id.split("-")[1]) for job in jobs]
    values = bench.extractor.pictures([images[job.id] for job in jobs])
    return Shots(values, numbers, [job.id for job in jobs])


def _scores(
    bench: _Bench, shots: tuple[Shots, Shots], base: tuple[Shots, Shots]
) -> dict[str, dict[str, float]]:
    triggered, plain = shots
    if not len(triggered.ids) or not len(plain.ids):
        raise DataError(
            "there is no picture to measure",
            why="the safety checker blackened all of them",
            fix="another base, or one without a safety checker",
        )
    nearest, copies = fidelity.memorisation(triggered, bench.training)
    scores = {
        "fidelity": fidelity.fidelity(triggered, bench.training),
        "prompt_fidelity": fidelity.prompt_fidelity(triggered, base[1]),
        "diversity": fidelity.diversity(triggered),
        "drift": fidelity.drift(plain, base[1]),
        "leak": fidelity.fidelity(plain, bench.training),
        "nearest": nearest,
        "memorised": copies,
    }
    if bench.extractor.reads_text:
        texts = bench.extractor.texts([twin.plain for twin in bench.twins])
        scores["clip_t"] = fidelity.text_fidelity(triggered, texts)
    return scores


def _mean(rows: Mapping[str, float]) -> float:
    return float(np.mean(list(rows.values())))


def interval(name: str, rows: Mapping[str, float], groups: Mapping[str, int]) -> Interval:
    """The mean of a measure with its 95 % interval; pictures of one prompt are one unit."""
    units = [groups[each] for each in rows]
    return stats.mean_interval(list(rows.values()), bounds=BOUNDS[name], groups=units)


# Telling


def _result(
    bench: _Bench,
    scores: dict[int, recommendation.Scores],
    base: tuple[Shots, Shots],
    checkpoints: Sequence[tuple[int, Path]],
    compose_lora: str,
    out: Path,
) -> Comparison:
    jobs = [*bench.triggered, *bench.plain]
    groups = {job.id: int(job.id.split("-")[1]) for job in jobs}
    advice = recommendation.recommend(scores, groups)
    last = max(step for step, _ in checkpoints)
    shown = last if advice.step is None else advice.step
    rows = _rows(scores, groups, advice.step)
    lines = [LEGEND.format(features=bench.extractor.name)]
    named = "no checkpoint" if advice.step is None else f"step {advice.step}"
    lines.append(f"recommended: {named} ({advice.verdict}): {advice.reason}")
    if advice.step is not None and last != advice.step:
        against = recommendation.against(scores, groups, advice.step, last)
        lines.append(recommendation.against_text(against, last))
    lines.append(_gain(scores[0], scores[shown], bench.training, shown))
    if len(bench.training) < 3:
        lines.append("copies cannot be counted: there are fewer than three training pictures")
    composed: dict[str, Any] = {}
    if compose_lora:
        path = next(path for step, path in checkpoints if step == shown)
        composed, text = _compose(bench, scores[shown], base, path, compose_lora, groups)
        lines.append(text)
    metrics = {
        **{
            name: interval(name, row, groups).as_dict()
            for name, row in scores[shown].items()
            if row
        },
        **{
            f"base_{name}": interval(name, row, groups).as_dict()
            for name, row in scores[0].items()
            if row and name != "drift"
        },
    }
    files = _write(bench, scores, groups, advice, metrics, composed, lines, out)
    return Comparison(
        rows,
        advice.step,
        advice.verdict,
        advice.reason,
        metrics,
        tuple(lines),
        files,
        advice,
        scores,
        groups,
        {job.id: job.prompt for job in bench.triggered},
        bench.store.folder,
    )


def _gain(
    base: recommendation.Scores, scores: recommendation.Scores, training: Features, step: int
) -> str:
    """A difference that is shown may still be small: how far the way was, and how much of it was
    gone."""
    first, now = _mean(base["fidelity"]), _mean(scores["fidelity"])
    text = f"fidelity of step {step} is {now:.3f}, the base's {first:.3f}"
    own = fidelity.own_likeness(training)
    if own is None or own <= first:
        return text
    share = (now - first) / (own - first)
    text += f", the training pictures' to each other {own:.3f}: {max(share, 0):.0%} of the way"
    if share < LITTLE:
        text += "; little was learned: more steps, or a larger --learning_rate"
    return text


def _rows(
    scores: Mapping[int, recommendation.Scores], groups: Mapping[str, int], chosen: int | None
) -> Table:
    names = [name for name in COLUMNS if any(row.get(name) for row in scores.values())]
    rows = []
    for step in sorted(scores):
        mark = " *" if step == chosen else ""
        label = f"{step}{mark}" if step else "0 (base)"
        cells = []
        for name in names:
            values = scores[step].get(name, {})
            cells.append(interval(name, values, groups).render(2) if values else "–")
        rows.append([label, *cells])
    return table(rows, ["step", *(COLUMNS[name] for name in names)])


def _compose(
    bench: _Bench,
    alone: recommendation.Scores,
    base: tuple[Shots, Shots],
    path: Path,
    other: str,
    groups: Mapping[str, int],
) -> tuple[dict[str, Any], str]:
    """The checkpoint together with another LoRA, against the checkpoint alone."""
    loras = [(path, 1.0), (Path(other).expanduser(), 1.0)]
    with bench.run.reporter.progress("pictures with both", len(bench.triggered) * 2) as progress:
        shots = _shots(bench, -1, loras, progress, name="composed")
    both = _scores(bench, shots, base)
    rows = {
        name: stats.compare(alone[name], both[name], groups=groups)
        for name in ("fidelity", "prompt_fidelity")
        if alone.get(name) and both.get(name)
    }
    rows = stats.holm(rows)
    parts = [f"{name} {one.render()}" for name, one in rows.items()]
    text = f"together with {Path(other).name}: " + "; ".join(parts)
    return {name: one.as_dict() for name, one in rows.items()}, text


def _write(
    bench: _Bench,
    scores: Mapping[int, recommendation.Scores],
    groups: Mapping[str, int],
    advice: Recommendation,
    metrics: Mapping[str, Any],
    composed: Mapping[str, Any],
    lines: Sequence[str],
    out: Path,
) -> tuple[Path, ...]:
    folder = out / "eval"
    paths = tuple(folder / name for name in ("comparison.json", "comparison.svg", "grid.png"))
    report = {
        "features": bench.extractor.name,
        "recommended": advice.step,
        "verdict": advice.verdict,
        "reason": advice.reason,
        "lines": list(lines),
        "metrics": metrics,
        "composed": composed,
        "prompts": [vars(twin) for twin in bench.twins],
        "sampling": {
            key: value
            for key, value in vars(bench.store.sampling).items()
            if isinstance(value, str | int | float)
        },
        "against_base": {step: one.as_dict() for step, one in advice.against_base.items()},
        "against_best": {step: one.as_dict() for step, one in advice.against_best.items()},
        "scores": scores,
    }
    fsio.write_text(paths[0], json.dumps(report, ensure_ascii=False, indent=1))
    means = {
        name: {
            step: interval(name, scores[step][name], groups)
            for step in sorted(scores)
            if scores[step].get(name)
        }
        for name in COLUMNS
    }
    svg = comparison_figures.curves(
        {COLUMNS[name]: row for name, row in means.items() if row}, advice.step
    )
    fsio.write_text(paths[1], svg)
    comparison_figures.grid(bench.images, bench.twins, advice.step, paths[2])
    for path in paths[1:]:
        bench.run.artifact_file(path)
    return paths
