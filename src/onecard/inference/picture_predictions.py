"""A network run over pictures and videos: one loop for all tasks. Each picture's row is on the disk
before the next one's is; a bad picture is told and counted and stops nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from onecard.config import short_names
from onecard.datasets.images.records import RejectedLabel
from onecard.errors import DataError, NotFound, OneCardError, SettingsError, not_found
from onecard.inference import picture_outcomes, picture_videos, picture_writers
from onecard.inference.picture_log import END, ResultsLog
from onecard.inference.picture_model import ModelCard, find_model
from onecard.inference.picture_outcomes import Answer, Outcome
from onecard.inference.picture_sources import (
    FIX,
    Shot,
    Source,
    Sources,
    find_sources,
    read_picture,
)
from onecard.inference.picture_videos import Video, VideoWriter
from onecard.reporting import Progress, Reporter, Result, Table, table
from onecard.runs.record import Run

SHOWN_FAULTS = 5
"""Warnings of one kind that are told one by one."""
PENDING_PIXELS = 200_000_000
"""Decoded pictures that wait for a batch hold no more: 600 MB."""


@dataclass(frozen=True)
class Work:
    """What is to be done."""

    card: ModelCard
    answer: Answer
    out: Path
    source: tuple[str, ...]
    formats: tuple[str, ...] = ()
    """Of images, masks, json, coco, yolo, csv."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What results depend on: a resumed run must have the same."""
    batch: int = 1
    top: int = 5
    videos: bool = True
    resume: bool = False
    start_s: float = 0.0
    end_s: float = 0.0
    every: int = 1

    @property
    def with_regions(self) -> bool:
        """Whether a map's outlines are wanted."""
        return bool({"json", "coco", "yolo", "label-studio"} & set(self.formats))


@dataclass
class Summary:
    """What a run came to."""

    pictures: int = 0
    frames: int = 0
    resumed: int = 0
    """Of them, those of the run before."""
    counts: Counter[str] = field(default_factory=Counter)
    """Of each class, in `unit`."""
    unit: str = "objects"
    """objects, pictures or pixels."""
    failed: list[RejectedLabel] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stopped: bool = False
    """A webcam was ended by Ctrl-C."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "pictures": self.pictures,
            "frames": self.frames,
            "resumed": self.resumed,
            "counts": dict(self.counts),
            "failed": [row.as_dict() for row in self.failed],
            "warnings": self.warnings,
        }


def settings_of(config: Any, card: ModelCard, formats: tuple[str, ...]) -> dict[str, Any]:
    """Of a command's config: what its results depend on."""
    names = ("form", "confidence", "tile", "tile_overlap", "top", "start_s", "end_s", "every")
    values = {name: getattr(config, name) for name in names if hasattr(config, name)}
    folder = str(find_model(config.run_id).resolve())
    model = {"task": card.task, "model": card.model, "run": card.run, "folder": folder}
    return {**model, "classes": list(card.classes), **values, "formats": sorted(formats)}


def work_of(config: Any, card: ModelCard, answer: Answer, out: Path) -> Work:
    """Of a SourceConfig or UnlabelledConfig with TrainedModelConfig."""
    names = ("top", "start_s", "end_s", "every")
    return Work(
        card=card,
        answer=answer,
        out=out,
        source=config.source,
        formats=config.formats,
        settings=settings_of(config, card, config.formats),
        batch=config.batch,
        resume=config.resume,
        videos=hasattr(config, "every"),
        **{name: getattr(config, name) for name in names if hasattr(config, name)},
    )


def require_input(config: Any) -> None:
    """Raises SettingsError, before a model is loaded, for what no model would change."""
    info = type(config).model_fields["formats"]
    names = short_names(info)
    if names and (unknown := [form for form in config.formats if form not in names.words]):
        raise not_found("format", unknown[0], names.words)
    if not config.source:
        raise SettingsError("there is nothing to look at", why="no source was named", fix=FIX)
    if config.resume and not config.output_dir:
        raise SettingsError(
            "there is nothing to resume",
            why="--resume needs the folder that was written to; without --output_dir each run has "
            "its own",
            fix="--output_dir with that folder",
        )
    end_s = getattr(config, "end_s", 0.0)
    if end_s and end_s <= config.start_s:
        raise SettingsError(
            "no part of a video is named",
            why=f"--end_s {end_s:g} is not after --start_s {config.start_s:g}",
            fix="give a later --end_s, or 0 for the video's end",
        )


def predict_all(work: Work, log: ResultsLog, run: Run) -> Summary:
    """Look at every source. Raises SettingsError and NotFound where there is none, DataError where
    none of them is usable, or a file cannot be written."""
    sources = find_sources(work.source, videos=work.videos, leave_out=work.out)
    names = "\n".join(f"{row.name} {row.path}" for row in sources.rows)
    sha256 = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    run.data("sources", rows=len(sources.rows), sha256=sha256)
    loop = _Loop(work, sources, log, run.reporter)
    loop.run()
    summary = loop.summary
    if not summary.pictures and not summary.frames and summary.failed:
        first = summary.failed[0]
        raise DataError(
            "no picture could be looked at",
            why=f"{first.where}: {first.reason}"[:400],
            fix="give pictures or videos that open elsewhere",
        )
    return summary


def open_log(work: Work, run: Run) -> ResultsLog:
    """Raises SettingsError where results of other settings lie there."""
    return ResultsLog(work.out, work.settings, resume=work.resume, run_id=run.id)


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """The folder for this program alone. Raises SettingsError, DataError."""
    file_lock = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        file_lock.acquire()
    except Timeout:
        raise SettingsError(
            f"{out} is in use",
            why="another program writes its results there",
            fix="--output_dir elsewhere, or wait for the other one",
        ) from None
    except OSError as fault:
        raise DataError(
            f"{out} cannot be written",
            why=fault.strerror or str(fault),
            fix="--output_dir elsewhere",
        ) from None
    try:
        yield
    finally:
        file_lock.release()


class _Loop:
    def __init__(self, work: Work, sources: Sources, log: ResultsLog, reporter: Reporter) -> None:
        self.work, self.sources, self.log, self.reporter = work, sources.rows, log, reporter
        self.summary = Summary(failed=list(sources.rejected))
        self.pending: list[tuple[Shot, Outcome | None]] = []
        self.drawings = picture_writers.drawing_names(self.sources)
        self.masks = picture_writers.mask_names(self.sources)
        self.videos: dict[str, Video] = {}
        self.writer: VideoWriter | None = None
        self.bar = Progress()
        for row in sources.rejected:
            reporter.warn(f"{row.where}: {row.reason}")

    def run(self) -> None:
        with self.reporter.progress("looking", self._probe()) as self.bar:
            for source in self.sources:
                if source.kind == "picture":
                    self._picture(source)
                else:
                    self._flush()
                    self._video(source)
            self._flush()
        hidden = len(self.summary.failed) - SHOWN_FAULTS
        if hidden > 0:
            self.reporter.warn(f"{hidden:,} more could not be looked at; results.jsonl has them")

    def _probe(self) -> int:
        """About how many pictures and frames there are."""
        total = 0
        for source in self.sources:
            if source.kind == "video":
                try:
                    self.videos[source.name] = picture_videos.probe(source)
                except OneCardError:
                    continue  # told in its turn
                work = self.work
                total += self.videos[source.name].n_frames(work.start_s, work.end_s, work.every)
            else:
                total += 1
        return total

    def _fail(self, source: Source, why: str) -> None:
        row = RejectedLabel(source.name, why)
        self.summary.failed.append(row)
        if len(self.summary.failed) <= SHOWN_FAULTS:
            self.reporter.warn(f"{row.where}: {row.reason}")
        self.log.write({"source": str(source.path), "name": source.name, "error": row.reason})
        self.bar.step(1, source.name)

    # Pictures

    def _picture(self, source: Source) -> None:
        key = (str(source.path), -1)
        if key in self.log and self._is_drawn(source):
            self._count(self.log.get(key), resumed=True)
            self.bar.step(1, f"{source.name} was done before")
            return
        try:
            shot = read_picture(source)
        except (DataError, NotFound) as fault:
            self._fail(source, fault.why)
            return
        self.pending.append((shot, None))
        pixels = sum(each.rgb.size // 3 for each, _ in self.pending)
        if len(self.pending) >= self.work.batch or pixels > PENDING_PIXELS:
            self._flush()

    def _is_drawn(self, source: Source) -> bool:
        out, formats = self.work.out, self.work.formats
        if "images" in formats and not (out / "images" / self.drawings[source.name]).exists():
            return False
        return "masks" not in formats or (out / "masks" / self.masks[source.name]).exists()

    def _flush(self) -> None:
        """Answer and write what waits."""
        pending, self.pending = self.pending, []
        shots = [shot.rgb for shot, outcome in pending if outcome is None]
        answers = iter(self.work.answer(shots) if shots else [])
        for shot, outcome in pending:
            self._write(shot, outcome or next(answers), is_new=outcome is None)

    def _write(self, shot: Shot, outcome: Outcome, *, is_new: bool) -> None:
        work, names = self.work, self.work.card.classes
        if "images" in work.formats:
            image = picture_writers.draw(shot.rgb, outcome, names)
            if self.writer is not None:
                self.writer.write(np.asarray(image), shot.time_s)
            else:
                path = work.out / "images" / self.drawings[shot.source.name]
                picture_writers.save_picture(image, path)
        if "masks" in work.formats and is_new:
            mask = picture_writers.mask_image(outcome, names)
            name = self.masks.get(shot.name, f"{shot.name}.png")
            picture_writers.save_picture(mask, work.out / "masks" / name)
        if is_new:
            row = self._row(shot, outcome)
            self.log.write(row)
            self._count(row)
        where = shot.source.name
        if shot.frame >= 0:
            video = self.videos.get(where)
            length = f"/{_clock(video.seconds)}" if video and video.seconds else ""
            where = f"{where} {_clock(shot.time_s)}{length}"
        self.bar.step(1, where)

    def _row(self, shot: Shot, outcome: Outcome) -> dict[str, Any]:
        place: dict[str, Any] = {"source": str(shot.source.path), "name": shot.source.name}
        if shot.frame >= 0:
            place |= {"frame": shot.frame, "time_s": shot.time_s}
        names, top = self.work.card.classes, self.work.top
        return place | picture_outcomes.to_row(outcome, names, top, self.work.with_regions)

    def _count(self, row: Mapping[str, Any], *, resumed: bool = False) -> None:
        is_frame = "frame" in row
        self.summary.frames += is_frame
        self.summary.pictures += not is_frame
        self.summary.resumed += resumed
        counts = self.summary.counts
        if "classes" in row:
            self.summary.unit = "pictures"
            counts[row["classes"][0]["class"]] += 1
        elif "pixels" in row:
            self.summary.unit = "pixels"
            counts.update(row["pixels"])
        else:
            counts.update(each["class"] for each in row["objects"])

    # Videos

    def _video(self, source: Source) -> None:
        drawing = self.work.out / "images" / self.drawings[source.name]
        end = (str(source.path), END)
        if end in self.log and ("images" not in self.work.formats or drawing.exists()):
            self._known_video(source, self.log.get(end))
            return
        if source.kind == "webcam" and self.work.resume:
            raise SettingsError(
                "a webcam cannot be resumed",
                why="what it showed is past",
                fix="--output_dir elsewhere, without --resume",
            )
        video = self.videos.setdefault(source.name, Video(source))
        n_before = self.summary.frames
        with ExitStack() as stack:
            if "images" in self.work.formats:
                rate = (video.rate or 25.0) / self.work.every
                self.writer = stack.enter_context(VideoWriter(drawing, rate))
                stack.callback(self._forget_writer)
            try:
                for shot in self._shots(video):
                    self._frame(shot)
                self._flush()
            except KeyboardInterrupt:
                if source.kind != "webcam":
                    raise
                self.pending.clear()
                self.summary.stopped = True
        n_frames = self.summary.frames - n_before
        if not n_frames and video.warnings:
            self._fail(source, "; ".join(video.warnings))
            return
        for warning in video.warnings:
            self._warn(f"{source.name}: {warning}")
        place = {"source": str(source.path), "name": source.name, "end": True}
        self.log.write({**place, "frames": n_frames, "warnings": video.warnings})

    def _forget_writer(self) -> None:
        self.writer = None

    def _shots(self, video: Video) -> Iterator[Shot]:
        """Its frames; an error in the midst of them is a warning."""
        work = self.work
        read = picture_videos.frames
        if video.source.kind == "webcam":
            read = picture_videos.webcam_frames
        try:
            yield from read(video, work.start_s, work.end_s, work.every)
        except (DataError, NotFound) as fault:
            video.warnings.append(fault.why)

    def _frame(self, shot: Shot) -> None:
        """A frame of the run before is drawn again, for its video was not finished; the network
        sees it only where its row does not say enough."""
        key = (str(shot.source.path), shot.frame)
        outcome = None
        if key in self.log and shot.source.kind == "video":
            row = self.log.get(key)
            drawable = picture_outcomes.from_row(row, self.work.card.classes)
            if "images" not in self.work.formats:
                self._count(row, resumed=True)
                self.bar.step(1, f"{shot.source.name} {_clock(shot.time_s)} was done before")
                return
            if drawable is not None:
                self._count(row, resumed=True)
                outcome = drawable
        self.pending.append((shot, outcome))
        if len(self.pending) >= self.work.batch:
            self._flush()

    def _known_video(self, source: Source, end: Mapping[str, Any]) -> None:
        for frame in range(int(end["frames"])):
            key = (str(source.path), frame)
            if key in self.log:
                self._count(self.log.get(key), resumed=True)
        self.bar.step(int(end["frames"]), f"{source.name} was done before")
        for warning in end.get("warnings", ()):
            self._warn(f"{source.name}: {warning}")

    def _warn(self, text: str) -> None:
        self.summary.warnings.append(text)
        self.reporter.warn(text)


def _clock(seconds: float) -> str:
    """
    >>> _clock(75.4)
    '01:15'
    """
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


# The command


def predict(work: Work, run: Run, *, save_conf: bool = False) -> Result:
    """Look at all sources and write all formats. Raises what `predict_all` raises."""
    with lock(work.out), open_log(work, run) as log:
        summary = predict_all(work, log, run)
        outlines = _has_outlines(log)
        rows = log.rows
        files = ["results.jsonl"]
        if "images" in work.formats:
            files.append("images/")
        if "masks" in work.formats:
            files.append("masks/")
        if "json" in work.formats:
            picture_writers.write_json(rows, work.card, work.out / "results.json")
            files.append("results.json")
        if "coco" in work.formats:
            picture_writers.write_coco(rows, work.card, work.out / "coco.json")
            files.append("coco.json")
        if "yolo" in work.formats:
            picture_writers.write_yolo(
                rows, work.card, work.out, outlines=outlines, scores=save_conf
            )
            files += ["labels/", "classes.txt"]
        if "csv" in work.formats:
            picture_writers.write_csv(rows, work.out / "results.csv", work.top)
            files.append("results.csv")
    data = {**summary.as_dict(), "output_dir": str(work.out), "written": files}
    return Result(data, render(summary, work, files), tuple(tables(summary)))


def _has_outlines(log: ResultsLog) -> bool:
    """Whether lines of labels are outlines: where any object has one."""
    return any("outlines" in each for row in log.rows() for each in row.get("objects", ()))


def tables(summary: Summary) -> list[Table]:
    if not summary.counts:
        return []
    rows = [[name, f"{n:,}"] for name, n in summary.counts.most_common(30)]
    return [table(rows, ["class", summary.unit])]


def render(summary: Summary, work: Work, files: list[str]) -> str:
    """A few lines: what was looked at, what was found, where it lies, what went wrong."""
    parts = []
    if summary.pictures:
        parts.append(f"{summary.pictures:,} pictures")
    if summary.frames:
        parts.append(f"{summary.frames:,} frames of videos")
    line = " and ".join(parts) or "nothing"
    if summary.resumed:
        line += f", {summary.resumed:,} of them from before"
    lines = [f"looked at {line}"]
    lines += [str(each) for each in tables(summary)] or ["nothing was found"]
    if summary.stopped:
        lines.append("the webcam was stopped by Ctrl-C")
    if summary.failed:
        shown = "; ".join(f"{row.where}: {row.reason}" for row in summary.failed[:3])
        lines.append(f"{len(summary.failed):,} could not be looked at: {shown[:400]}")
    lines += [f"warning: {text}" for text in summary.warnings[:SHOWN_FAULTS]]
    lines.append(f"written to {work.out}: {', '.join(files)}")
    return "\n".join(lines)
