"""A transcript as files: txt, srt, vtt, tsv, json, rttm. What was removed is told in each, with its
time."""

import json
from typing import Any

from onecard.tasks.asr.captions import Caption, captions
from onecard.tasks.asr.transcript import Transcript, join_texts


def timestamp(seconds: float, comma: str = ".") -> str:
    """hh:mm:ss.mmm, with `comma` before the milliseconds.

    >>> timestamp(62.3456), timestamp(3725.0, ",")
    ('00:01:02.346', '01:02:05,000')
    """
    ms = round(max(seconds, 0) * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


def render(transcript: Transcript, format: str, name: str = "audio") -> str:
    """The content of a file in one of configs.FORMATS. `name`: what RTTM calls the recording."""
    match format:
        case "json":
            return json.dumps(transcript.as_dict(), ensure_ascii=False, indent=1) + "\n"
        case "srt":
            return _srt(transcript)
        case "vtt":
            return _vtt(transcript)
        case "tsv":
            return _tsv(transcript)
        case "rttm":
            return _rttm(transcript, name)
        case _:
            return _txt(transcript)


def _srt(transcript: Transcript) -> str:
    rows = captions(transcript.segments, named=True, dropped=transcript.dropped)
    return "".join(
        f"{i}\n{timestamp(row.start, ',')} --> {timestamp(row.end, ',')}\n"
        f"{row.text.replace('-->', '->')}\n\n"
        for i, row in enumerate(rows, 1)
    )


def _vtt(transcript: Transcript) -> str:
    """What was removed stands in comments, which players do not show."""
    notes = [
        (float(row["start"]), f"NOTE {_escape(_removed(row))}\n\n") for row in transcript.dropped
    ]
    cues = [(row.start, _cue(row)) for row in captions(transcript.segments)]
    blocks = sorted([*notes, *cues], key=lambda block: block[0])
    return "".join(["WEBVTT\n\n", *(text for _, text in blocks)])


def _cue(row: Caption) -> str:
    voice = f"<v {_escape(row.speaker)}>" if row.speaker else ""
    text = "\n".join(_escape(line) for line in row.lines)
    return f"{timestamp(row.start)} --> {timestamp(row.end)}\n{voice}{text}\n\n"


def _escape(text: str) -> str:
    """WebVTT reads <, > and & as markup, and --> as a time."""
    return text.strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _removed(row: dict[str, Any]) -> str:
    text = " ".join(str(row["text"]).split())
    return (
        f"removed {timestamp(row['start'])[:-4]} to {timestamp(row['end'])[:-4]} "
        f"({row['why']}): {text}"
    )


def _tsv(transcript: Transcript) -> str:
    rows = [(s.start, s.end, s.speaker, s.text) for s in transcript.segments]
    rows += [
        (row["start"], row["end"], "", f"[removed: {row['why']}] {row['text']}")
        for row in transcript.dropped
    ]
    lines = ["start\tend\tspeaker\ttext\n"]
    for start, end, speaker, text in sorted(rows, key=lambda row: float(row[0])):
        times = f"{round(start * 1000)}\t{round(end * 1000)}"
        lines.append(f"{times}\t{speaker}\t{' '.join(text.split())}\n")
    return "".join(lines)


def _rttm(transcript: Transcript, name: str) -> str:
    """Lines that begin with ;; are comments."""
    stem = "_".join(name.split()) or "audio"
    lines = [f";; {_removed(row)}\n" for row in transcript.dropped]
    lines += [
        f"SPEAKER {stem} 1 {t.start:.3f} {t.end - t.start:.3f} <NA> <NA> "
        f"{'_'.join(t.speaker.split())} <NA> <NA>\n"
        for t in transcript.turns
    ]
    return "".join(lines)


def _txt(transcript: Transcript) -> str:
    """A paragraph for each speaker; a line a segment where none is known."""
    removed = "".join(f"[{_removed(row)}]\n" for row in transcript.dropped)
    if removed:
        removed = f"\n{removed}"
    if not any(segment.speaker for segment in transcript.segments):
        return "".join(f"{s.text.strip()}\n" for s in transcript.segments) + removed
    paragraphs: list[str] = []
    speaker = None
    for segment in transcript.segments:
        if segment.speaker == speaker:
            paragraphs[-1] = join_texts([paragraphs[-1], segment.text])
        else:
            speaker = segment.speaker
            paragraphs.append(
                f"\n[{timestamp(segment.start)[:8]}] {speaker or 'unknown speaker'}: "
                f"{segment.text.strip()}"
            )
    return "\n".join(paragraphs).lstrip("\n") + "\n" + removed
