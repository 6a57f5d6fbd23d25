"""onecard diffusion check: pictures and captions, looked at before anything is trained."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from onecard.datasets.images import decode, sheets
from onecard.datasets.splits import hash_rank
from onecard.errors import OneCardError
from onecard.reporting import Result, Table, table
from onecard.runs.record import Run
from onecard.tasks.diffusion import buckets, captions, dataset
from onecard.tasks.diffusion.configs import CheckConfig
from onecard.tasks.diffusion.dataset import TrainingPicture, TrainingSet

USUAL_SIDE = 512
"""Of a base where --imgsz names none (px)."""
SHOWN = 48
"""Pictures on a sheet."""
SHOWN_ROWS = 20


def check(config: CheckConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError where there is no picture to learn from."""
    captions.filled_template(config)
    side = config.imgsz or USUAL_SIDE
    step = buckets.usual_step(side)
    training_set = dataset.read(config, side, step, run.reporter)
    pictures = training_set.pictures
    run.data("pictures", rows=len(pictures), sha256=training_set.fingerprint)
    data = _as_dict(config, training_set, side, step)
    tables = _tables(training_set)
    trigger = f", called by '{config.trigger}'" if config.trigger.strip() else ""
    lines = [
        f"{config.data}: {len(pictures)} pictures to learn from{trigger}, "
        f"{len(training_set.rejected)} left out; as for a base of {side} px",
        *tables,
        *(f"note: {text}" for text in training_set.warnings),
    ]
    if run.folder:
        run.artifact("check.json", json.dumps(data, indent=1, ensure_ascii=False))
        lines += _sheets(training_set, Path(data["root"]), run)
    return Result(data, "\n\n".join(lines), tables)


def _as_dict(
    config: CheckConfig, training_set: TrainingSet, side: int, step: int
) -> dict[str, Any]:
    pictures = training_set.pictures
    rows = [
        {
            "name": picture.name,
            "caption": picture.caption,
            "caption_source": picture.caption_source,
            "width": picture.width,
            "height": picture.height,
            "bucket": list(picture.bucket),
            "sha256": picture.sha256,
        }
        for picture in pictures
    ]
    first = pictures[0]
    return {
        "location": config.data,
        "root": str(first.path)[: len(str(first.path)) - len(first.name)],
        "imgsz": side,
        "step": step,
        "n_pictures": len(pictures),
        "n_rejected": len(training_set.rejected),
        "buckets": {f"{w}x{h}": n for (w, h), n in sorted(training_set.buckets.items())},
        "captions": dict(_sources(training_set)),
        "rejected": [{"name": name, "reason": why} for name, why in training_set.rejected],
        "warnings": list(training_set.warnings),
        "fingerprint": training_set.fingerprint,
        "pictures": rows,
    }


def _sources(training_set: TrainingSet) -> Counter[str]:
    """Captions by where they come from."""
    kinds = ("table", "template", "model")
    return Counter(
        picture.caption_source if picture.caption_source in kinds else "files"
        for picture in training_set.pictures
    )


def _tables(training_set: TrainingSet) -> tuple[Table, ...]:
    sizes = [
        [f"{w} x {h}", f"{w / h:.2f}", str(n)]
        for (w, h), n in sorted(training_set.buckets.items(), key=lambda row: row[0][0] / row[0][1])
    ]
    texts = [[source, str(n)] for source, n in _sources(training_set).most_common()]
    tables = [
        table(sizes, ["learned at", "width / height", "pictures"]),
        table(texts, ["captions from", "pictures"]),
    ]
    if training_set.rejected:
        rows = [list(row) for row in training_set.rejected[:SHOWN_ROWS]]
        more = len(training_set.rejected) - SHOWN_ROWS
        if more > 0:
            rows.append([f"and {more} more", "all of them are in check.json"])
        tables.append(table(rows, ["left out", "because"]))
    return tuple(tables)


def _sheets(training_set: TrainingSet, root: Path, run: Run) -> list[str]:
    """One of the pictures as they are learned from, with captions; one of those that are not."""
    path = run.artifacts / "pictures.png"
    ranked = sorted(training_set.pictures, key=lambda picture: hash_rank(0, picture.name))[:SHOWN]
    chosen = sorted(ranked, key=lambda picture: picture.name)
    sheets.draw_tiles([_tile(picture) for picture in chosen], [], path)
    lines = [f"wrote {path}"]
    rejected = training_set.rejected[:SHOWN]
    if rejected:
        path = run.artifacts / "left-out.png"
        sheets.draw_tiles([_rejected_tile(root / name, why) for name, why in rejected], [], path)
        lines.append(f"wrote {path}")
    return lines


def _tile(picture: TrainingPicture) -> sheets.Tile:
    try:
        values = dataset.pixels(picture)
    except OneCardError as fault:
        return _grey(), None, f"{picture.name}: {fault.why}"
    rgb = ((values.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    return rgb, None, picture.caption


def _rejected_tile(path: Path, why: str) -> sheets.Tile:
    try:
        rgb = decode.read_rgb(path)
    except OneCardError:
        rgb = _grey()
    return rgb, None, f"{path.name}: {why}"


def _grey() -> sheets.Rgb:
    return np.full((sheets.TILE, sheets.TILE, 3), 128, np.uint8)
