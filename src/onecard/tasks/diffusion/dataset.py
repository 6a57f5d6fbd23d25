"""Pictures with captions for a LoRA: read, judged, sorted into buckets, as tensors."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from onecard.config import absolute_path
from onecard.datasets import splits
from onecard.datasets.images import decode, duplicates
from onecard.datasets.images.gathering import files_below, is_there
from onecard.datasets.images.records import Picture
from onecard.errors import DataError, NotFound, SettingsError, unreadable_file
from onecard.reporting import Reporter
from onecard.tasks.diffusion import buckets, captions, overlays, sharpness
from onecard.tasks.diffusion.buckets import Bucket
from onecard.tasks.diffusion.configs import CaptionedDataConfig

FOREIGN = frozenset(
    [
        *(".heic", ".heif", ".hif", ".svg", ".psd", ".xcf", ".kra", ".ai", ".eps", ".pdf", ".jxl"),
        *(".jp2", ".j2k", ".tga", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"),
        *(".mp4", ".mov", ".webm"),
    ]
)
"""Endings of files that hold pictures and are told when they cannot be read."""
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
FEW, MANY = 10, 1000
MIN_KEPT = 0.7
"""Share of a picture that its bucket's cut leaves, below which that is told."""
MIN_HELD_OUT = 20
"""Pictures from which a tenth is held out where val_share is 0."""
THREADS = 4
"""Each holds a decoded picture, of up to 300 MB."""

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class TrainingPicture:
    """One picture that is learned from."""

    path: Path
    name: str
    """Its path below the folder, with slashes; unique."""
    caption: str
    width: int
    height: int
    """Of the upright picture (px)."""
    bucket: Bucket
    sha256: str
    """Of the file, in hex."""
    caption_source: str = ""
    """The caption's file, "table", "template" or "model"."""


@dataclass(frozen=True)
class TrainingSet:
    """What is learned from, what is held out, what is left out and why."""

    pictures: tuple[TrainingPicture, ...]
    val: tuple[TrainingPicture, ...]
    rejected: tuple[tuple[str, str], ...]
    """(name, reason)."""
    warnings: tuple[str, ...]
    fingerprint: str
    """sha256 over files, captions and buckets of both parts, in hex."""

    @property
    def buckets(self) -> Counter[Bucket]:
        """Pictures of each size, of both parts."""
        return Counter(picture.bucket for picture in (*self.pictures, *self.val))


@dataclass(frozen=True)
class _Look:
    """What one reading of a file tells."""

    path: Path
    name: str
    width: int = 0
    height: int = 0
    bucket: Bucket = (0, 0)
    sharpness: float | None = None
    frames: int = 1
    transparent: bool = False
    n_bytes: int = 0
    reason: str = ""
    """Why it is left out."""


def read(
    config: CaptionedDataConfig,
    side: int,
    step: int,
    reporter: Reporter,
    *,
    val_share: float | None = 0.0,
    seed: int = 0,
    count_tokens: Callable[[str], int] | None = None,
) -> TrainingSet:
    """The pictures of a folder, in the order of their names, for a base of side x side pixels.

    `step`: what a bucket's sides are multiples of (px); `val_share`: of the pictures, held out by
    their hash, None for a tenth from 20 pictures up; `count_tokens`: the base's tokenizer.
    Warnings are told, and kept.
    Raises SettingsError, NotFound, and DataError where no picture can be used.
    """
    if side < step:
        raise SettingsError(
            f"--imgsz {side} is too small",
            why=f"sizes are multiples of {step} px for this model",
            fix=f"--imgsz {step} or more",
        )
    root, files = _files(config)
    looks = _looks(files, root, config, side, step, reporter)
    usable = [look for look in looks if not look.reason]
    rejected = [(look.name, look.reason) for look in looks if look.reason]
    signs = duplicates.signatures([_as_record(look) for look in usable], reporter)
    near = duplicates.near_pairs(signs)
    if not config.allow_duplicates:
        copies = _copies(usable, duplicates.exact_pairs(signs), near)
        rejected += [(usable[i].name, reason) for i, reason in copies.items()]
    else:
        copies = {}
    kept = [i for i in range(len(usable)) if i not in copies]
    if not kept:
        raise _no_picture(config.data, len(files), rejected)
    looks = [usable[i] for i in kept]
    if rejected:
        reporter.warn(_left_out(rejected))
    warnings = _warnings(looks)
    for text in warnings:
        reporter.warn(text)
    texts = captions.read(
        [(look.name, look.path) for look in looks],
        root,
        config,
        reporter,
        _describer(config, reporter),
        count_tokens,
    )
    pictures = [
        TrainingPicture(
            look.path,
            look.name,
            texts.texts[look.name],
            look.width,
            look.height,
            look.bucket,
            signs.digests[i].hex(),
            texts.sources[look.name],
        )
        for i, look in zip(kept, looks, strict=True)
    ]
    place = {i: k for k, i in enumerate(kept)}
    links = [(place[i], place[j]) for i, j in near if i in place and j in place]
    apart = _held_out(pictures, links, val_share, seed)
    train = tuple(picture for k, picture in enumerate(pictures) if k not in apart)
    val = tuple(pictures[k] for k in sorted(apart))
    return TrainingSet(
        train, val, tuple(rejected), (*warnings, *texts.warnings), _fingerprint(train, val)
    )


def require_pictures(config: CaptionedDataConfig) -> None:
    """A quick look, before anything is loaded. Raises SettingsError for no folder, NotFound for one
    that is not there, DataError for one without a picture file."""
    if not _files(config)[1]:
        raise _no_picture(config.data, 0, ())


def _describer(config: CaptionedDataConfig, reporter: Reporter) -> captions.Describe | None:
    """The captioning model, where one is named and wanted."""
    if config.caption_source != "model" or not config.caption_model.strip():
        return None
    # transformers takes seconds to load, and only this source of captions needs it
    from onecard.tasks.diffusion import captioning

    return captioning.describer(config.caption_model, reporter)


# Files


def _files(config: CaptionedDataConfig) -> tuple[Path, list[Path]]:
    """(the folder, files that are or could be pictures). Raises SettingsError, NotFound."""
    if not config.data.strip():
        raise SettingsError(
            "there is nothing to learn from",
            why="--data is empty",
            fix="--data with a folder of pictures of the style or the subject",
        )
    path = Path(absolute_path(config.data))
    if not is_there(path):
        raise NotFound(
            f"there is no folder {config.data}",
            why="nothing lies at that path",
            fix="--data with a folder of pictures; addresses are not opened",
        )
    root = path if path.is_dir() else path.parent
    files = files_below(path) if path.is_dir() else [path]
    suffixes = decode.SUFFIXES | FOREIGN
    return root, [file for file in files if file.suffix.lower() in suffixes]


def _no_picture(data: str, n_files: int, rejected: Sequence[tuple[str, str]]) -> DataError:
    reasons = Counter(reason for _, reason in rejected)
    fix = "a folder of 20 to 150 pictures (JPEG, PNG, WebP) of the style or the subject"
    if not n_files:
        why = "it holds no picture file"
    else:
        shown = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(3))
        why = f"all {n_files} files are left out: {shown}"
        if any("too small" in reason for reason in reasons):
            fix = "larger pictures; a smaller --imgsz or --min_side where the base takes it"
    return DataError(
        f"{data} has no picture to learn from",
        why=why,
        fix=fix,
    )


def _left_out(rejected: Sequence[tuple[str, str]]) -> str:
    files = "1 file is" if len(rejected) == 1 else f"{len(rejected)} files are"
    return f"{files} left out: {captions.shown([': '.join(row) for row in rejected])}"


def _looks(
    files: Sequence[Path],
    root: Path,
    config: CaptionedDataConfig,
    side: int,
    step: int,
    reporter: Reporter,
) -> list[_Look]:
    min_side = config.min_side or side // 2

    def look(path: Path) -> _Look:
        return _look(path, path.relative_to(root).as_posix(), config.buckets, side, step, min_side)

    with (
        reporter.progress("pictures read", len(files)) as progress,
        ThreadPoolExecutor(max_workers=min(THREADS, os.cpu_count() or 1)) as pool,
    ):
        looks = []
        for each in pool.map(look, files):
            progress.step()
            looks.append(each)
    return looks


def _look(path: Path, name: str, ratios: bool, side: int, step: int, min_side: int) -> _Look:
    try:
        rgb = decode.read_rgb(path)
    except (DataError, NotFound) as fault:
        return _Look(path, name, reason=fault.why)
    height, width = rgb.shape[:2]
    assign = buckets.assign if ratios else buckets.assign_square
    bucket = assign(width, height, side, step)
    if min(width, height) < min_side or bucket is None:
        least = max(min_side, step)
        reason = f"it is too small: {width}x{height} px, the shorter side needs {least}"
        return _Look(path, name, width, height, reason=reason)
    sharp = sharpness.sharpness(cover(rgb, bucket))
    return _Look(path, name, width, height, bucket, sharp, *_traits(path), path.stat().st_size)


def _traits(path: Path) -> tuple[int, bool]:
    """(frames of an animation, whether parts of the first one are transparent)."""
    try:
        with Image.open(path, formats=decode.FORMATS) as image:
            frames = int(getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
            if not image.has_transparency_data:
                return frames, False
            low, _ = image.convert("RGBA").getchannel("A").getextrema()
            return frames, float(np.min(low)) < 255
    except Exception:  # it was decoded before: what the rest of the file holds does not matter
        return 1, False


# Duplicates


def _as_record(look: _Look) -> Picture:
    return Picture(look.path, look.name, look.width, look.height)


def _copies(
    looks: Sequence[_Look], exact: duplicates.Pairs, near: duplicates.Pairs
) -> dict[int, str]:
    """Number of a picture that is left out -> why. Of pictures that are the same the largest stays,
    of equally large ones the one with a caption, then the one with more bytes, then the first."""
    same_file = {frozenset(pair) for pair in exact}
    groups = splits.connected_groups([None] * len(looks), [*exact, *near])
    copies: dict[int, str] = {}
    for group in groups:
        best = max(group, key=lambda i: (*_worth(looks[i]), -i))
        for i in group:
            if i != best:
                equal = frozenset((i, best)) in same_file
                how = "the same file as" if equal else "nearly the same picture as"
                copies[i] = f"it is {how} {looks[best].name}"
    return dict(sorted(copies.items()))


def _worth(look: _Look) -> tuple[int, bool, int]:
    has_caption = captions.text_file(look.path) is not None
    return look.width * look.height, has_caption, look.n_bytes


def _held_out(
    pictures: Sequence[TrainingPicture], near: duplicates.Pairs, share: float | None, seed: int
) -> set[int]:
    """Numbers of the pictures that are not learned from; at least one picture is. Copies and
    near-copies stay on one side, and groups are chosen by the hash of their files."""
    if share is None:
        share = 0.1 if len(pictures) >= MIN_HELD_OUT else 0.0
    wanted = round(share * len(pictures))
    groups = splits.connected_groups([picture.sha256 for picture in pictures], near)
    ranked = sorted(
        groups, key=lambda group: splits.hash_rank(seed, min(pictures[i].sha256 for i in group))
    )
    chosen: set[int] = set()
    for group in ranked:
        if len(chosen) + len(group) <= min(wanted, len(pictures) - 1):
            chosen.update(group)
    return chosen


def _fingerprint(train: Sequence[TrainingPicture], val: Sequence[TrainingPicture]) -> str:
    rows = [
        [[picture.name, picture.sha256, picture.caption, picture.bucket] for picture in part]
        for part in (train, val)
    ]
    text = json.dumps(rows, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# Warnings


def _warnings(looks: Sequence[_Look]) -> list[str]:
    warnings = []
    n = len(looks)
    if n == 1:
        warnings.append(
            "one picture is all there is: the LoRA will repeat it, whatever the prompt says"
        )
    elif n < FEW:
        warnings.append(
            f"{n} pictures are few: the LoRA learns their backgrounds and poses too; "
            f"{FEW} to 150 different ones are usual"
        )
    elif n > MANY:
        warnings.append(
            f"{n:,} pictures are many for a LoRA: 800 steps of batch 1 see {800 / n:.0%} of them "
            f"once; take the best 150, or --max_train_steps {n * 5} for five times each"
        )
    soft = [looks[i].name for i in sharpness.blurred([look.sharpness for look in looks])]
    moving = [f"{look.name} ({look.frames} frames)" for look in looks if look.frames > 1]
    clear = [look.name for look in looks if look.transparent]
    cut = [
        f"{look.name} ({look.width}x{look.height})"
        for look in looks
        if buckets.kept_share(look.width, look.height, look.bucket) < MIN_KEPT
    ]
    for names, what in (
        (soft, "look blurred at the size they are learned in, which the LoRA learns too"),
        (moving, "are animations, their first frame counts"),
        (clear, "are transparent and lie on white, which is learned with them"),
        (cut, f"lose more than {1 - MIN_KEPT:.0%} at their edges"),
    ):
        if names:
            warnings.append(f"{len(names)} of {n} pictures {what}: {captions.shown(names)}")
    return [*warnings, *_marks(looks)]


def _marks(looks: Sequence[_Look]) -> list[str]:
    """Of what stands on all pictures of the usual size."""
    size = overlays.usual_size([(look.width, look.height) for look in looks])
    if size is None:
        return []
    same = [look for look in looks if (look.width, look.height) == size]
    marks = overlays.Marks()
    for look in same[: overlays.MAX_PICTURES]:
        try:
            marks.add(decode.read_rgb(look.path))
        except (DataError, NotFound):
            continue  # removed since it was read: told when it is learned from
    place = marks.place()
    if not place:
        return []
    return [
        f"{len(same)} pictures of {size[0]}x{size[1]} px have the same marks at the same place "
        f"({place}): a watermark, a logo, a frame or dust on the lens, which the LoRA learns too"
    ]


# Pixels


def cover(rgb_HWC: Rgb, bucket: Bucket) -> Rgb:
    """Scaled to cover the bucket, and its middle: what is learned from."""
    height, width = rgb_HWC.shape[:2]
    scale = max(bucket[0] / width, bucket[1] / height)
    # the part that is cut out, in pixels of the picture; Pillow filters within it and around it
    across, down = bucket[0] / scale, bucket[1] / scale
    left, top = max(0.0, (width - across) / 2), max(0.0, (height - down) / 2)
    box = (left, top, min(left + across, width), min(top + down, height))
    image = Image.fromarray(rgb_HWC).resize(bucket, Image.Resampling.LANCZOS, box=box)
    return np.asarray(image)


def pixels(picture: TrainingPicture, flip: bool = False) -> Tensor:
    """[3, H, W] in -1..1, float32, of the bucket's size. Raises NotFound, DataError for a file that
    was removed, changed or broken since it was read."""
    try:
        data = picture.path.read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"{picture.name} is gone",
            why=f"{picture.path} was removed since it was read",
            fix="put it back, or go on without it",
        ) from None
    except OSError as fault:
        raise unreadable_file(picture.path, fault) from None
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise DataError(
            f"{picture.name} is another picture now",
            why=f"{picture.path} was changed since it was read",
            fix="start again: its caption may no longer fit",
        )
    rgb = cover(decode.read_rgb_bytes(data, picture.name), picture.bucket)
    values = torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 127.5 - 1
    return values.flip(2) if flip else values


def with_captions(
    pictures: Sequence[TrainingPicture], texts: Mapping[str, str]
) -> tuple[TrainingPicture, ...]:
    """The pictures with other captions, by name."""
    return tuple(
        replace(picture, caption=texts.get(picture.name, picture.caption)) for picture in pictures
    )
