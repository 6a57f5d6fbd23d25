"""How well it hears: word and character errors with intervals, speaker errors, speed and latency.

Knows no training.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from onecard.errors import DataError, SettingsError
from onecard.evaluation import stats
from onecard.evaluation.metrics.speech import character_errors, word_errors
from onecard.reporting import Reporter, Result, table
from onecard.runs.record import Run, fingerprint
from onecard.tasks.asr import dataset, transcribe
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.dataset import Pair
from onecard.tasks.asr.model import Transcriber, open_ear
from onecard.tasks.asr.words import Transcript, Turn
from onecard.units import duration

COLLAR_S = 0.5
"""Of which half lies on each side of a border of the reference: nobody agrees on borders more
closely."""


@cache
def _normalizer(language: str) -> Any:
    return EnglishTextNormalizer({}) if language in ("en", "") else BasicTextNormalizer()


def normal(text: str, language: str = "en") -> str:
    """As Whisper's paper scores: case, marks, fillers and spelled numbers are equal (Radford et al.

    2022, appendix C); other languages lose case and marks.
    """
    return str(_normalizer(language)(text)).strip()


@dataclass(frozen=True)
class Errors:
    """Counts of one item."""

    word_errors: int
    words: int
    char_errors: int
    chars: int


def errors(heard: str, reference: str, language: str = "en") -> Errors:
    ways = partial(normal, language=language)
    return Errors(*word_errors(heard, reference, ways), *character_errors(heard, reference, ways))


def rates(rows: Sequence[Errors], prefix: str = "") -> dict[str, stats.Interval]:
    """WER and CER over all items, with intervals over items."""
    return {
        f"{prefix}wer": stats.ratio_interval(
            [r.word_errors for r in rows], np.array([r.words for r in rows])
        ),
        f"{prefix}cer": stats.ratio_interval(
            [r.char_errors for r in rows], np.array([r.chars for r in rows])
        ),
    }


def hear_all(
    ear: Transcriber,
    pairs: Sequence[Pair],
    settings: Settings,
    reporter: Reporter,
    what: str = "hearing",
) -> dict[str, tuple[Transcript, float]]:
    """id -> (transcript, seconds it took); what cannot be heard is told and left out."""
    out = {}
    with reporter.progress(what, len(pairs)) as bar:
        for pair in pairs:
            started = time.perf_counter()
            try:
                if not pair.path.is_file():
                    raise DataError(
                        f"there is no {pair.path}",
                        why="nothing lies at that path",
                        fix="check the table of references",
                    )
                out[pair.id] = (
                    transcribe.heard(ear, pair.path, settings),
                    time.perf_counter() - started,
                )
            except DataError as fault:
                reporter.warn(f"{fault.what}: {fault.why}")
            bar.step(1, out[pair.id][0].text[-40:] if pair.id in out else "")
    return out


def names_missed(text: str, reference: str, names: Sequence[str]) -> tuple[int, int]:
    """(names of the list that the reference has and the text has not, names that the reference
    has), each as often as it stands there."""

    def count(name: str, where: str) -> int:
        return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", where))

    want = {name: count(name, reference) for name in names}
    return sum(max(0, n - count(name, text)) for name, n in want.items()), sum(want.values())


def der(
    turns: Sequence[Turn], reference: Sequence[Turn], seconds: float, collar_s: float = COLLAR_S
) -> dict[str, float]:
    """Diarization error and its parts in seconds: missed, false alarm, confusion, total
    (pyannote.metrics; overlapped speech counts)."""
    from pyannote.core import Annotation, Timeline
    from pyannote.core import Segment as Span
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(rows: Sequence[Turn]) -> Any:
        made = Annotation()
        for i, turn in enumerate(rows):
            if turn.end > turn.start:
                made[Span(turn.start, turn.end), i] = turn.speaker
        return made

    found = DiarizationErrorRate(collar=collar_s, skip_overlap=False)(
        annotation(reference), annotation(turns), uem=Timeline([Span(0, seconds)]), detailed=True
    )
    return {
        "der": float(found["diarization error rate"]),
        "missed_s": float(found["missed detection"]),
        "false_alarm_s": float(found["false alarm"]),
        "confusion_s": float(found["confusion"]),
        "total_s": float(found["total"]),
    }


def _edited(
    heard: dict[str, tuple[Transcript, float]], pairs: Sequence[Pair], settings: Settings, run: Run
) -> dict[str, stats.Interval]:
    """Errors before and after the editor, names of the list missed before and after, and words
    changed that are on no list (must be 0)."""
    from onecard.tasks.asr import punctuation_restorer  # asks a language model

    after: list[Errors] = []
    missed: list[tuple[int, int, int]] = []
    unlisted = 0
    with punctuation_restorer.opened(settings, run) as edit:
        for pair in pairs:
            made = heard[pair.id][0]
            text = " ".join(segment.text.strip() for segment in edit(made.segments))
            after.append(errors(text, pair.text, made.language))
            missed.append(
                (
                    *names_missed(made.text, pair.text, settings.names),
                    names_missed(text, pair.text, settings.names)[0],
                )
            )
            unlisted += punctuation_restorer.unlisted(
                made.text.split(), text.split(), settings.names
            )
    out = {
        "edited_wer": rates(after)["wer"],
        "editor_unlisted_changes": stats.Interval(unlisted, unlisted, unlisted, len(pairs)),
    }
    if sum(row[1] for row in missed):
        wholes = np.array([row[1] for row in missed])
        out |= {
            "name_error": stats.ratio_interval([row[0] for row in missed], wholes),
            "edited_name_error": stats.ratio_interval([row[2] for row in missed], wholes),
        }
    return out


def read_rttm(path: Path) -> list[Turn]:
    """Raises DataError with file:line."""
    out = []
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
    ):
        parts = line.split()
        if not parts or parts[0] != "SPEAKER":
            continue
        try:
            out.append(Turn(float(parts[3]), float(parts[3]) + float(parts[4]), parts[7]))
        except (IndexError, ValueError):
            raise DataError(
                f"{path}:{number} is no line of RTTM",
                why=line[:80],
                fix="SPEAKER file 1 start length <NA> <NA> name <NA> <NA>",
            ) from None
    return out


def evaluate(settings: Settings, run: Run) -> Result:
    """Hear a folder that has references and say how well.

    Raises SettingsError, NotFound, DataError.
    """
    settings = transcribe.with_names(settings)
    if not settings.references:
        raise SettingsError(
            "there is nothing to score on",
            why="no folder with references was named",
            fix="onecard asr evaluate FOLDER, with talk.txt (or talk.rttm) beside talk.wav",
        )
    pairs = dataset.read(settings.references)
    run.data(
        "questions",
        rows=len(pairs),
        sha256="".join(sorted(fingerprint(pair.path)[:8] for pair in pairs if pair.path.exists()))[
            :64
        ],
    )
    speaks = settings.diarize or any(pair.rttm for pair in pairs)
    ear = open_ear(settings, run)
    _ = (
        transcribe._voices(settings, pairs[0].path)
        if speaks and settings.diarizer == "embedded"
        else None
    )  # loads the voice encoder before the clock runs
    ear.regions(np.zeros(RATE_HZ, dtype=np.float32))  # loads Silero before the clock runs
    heard = hear_all(ear, pairs, settings.model_copy(update={"diarize": speaks}), run.reporter)
    left_out = [pair.id for pair in pairs if pair.id not in heard]
    pairs = [pair for pair in pairs if pair.id in heard]
    if not pairs:
        raise DataError(
            "nothing could be heard",
            why="each recording is missing or no sound",
            fix="see the warnings above",
        )
    found = {
        pair.id: errors(heard[pair.id][0].text, pair.text, heard[pair.id][0].language)
        for pair in pairs
        if pair.text
    }
    metrics = rates(list(found.values())) if found else {}
    if settings.edit and found:
        metrics |= _edited(heard, pairs, settings, run)
    speakers = {
        pair.id: der(heard[pair.id][0].turns, read_rttm(pair.rttm), heard[pair.id][0].seconds)
        for pair in pairs
        if pair.rttm
    }
    if speakers:
        metrics["der"] = stats.ratio_interval(
            [row["der"] * row["total_s"] for row in speakers.values()],
            np.array([row["total_s"] for row in speakers.values()]),
        )
    spent, length = (
        [heard[pair.id][1] for pair in pairs],
        [heard[pair.id][0].seconds for pair in pairs],
    )
    metrics |= {
        "real_time_factor": stats.ratio_interval(spent, np.array(length)),
        "latency_s": stats.mean_interval(spent),
    }
    run.items(
        [
            {
                "id": key,
                "scores": {"wer": row.word_errors / max(row.words, 1)},
                "heard": heard[key][0].text,
                "reference": next(p.text for p in pairs if p.id == key),
            }
            for key, row in found.items()
        ]
    )
    run.scores({name: value.as_dict() for name, value in metrics.items()})
    worst = sorted(found, key=lambda key: -found[key].word_errors)[:5]
    cells = [
        [
            Path(key).name,
            f"{found[key].word_errors}/{found[key].words}",
            heard[key][0].text[:60],
            next(p.text for p in pairs if p.id == key)[:60],
        ]
        for key in worst
        if found[key].word_errors
    ]
    words_ = [
        f"{len(pairs)} recordings, {duration(sum(length))}",
        *(f"{name:17} {value.render(4)}" for name, value in metrics.items()),
        table(cells, ["worst", "errors", "heard", "reference"]) if cells else "",
    ]
    data = {
        "metrics": {name: value.as_dict() for name, value in metrics.items()},
        "speakers": speakers,
        "left_out": left_out,
        "items": {
            key: {
                "heard": heard[key][0].text,
                "language": heard[key][0].language,
                "errors": found[key].word_errors,
                "words": found[key].words,
            }
            for key in found
        },
    }
    return Result(data, "\n".join(line for line in words_ if line))
