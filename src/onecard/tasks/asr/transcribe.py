"""onecard asr transcribe: sound files to text files, with speakers and restored punctuation."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard import fsio, paths
from onecard.errors import DataError, SettingsError, not_found
from onecard.reporting import Progress, Result, table
from onecard.runs.record import Run
from onecard.tasks.asr import audio, formats, live
from onecard.tasks.asr.configs import FORMATS, TranscribeConfig
from onecard.tasks.asr.names import with_names_file
from onecard.tasks.asr.recording import Row, transcribe_recording
from onecard.tasks.asr.transcriber import Transcriber, open_transcriber
from onecard.tasks.asr.transcript import Segment, Transcript
from onecard.training import output_dir
from onecard.units import duration

RECOGNITION_FIELDS = {
    "model",
    "language",
    "task",
    "compute_type",
    "beam_size",
    "hotwords",
    "names",
    "initial_prompt",
    "vad_threshold",
    "hallucination_filter",
    "diarize",
    "num_speakers",
    "speaker_threshold",
    "diarizer",
    "restore_punctuation",
    "punctuation_model",
    "word_timestamps",
    "multilingual",
    "track",
    "channels",
}
"""What a transcript depends on."""
Restorer = Callable[[Sequence[Segment]], list[Segment]]


def transcribe(config: TranscribeConfig, run: Run) -> Result:
    """Transcribe every file. A file that is no sound is reported and skipped, unless it is the only
    one.

    Raises OneCardErrors.
    """
    config = with_names_file(config)
    if unknown := [form for form in config.formats if form not in FORMATS]:
        raise not_found("format", unknown[0], FORMATS)
    if config.live:
        return live.listen(config, run)
    _require_input(config)
    files = audio.find_files(config.audio)
    audio.require_sound(files)
    out = output_dir.resolve(config.output_dir, run)
    names = output_names(files)
    jobs = [Job(file, out / names[file], fingerprint(file, config)) for file in files]
    prints = "".join(job.fingerprint for job in jobs)
    run.data("files", rows=len(files), sha256=hashlib.sha256(prints.encode()).hexdigest())
    transcriber = open_transcriber(config, run)
    lengths = [_header_seconds(file) for file in files]
    rows = []
    with (
        _open_restorer(config, run) as restorer,
        run.reporter.progress("transcribing", round(sum(lengths))) as bar,
    ):
        for job, seconds in zip(jobs, lengths, strict=True):
            if config.resume and job.is_done(config):
                bar.step(round(seconds), f"{job.file.name} was done before")
                rows.append({"file": str(job.file), "skipped": True})
                continue
            try:
                result = _transcribe_file(job, transcriber, config, bar, restorer)
            except DataError as fault:
                if len(files) == 1:
                    raise
                run.reporter.warn(f"{fault.what}: {fault.why}")
                rows.append({"file": str(job.file), "error": fault.what, "why": fault.why})
                continue
            rows.append(job.write(result, config))
            for warning in result.warnings:
                run.reporter.warn(f"{job.file.name}: {warning}")
            run.data(job.file.name, rows=len(result.segments), sha256=job.fingerprint)
    return Result({"files": rows, "output_dir": str(out)}, _render(rows, out))


def _require_input(config: TranscribeConfig) -> None:
    if not config.audio:
        raise SettingsError(
            "there is no sound",
            why="no file or folder was named",
            fix="onecard asr transcribe talk.mp3",
        )
    if config.multilingual and config.language != "auto":
        raise SettingsError(
            f"--multilingual and --language {config.language} contradict each other",
            why="the first detects the language of each stretch of speech, the second says that "
            "all is in one",
            fix="leave one of them out",
        )
    if config.resume and not config.output_dir:
        raise SettingsError(
            "there is nothing to resume",
            why="--resume needs the folder that was written to; without --output_dir each run has "
            "its own",
            fix="--output_dir with that folder",
        )


@dataclass(frozen=True)
class Job:
    """One recording and the files that are written for it."""

    file: Path
    target: Path
    """Without a suffix."""
    fingerprint: str

    @property
    def partial(self) -> Path:
        """Finished chunks, while the file is being transcribed."""
        return self.target.with_name(f".{self.target.name}.part.jsonl")

    @property
    def done_mark(self) -> Path:
        return self.target.with_name(f".{self.target.name}.done")

    def output(self, form: str) -> Path:
        return self.target.with_name(f"{self.target.name}.{form}")

    def is_done(self, config: TranscribeConfig) -> bool:
        """By the same settings, with all formats."""
        return (
            self.done_mark.exists()
            and self.done_mark.read_text() == self.fingerprint
            and all(self.output(form).exists() for form in config.formats)
        )

    def finished_rows(self) -> list[Row]:
        """Chunks of a stopped run, if it was the same work."""
        if not self.partial.exists():
            return []
        header, *lines = self.partial.read_text(encoding="utf-8").splitlines()
        if json.loads(header)["mark"] != self.fingerprint:
            return []
        return [json.loads(line) for line in lines]

    def write(self, result: Transcript, config: TranscribeConfig) -> dict[str, Any]:
        """All formats; a row for the result of the command."""
        for form in config.formats:
            fsio.write_text(self.output(form), formats.render(result, form, self.file.stem))
        fsio.write_text(self.done_mark, self.fingerprint)
        self.partial.unlink(missing_ok=True)
        return {
            "file": str(self.file),
            "text": result.text,
            "language": result.language,
            "languages": result.languages,
            "language_probability": result.language_probability,
            "seconds": result.seconds,
            "speakers": sorted({turn.speaker for turn in result.turns}),
            "dropped": result.dropped,
            "warnings": result.warnings,
            "written": [str(self.output(form)) for form in config.formats],
        }


def _transcribe_file(
    job: Job,
    transcriber: Transcriber,
    config: TranscribeConfig,
    bar: Progress,
    restorer: Restorer | None,
) -> Transcript:
    """Each finished chunk is written beside the target, so that a stopped run can continue.

    Without --output_dir the folder is this run's own: chunks in it were transcribed before memory
    ran out.
    """
    finished = job.finished_rows() if config.resume or not config.output_dir else []
    lines = [json.dumps({"mark": job.fingerprint}), *map(json.dumps, finished)]
    n_chunks = 0

    def on_chunk(row: Row, seconds: float) -> None:
        nonlocal n_chunks
        n_chunks += 1
        if n_chunks > len(finished):
            lines.append(json.dumps(row))
            fsio.write_text(job.partial, "\n".join(lines) + "\n")
        last_words = row["segments"][-1]["text"].strip()[-40:] if row["segments"] else ""
        bar.step(round(seconds), f"{job.file.name} {last_words}")

    result = transcribe_recording(transcriber, job.file, config, finished, on_chunk)
    if restorer and result.segments:
        result.segments = restorer(result.segments)
    return result


@contextmanager
def _open_restorer(config: TranscribeConfig, run: Run) -> Iterator[Restorer | None]:
    """Only with --restore_punctuation: it starts a language model."""
    if not config.restore_punctuation:
        yield None
        return
    # imports openai and jiwer: 32 MB and half a second that plain transcription does without
    from onecard.tasks.asr import punctuation_restorer

    with punctuation_restorer.open_restorer(config, run) as restorer:
        yield restorer


def output_names(files: list[Path]) -> dict[Path, str]:
    """A name for each file's outputs: its stem. Files with one stem take their suffix, their folder
    or a number too."""
    names: dict[Path, str] = {}
    n_same = Counter(path.stem for path in files)
    for path in files:
        candidates = [
            path.name,
            f"{path.parent.name}-{path.name}",
            *(f"{path.name}-{i}" for i in range(2, 3 + n_same[path.stem])),
        ]
        if n_same[path.stem] == 1:
            candidates.insert(0, path.stem)
        names[path] = next(name for name in candidates if name not in names.values())
    return names


def fingerprint(path: Path, config: TranscribeConfig) -> str:
    """Of the file, the settings and the enrolled voices."""
    stat = path.stat()
    voices = sorted((paths.home() / "voices").glob("*.json")) if config.diarize else []
    values = [
        str(path.resolve()),
        stat.st_size,
        stat.st_mtime_ns,
        config.model_dump(include=RECOGNITION_FIELDS),
        [[voice.name, voice.stat().st_mtime_ns] for voice in voices],
    ]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _header_seconds(path: Path) -> float:
    """For the progress bar; 0 where the file cannot be opened, which is reported in its turn."""
    try:
        return audio.duration_s(path)
    except DataError:
        return 0.0


def _render(rows: list[dict[str, Any]], out: Path) -> str:
    if len(rows) == 1 and "text" in rows[0]:
        return _render_one(rows[0])
    cells = []
    for row in rows:
        remark = row.get("error", "")
        if row.get("skipped"):
            remark = "was done before"
        cells.append(
            [
                Path(row["file"]).name,
                duration(row["seconds"]) if "seconds" in row else "–",
                row.get("language", "–"),
                str(len(row["text"].split())) if "text" in row else "–",
                remark,
            ]
        )
    return f"{table(cells, ['file', 'length', 'language', 'words', ''])}\nwritten to {out}"


def _render_one(row: dict[str, Any]) -> str:
    summary = f"{duration(row['seconds'])} of {row['language'] or 'no speech'}"
    if row["speakers"]:
        summary += f", {len(row['speakers'])} speakers"
    if row["dropped"]:
        summary += f"; {len(row['dropped'])} hallucinated passages removed"
    text = row["text"] or "(nobody speaks)"
    return "\n".join([text, "", summary, *(f"wrote {path}" for path in row["written"])])
