"""Sound files to words: reading, hearing, who speaks, editing, writing; a stretch at a time, so
that three hours take the memory of ten minutes. Reads from top to bottom; knows no other kind."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from onecard import fsio, paths
from onecard.errors import DataError, SettingsError, not_found
from onecard.hub import checkpoints
from onecard.reporting import Progress, Result, table
from onecard.runs.record import Run
from onecard.tasks.asr import audio, words
from onecard.tasks.asr.audio import RATE_HZ, Facts
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.model import Transcriber, open_ear, shifted
from onecard.tasks.asr.words import Segment, Transcript
from onecard.units import duration

STRETCH_S = 480
"""Sound that is in memory at once (31 MB): cut at a pause."""
PAUSE_S = 30
"""How far back a pause is looked for."""


def transcribe(settings: Settings, run: Run) -> Result:
    """Write down every file. Raises OneCardErrors; a file that is no sound is told and left out."""
    settings = with_names(settings)
    if wrong := [form for form in settings.formats if form not in words.FORMATS]:
        raise not_found("format", wrong[0], words.FORMATS)
    if settings.live:
        from onecard.tasks.asr import live

        return live.listen(settings, run)
    if not settings.audio:
        raise SettingsError(
            "there is no sound",
            why="no file or folder was named",
            fix="onecard asr transcribe talk.mp3",
        )
    if settings.resume and not settings.output_dir:
        raise SettingsError(
            "there is nothing to go on with",
            why="--resume needs the folder that was written to; without --output_dir each run has "
            "its own",
            fix="--output_dir with that folder",
        )
    files = audio.find(settings.audio)
    marked = {path: marks(path, settings) for path in files}
    run.data(
        "files",
        rows=len(files),
        sha256=hashlib.sha256("".join(marked.values()).encode()).hexdigest(),
    )
    out = (
        Path(settings.output_dir).expanduser()
        if settings.output_dir
        else (run.folder or Path.cwd()) / "artifacts"
    )
    stems = names_of(files)
    ear = open_ear(settings, run)
    told: list[dict[str, Any]] = []
    lengths = {path: _length(path) for path in files}
    with (
        _editor(settings, run) as edit,
        run.reporter.progress("hearing", round(sum(lengths.values()))) as bar,
    ):
        for path in files:
            target = out / stems[path]
            mark = marked[path]
            if settings.resume and _done(target, mark, settings):
                bar.step(round(lengths[path]), f"{path.name} was done")
                told.append({"file": str(path), "skipped": True})
                continue
            try:
                made = one(ear, path, target, mark, settings, bar, edit)
            except DataError as fault:
                if len(files) == 1:
                    raise
                run.reporter.warn(f"{fault.what}: {fault.why}")
                told.append({"file": str(path), "error": fault.what, "why": fault.why})
                continue
            for form in settings.formats:
                fsio.write_text(
                    target.with_name(f"{target.name}.{form}"), words.write(made, form, path.stem)
                )
            fsio.write_text(target.with_name(f".{target.name}.done"), mark)
            target.with_name(f".{target.name}.part.jsonl").unlink(missing_ok=True)
            for warning in made.warnings:
                run.reporter.warn(f"{path.name}: {warning}")
            told.append(
                {
                    "file": str(path),
                    "text": made.text,
                    "language": made.language,
                    "language_probability": made.language_probability,
                    "seconds": made.seconds,
                    "speakers": sorted({turn.speaker for turn in made.turns}),
                    "dropped": made.dropped,
                    "warnings": made.warnings,
                    "written": [
                        str(target.with_name(f"{target.name}.{form}")) for form in settings.formats
                    ],
                }
            )
            run.data(path.name, rows=len(made.segments), sha256=mark)
    return Result({"files": told, "output_dir": str(out)}, _words(told, out))


def with_names(settings: Settings) -> Settings:
    """Names of the list's file beside those given. Raises SettingsError."""
    if not settings.names_file:
        return settings
    path = Path(settings.names_file).expanduser()
    if not path.is_file():
        raise SettingsError(
            f"there is no list of names {path}",
            why="nothing lies at that path",
            fix="a text file with one name a line",
        )
    more = [
        line.strip()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return settings.model_copy(
        update={"names": tuple(dict.fromkeys([*settings.names, *more])), "names_file": ""}
    )


def one(
    ear: Transcriber,
    path: Path,
    target: Path,
    mark: str,
    settings: Settings,
    bar: Progress,
    edit: Callable[[Sequence[Segment]], list[Segment]] | None,
) -> Transcript:
    """The transcript of a file; stretches that were heard before a stop are taken from beside the
    target."""
    part = target.with_name(f".{target.name}.part.jsonl")
    held = (
        _kept(part, mark) if settings.resume or not settings.output_dir else []
    )  # a folder of its own holds only what this run heard, before memory ran out
    lines = [json.dumps({"mark": mark}), *map(json.dumps, held)]
    done = 0

    def each(row: dict[str, Any], seconds: float) -> None:
        nonlocal done
        done += 1
        if done > len(held):
            lines.append(json.dumps(row))
            fsio.write_text(part, "\n".join(lines) + "\n")
        bar.step(
            round(seconds),
            f"{path.name} {row['segments'][-1]['text'].strip()[-40:] if row['segments'] else ''}",
        )

    made = heard(ear, path, settings, held, each)
    if edit and made.segments:
        made.segments = edit(made.segments)
    return made


def heard(
    ear: Transcriber,
    path: Path,
    settings: Settings,
    held: Sequence[dict[str, Any]] = (),
    each: Callable[[dict[str, Any], float], None] | None = None,
) -> Transcript:
    """A file's words and who said them, stretch by stretch.

    `held`: stretches that are known already; `each` is told of every one. Raises DataError.
    """
    facts, made = (
        Facts(),
        Transcript(language="" if settings.language == "auto" else settings.language),
    )
    voices = _voices(settings, path) if settings.diarize else None
    for number, (start_s, sound, regions) in enumerate(stretches(ear, path, facts)):
        if number < len(held):
            row = held[number]
        else:
            segments, dropped, language, sure = ear.hear(sound, made.language, regions)
            row = {
                "segments": [asdict(shifted(segment, start_s)) for segment in segments],
                "dropped": [
                    {**d, "start": d["start"] + start_s, "end": d["end"] + start_s} for d in dropped
                ],
                "language": language,
                "sure": sure,
            }
        made.segments += [words.segment_of(segment) for segment in row["segments"]]
        made.dropped += row["dropped"]
        if row["language"] and not made.language_probability:
            made.language, made.language_probability = row["language"], row["sure"]
        if voices is not None:
            voices.add(sound, regions, start_s)
        if each:
            each(row, len(sound) / RATE_HZ)
    made.seconds, made.warnings = facts.seconds, facts.warnings()
    if not made.segments:
        made.warnings.append(
            "nobody speaks"
            if not made.dropped
            else "what the model wrote was taken out: nobody said it"
        )
    if voices is not None:
        made.turns = voices.turns()
        made.segments = words.by_speaker(made.segments, made.turns)
    return made


def stretches(
    ear: Transcriber, path: Path, facts: Facts
) -> Iterator[tuple[float, np.ndarray, list[dict[str, int]]]]:
    """(start in seconds, sound, where somebody speaks in it), cut at pauses; all but STRETCH_S of a
    file stays on the disk."""
    held, start = np.zeros(0, dtype=np.float32), 0
    for block in audio.blocks(path, facts):
        held = np.concatenate([held, block])
        if len(held) < STRETCH_S * RATE_HZ:
            continue
        regions = ear.regions(held)
        cut = pause_before(regions, len(held))
        yield start / RATE_HZ, held[:cut], [row for row in regions if row["end"] <= cut]
        held, start = held[cut:], start + cut
    if len(held):
        yield start / RATE_HZ, held, ear.regions(held)


def pause_before(regions: list[dict[str, int]], length: int) -> int:
    """Where to cut a stretch: before the last speech, unless that has lasted longer than PAUSE_S."""
    if (
        regions
        and regions[-1]["end"] > length - RATE_HZ
        and regions[-1]["start"] > length - PAUSE_S * RATE_HZ
    ):
        return max(regions[-1]["start"], 1)
    return length


def names_of(files: list[Path]) -> dict[Path, str]:
    """A name for each file's outputs: its stem; files of one name take their folder or a number
    too."""
    out: dict[Path, str] = {}
    taken: set[str] = set()
    stems = Counter(path.stem for path in files)
    for path in files:
        ways = [
            path.stem,
            path.name,
            f"{path.parent.name}-{path.name}",
            *(f"{path.name}-{i}" for i in range(2, 3 + stems[path.stem])),
        ]
        single = stems[path.stem] == 1
        chosen = next(way for way in (ways if single else ways[1:]) if way not in taken)
        out[path] = chosen
        taken.add(chosen)
    return out


def marks(path: Path, settings: Settings) -> str:
    """What a transcript depends on: the file, and how it is heard."""
    facts = path.stat()
    people = sorted((paths.home() / "voices").glob("*.json")) if settings.diarize else []
    heard = settings.model_dump(
        include={
            "model_name",
            "language",
            "task",
            "compute_type",
            "beam_size",
            "hotwords",
            "names",
            "initial_prompt",
            "vad_threshold",
            "guards",
            "diarize",
            "num_speakers",
            "speaker_threshold",
            "diarizer",
            "edit",
            "editor_model",
            "word_timestamps",
        }
    )
    return hashlib.sha256(
        json.dumps(
            [
                str(path.resolve()),
                facts.st_size,
                facts.st_mtime_ns,
                heard,
                [[voice.name, voice.stat().st_mtime_ns] for voice in people],
            ]
        ).encode()
    ).hexdigest()


def _done(target: Path, mark: str, settings: Settings) -> bool:
    done = target.with_name(f".{target.name}.done")
    return (
        done.exists()
        and done.read_text() == mark
        and all(target.with_name(f"{target.name}.{form}").exists() for form in settings.formats)
    )


def _kept(part: Path, mark: str) -> list[dict[str, Any]]:
    """Stretches of a stopped run, if it was the same work."""
    if not part.exists():
        return []
    head, *rows = part.read_text(encoding="utf-8").splitlines()
    return [json.loads(row) for row in rows] if json.loads(head)["mark"] == mark else []


def _length(path: Path) -> float:
    try:
        return audio.duration_s(path)
    except DataError:
        return 0.0


def _voices(settings: Settings, path: Path) -> Any:
    from onecard.tasks.asr import diarize  # loads torch for the voice encoder

    return diarize.open_voices(settings, path)


@contextmanager
def _editor(
    settings: Settings, run: Run
) -> Iterator[Callable[[Sequence[Segment]], list[Segment]] | None]:
    """The editor, where it is wanted."""
    if not settings.edit:
        yield None
        return
    from onecard.tasks.asr import punctuation_restorer  # starts a language model

    with punctuation_restorer.opened(settings, run) as edit:
        yield edit


def _words(told: list[dict[str, Any]], out: Path) -> str:
    if len(told) == 1 and "text" in told[0]:
        row = told[0]
        return "\n".join(
            [
                row["text"] or "(nobody speaks)",
                "",
                f"{duration(row['seconds'])} of {row['language'] or 'no speech'}"
                + (f", {len(row['speakers'])} speakers" if row["speakers"] else "")
                + (
                    f"; {len(row['dropped'])} passages taken out that nobody said"
                    if row["dropped"]
                    else ""
                ),
                *(f"made {path}" for path in row["written"]),
            ]
        )
    cells = [
        [
            Path(row["file"]).name,
            duration(row["seconds"]) if "seconds" in row else "–",
            row.get("language", "–"),
            str(len(row["text"].split())) if "text" in row else "–",
            row.get("error", "") or ("was done" if row.get("skipped") else ""),
        ]
        for row in told
    ]
    return f"{table(cells, ['file', 'length', 'language', 'words', ''])}\nwritten to {out}"


def enroll(settings: Settings, run: Run) -> Result:
    """Keep a voice by its name. Raises SettingsError, DataError."""
    from onecard.tasks.asr import diarize

    if not settings.audio:
        raise SettingsError(
            "whose voice, and in which file?",
            why="enroll takes a name and at least one clip",
            fix="onecard asr enroll anna clip.wav",
        )
    name, clips = (
        (settings.name, settings.audio)
        if settings.name
        else (settings.audio[0], settings.audio[1:])
    )
    if "/" in name or name.startswith("."):
        raise SettingsError(
            f"'{name}' cannot be a name",
            why="it is kept as a file of that name",
            fix="letters, digits and spaces",
        )
    if not clips:
        raise SettingsError(
            f"there is no clip of {name}",
            why="only a name was given",
            fix=f"onecard asr enroll {name} clip.wav",
        )
    path, seconds = diarize.enroll(name, audio.find(clips), settings, run)
    return Result(
        {"name": name, "path": str(path), "seconds": seconds},
        f"{name}'s voice is known now, from {seconds:.1f} s of speech: {path}",
    )


def train(settings: Settings, run: Run) -> Result:
    """The room of the training, opened after its libraries were told to be quiet.

    Raises what it raises.
    """
    checkpoints.quiet()
    from onecard.tasks.asr import train as room

    return room.train(settings, run)
