"""A transcript and its file formats: txt, srt, vtt, tsv, json, rttm. Pure text."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

FORMATS = ("txt", "srt", "vtt", "tsv", "json", "rttm")
CAPTION_CHARS = 84
"""Two lines of 42 characters, as the subtitle guides of BBC and Netflix have it."""
CAPTION_S = 7.0
"""Longest time that one caption is shown."""
MAX_SLIP_S = 0.4
"""A single word between two of another speaker, shorter than this, is an error of the boundary and
no turn."""


@dataclass(frozen=True)
class Word:
    start: float
    """Seconds from the beginning of the file."""
    end: float
    text: str
    probability: float = 1.0
    speaker: str = ""


@dataclass(frozen=True)
class Segment:
    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 1.0
    speaker: str = ""


@dataclass(frozen=True)
class Turn:
    """A stretch of time in which one person speaks."""

    start: float
    end: float
    speaker: str
    overlap: bool = False
    """Another person seems to speak at the same time."""


@dataclass
class Transcript:
    language: str = ""
    language_probability: float = 0.0
    seconds: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """What the hallucination filter removed: {start, end, text, why}."""
    warnings: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(segment.text.strip() for segment in self.segments).strip()

    def as_dict(self) -> dict[str, Any]:
        return {"text": self.text, **asdict(self)}


def segment_from_dict(row: dict[str, Any]) -> Segment:
    """The inverse of dataclasses.asdict."""
    return Segment(**{**row, "words": tuple(Word(**word) for word in row["words"])})


def timestamp(seconds: float, comma: str = ".") -> str:
    """hh:mm:ss.mmm, with `comma` before the milliseconds.

    >>> timestamp(62.3456), timestamp(3725.0, ",")
    ('00:01:02.346', '01:02:05,000')
    """
    ms = round(max(seconds, 0) * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


def render(transcript: Transcript, format: str, name: str = "audio") -> str:
    """The content of a file in one of FORMATS. `name`: what RTTM calls the recording."""
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
    entries = []
    for i, s in enumerate(captions(transcript.segments), 1):
        text = f"{s.speaker}: {s.text.strip()}" if s.speaker else s.text.strip()
        entries.append(f"{i}\n{timestamp(s.start, ',')} --> {timestamp(s.end, ',')}\n{text}\n\n")
    return "".join(entries)


def _vtt(transcript: Transcript) -> str:
    entries = ["WEBVTT\n\n"]
    for s in captions(transcript.segments):
        voice = f"<v {s.speaker}>" if s.speaker else ""
        text = voice + _escape(s.text)
        entries.append(f"{timestamp(s.start)} --> {timestamp(s.end)}\n{text}\n\n")
    return "".join(entries)


def _tsv(transcript: Transcript) -> str:
    lines = ["start\tend\tspeaker\ttext\n"]
    for s in transcript.segments:
        start, end = round(s.start * 1000), round(s.end * 1000)
        lines.append(f"{start}\t{end}\t{s.speaker}\t{' '.join(s.text.split())}\n")
    return "".join(lines)


def _rttm(transcript: Transcript, name: str) -> str:
    stem = "_".join(name.split()) or "audio"
    return "".join(
        f"SPEAKER {stem} 1 {t.start:.3f} {t.end - t.start:.3f} <NA> <NA> "
        f"{'_'.join(t.speaker.split())} <NA> <NA>\n"
        for t in transcript.turns
    )


def _txt(transcript: Transcript) -> str:
    """A paragraph for each speaker; a line a segment where none is known."""
    if not any(segment.speaker for segment in transcript.segments):
        return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)
    paragraphs: list[str] = []
    speaker = None
    for segment in transcript.segments:
        if segment.speaker == speaker:
            paragraphs[-1] += f" {segment.text.strip()}"
        else:
            speaker = segment.speaker
            paragraphs.append(
                f"\n[{timestamp(segment.start)[:8]}] {speaker or 'unknown speaker'}: "
                f"{segment.text.strip()}"
            )
    return "\n".join(paragraphs).lstrip("\n") + "\n"


def _escape(text: str) -> str:
    """WebVTT reads <, > and & as markup, and --> as a time."""
    return text.strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def captions(segments: Sequence[Segment]) -> list[Segment]:
    """Segments split between words so that each fits on the screen."""
    lines: list[Segment] = []
    for segment in segments:
        fits = len(segment.text) <= CAPTION_CHARS and segment.end - segment.start <= CAPTION_S
        if fits or not segment.words:
            lines.append(segment)
            continue
        line: list[Word] = []
        for word in segment.words:
            if line and _is_full(line, word):
                lines.append(_part(segment, line))
                line = []
            line.append(word)
        lines.append(_part(segment, line))
    return lines


def _is_full(line: Sequence[Word], word: Word) -> bool:
    """Whether `word` begins a new caption: at a limit, or at a sentence in the second half."""
    text = "".join(w.text for w in line)
    ends_sentence = text.rstrip().endswith((".", "?", "!", "。"))
    return (
        len(text) + len(word.text) > CAPTION_CHARS
        or word.end - line[0].start > CAPTION_S
        or (len(text) > CAPTION_CHARS // 2 and ends_sentence)
    )


def _part(segment: Segment, words: Sequence[Word]) -> Segment:
    """The part of a segment that consists of these words."""
    return replace(
        segment,
        start=words[0].start,
        end=words[-1].end,
        text="".join(word.text for word in words).strip(),
        words=tuple(words),
    )


def assign_speakers(segments: Sequence[Segment], turns: Sequence[Turn]) -> list[Segment]:
    """Each word to the speaker at its middle (the nearest where nobody speaks), and segments split
    where the speaker changes."""
    if not turns:
        return list(segments)
    parts: list[Segment] = []
    for segment in segments:
        if not segment.words:
            middle = (segment.start + segment.end) / 2
            parts.append(replace(segment, speaker=_speaker_at(middle, turns)))
            continue
        words = [
            replace(word, speaker=_speaker_at((word.start + word.end) / 2, turns))
            for word in segment.words
        ]
        _mend_slips(words)
        start = 0
        for i in range(1, len(words) + 1):
            if i == len(words) or words[i].speaker != words[start].speaker:
                part = _part(segment, words[start:i])
                parts.append(replace(part, speaker=words[start].speaker))
                start = i
    return parts


def _speaker_at(seconds: float, turns: Sequence[Turn]) -> str:
    """The speaker of the shortest turn around that time, else of the nearest turn."""
    around = [turn for turn in turns if turn.start <= seconds <= turn.end]
    if around:
        return min(around, key=lambda turn: turn.end - turn.start).speaker
    nearest = min(turns, key=lambda turn: min(abs(turn.start - seconds), abs(turn.end - seconds)))
    return nearest.speaker


def _mend_slips(words: list[Word]) -> None:
    for i in range(1, len(words) - 1):
        before, word, after = words[i - 1 : i + 2]
        if word.speaker != before.speaker == after.speaker and word.end - word.start < MAX_SLIP_S:
            words[i] = replace(word, speaker=before.speaker)
