"""onecard diffusion again: the picture of a PNG made once more, and compared with it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from onecard.datasets.images import decode
from onecard.errors import DataError, NotFound
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run, fingerprint
from onecard.tasks.diffusion import again_settings, generate, pipeline, places
from onecard.tasks.diffusion.configs import AgainConfig
from onecard.tasks.diffusion.generate import Work
from onecard.training import output_dir


def again(config: AgainConfig, run: Run) -> Result:
    """Raises OneCardErrors: for a picture without settings, a model or LoRA that is another one
    now, a file that is missing. Nothing is downloaded."""
    places.require_writable(config.output_dir)
    path = Path(config.picture).expanduser()
    settings, record = again_settings.read(config)
    before = decode.read_rgb(path)
    work = generate.prepare(settings, run.reporter, download=False)
    _require_same(work, record)
    notes = _other_circumstances(work, record)
    run.data("picture", rows=1, sha256=fingerprint(path))
    image, seed = _make(work, record, run.reporter)
    after = np.asarray(image.convert("RGB"))
    out = output_dir.resolve(config.output_dir, run)
    target = generate.free_name(out, f"{path.stem}-again", seed, overwrite=False)
    generate.write(target, image, generate.record_of(work, _picture(image, seed, record)))
    return _result(before, after, target, notes)


def _require_same(work: Work, record: dict[str, Any]) -> None:
    """Raises DataError where the model, a LoRA or a picture is another one than it was."""
    model = record.get("model")
    was = model.get("fingerprint") if isinstance(model, dict) else None
    if was != work.model_fingerprint:
        raise DataError(
            f"{work.config.model} is another model than the picture was made with",
            why=f"its fingerprint is {work.model_fingerprint[:20]}..., not {str(was)[:20]}...",
            fix="--model with the folder of the same model",
        )
    rows = record.get("loras")
    rows = rows if isinstance(rows, list) else []
    hashes = [row.get("sha256") for row in rows if isinstance(row, dict)]
    for number, file in enumerate(work.loras):
        if number >= len(hashes) or file.sha256 != hashes[number]:
            raise DataError(
                f"{file.path.name} is another LoRA than the picture was made with",
                why=f"its sha256 is {file.sha256[:16]}..., the picture names "
                f"{str(hashes[number])[:16] + '...' if number < len(hashes) else 'none'}",
                fix="--lora with the same files, in the same order, each with its weight",
            )
    if len(hashes) != len(work.loras):
        raise NotFound(
            f"{len(hashes) - len(work.loras)} LoRAs are missing",
            why=f"the picture was made with {len(hashes)}, {len(work.loras)} are named",
            fix="--lora with the same files, in the same order, each with its weight",
        )
    pictures = record.get("pictures")
    for name, digest in work.pictures.items():
        if not isinstance(pictures, dict) or pictures.get(name) != digest:
            raise DataError(
                f"{name} is another picture now",
                why=f"its sha256 is {digest[:16]}...",
                fix="put the old picture back to its place",
            )


def _other_circumstances(work: Work, record: dict[str, Any]) -> list[str]:
    """What may round otherwise: the device, libraries, threads."""
    notes = []
    if record["settings"].get("compile") is True:
        notes.append("made with --compile, now without")
    if record.get("device") != work.loaded.device.type:
        notes.append(f"made on {str(record.get('device'))[:20]}, now on {work.loaded.device.type}")
    packages = record.get("packages")
    old = packages if isinstance(packages, dict) else {}
    for name, version in generate.versions().items():
        if name != "onecard" and old.get(name) != version:
            notes.append(f"{name} {str(old.get(name))[:20]}, now {version}")
    if record.get("threads") != torch.get_num_threads():
        threads = torch.get_num_threads()
        notes.append(f"{str(record.get('threads'))[:8]} threads, now {threads}")
    return notes


def _make(work: Work, record: dict[str, Any], reporter: Reporter) -> tuple[Any, int]:
    """The whole batch of then, since a batch of another size may round otherwise."""
    seeds: list[int] = record["batch"]
    steps = work.sampling.num_inference_steps
    with reporter.progress("steps", steps * len(seeds)) as bar:
        images = pipeline.batches(
            work.loaded,
            [work.config.prompt] * len(seeds),
            seeds,
            work.sampling,
            batch_size=len(seeds),
            on_step=bar.step,
        )
        pictures = next(images)
    index = seeds.index(work.config.seed)
    return pictures[index].image, seeds[index]


def _picture(image: Any, seed: int, record: dict[str, Any]) -> pipeline.Picture:
    return pipeline.Picture(image, seed, tuple(record["batch"]))


def _result(before: decode.Rgb, after: decode.Rgb, target: Path, notes: list[str]) -> Result:
    data: dict[str, Any] = {"path": str(target), "notes": notes}
    if before.shape != after.shape:
        data |= {"equal": False, "max_difference": None}
        sizes = [f"{rgb.shape[1]} x {rgb.shape[0]} px" for rgb in (before, after)]
        verdict = f"not equal: the picture is {sizes[0]}, made again it is {sizes[1]}"
    else:
        gaps = np.abs(before.astype(np.int16) - after.astype(np.int16))
        largest, share = int(gaps.max()), float((gaps.max(axis=2) > 0).mean())
        data |= {"equal": largest == 0, "max_difference": largest, "share_different": share}
        verdict = "equal, bit for bit"
        if largest:
            verdict = f"not equal: {share:.1%} of the pixels differ, by {largest} of 255 at most"
            reason = "; ".join(notes) or "no circumstance that is known has changed: was it edited?"
            verdict += f" ({reason})"
    return Result(data, f"{verdict}\nwrote {target}")
