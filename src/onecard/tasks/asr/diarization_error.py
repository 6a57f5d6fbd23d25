"""Diarization error rate by pyannote.metrics, and RTTM files of reference turns."""

from collections.abc import Sequence
from pathlib import Path

from pyannote.core import Annotation, Timeline
from pyannote.core import Segment as Span
from pyannote.metrics.diarization import DiarizationErrorRate

from onecard.errors import DataError
from onecard.tasks.asr.transcript import Turn

COLLAR_S = 0.5
"""Half of it is ignored on each side of a boundary of the reference: people do not agree on
boundaries more closely."""


def diarization_error(
    turns: Sequence[Turn], reference: Sequence[Turn], seconds: float, collar_s: float = COLLAR_S
) -> dict[str, float]:
    """The rate and its parts in seconds: missed, false alarm, confusion, total. Overlapping speech
    counts."""
    metric = DiarizationErrorRate(collar=collar_s, skip_overlap=False)
    details = metric(
        _annotation(reference),
        _annotation(turns),
        uem=Timeline([Span(0, seconds)]),
        detailed=True,
    )
    return {
        "der": float(details["diarization error rate"]),
        "missed_s": float(details["missed detection"]),
        "false_alarm_s": float(details["false alarm"]),
        "confusion_s": float(details["confusion"]),
        "total_s": float(details["total"]),
    }


def _annotation(turns: Sequence[Turn]) -> Annotation:
    annotation = Annotation()
    for i, turn in enumerate(turns):
        if turn.end > turn.start:
            annotation[Span(turn.start, turn.end), i] = turn.speaker
    return annotation


def read_rttm(path: Path) -> list[Turn]:
    """Raises DataError with file:line."""
    turns = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, length, speaker = float(fields[3]), float(fields[4]), fields[7]
        except (IndexError, ValueError):
            raise DataError(
                f"{path}:{number} is no line of RTTM",
                why=line[:80],
                fix="SPEAKER file 1 start length <NA> <NA> name <NA> <NA>",
            ) from None
        turns.append(Turn(start, start + length, speaker))
    return turns
