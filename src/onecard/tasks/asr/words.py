"""What was heard, and the files it is written to: txt, srt, vtt, tsv, json, rttm. Pure text."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

FORMATS = ("txt", "srt", "vtt", "tsv", "json", "rttm")
LINE_CHARS = 84
"""Two lines of 42 letters: what a reader takes in at a glance (BBC and Netflix guides)."""
LINE_S = 7.0
"""Longest time that one caption stands."""


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
    """Somebody speaks."""

    start: float
    end: float
    speaker: str
    overlap: bool = False
    """Another one seems to speak at the same time."""


@dataclass
class Transcript:
    language: str = ""
    language_probability: float = 0.0
    seconds: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """What the guards took out: {start, end, text, why}."""
    warnings: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(segment.text.strip() for segment in self.segments).strip()

    def as_dict(self) -> dict[str, Any]:
        return {"text": self.text, **asdict(self)}


def segment_of(row: dict[str, Any]) -> Segment:
    """Back from what asdict made of it."""
    return Segment(**{**row, "words": tuple(Word(**word) for word in row["words"])})


def clock(seconds: float, comma: str = ".") -> str:
    """00:01:02.345

    >>> clock(62.3456), clock(3725.0, ",")
    ('00:01:02.346', '01:02:05,000')
    """
    ms = round(max(seconds, 0) * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


def write(transcript: Transcript, form: str, name: str = "audio") -> str:
    """The text of a file in one of FORMATS."""
    lines = captions(transcript.segments)
    match form:
        case "json":
            return json.dumps(transcript.as_dict(), ensure_ascii=False, indent=1) + "\n"
        case "srt":
            return "".join(
                f"{i}\n{clock(s.start, ',')} --> {clock(s.end, ',')}\n{_said(s)}\n\n"
                for i, s in enumerate(lines, 1)
            )
        case "vtt":
            return "WEBVTT\n\n" + "".join(
                f"{clock(s.start)} --> "
                f"{clock(s.end)}\n{f'<v {s.speaker}>' if s.speaker else ''}{_safe(s.text)}\n\n"
                for s in lines
            )
        case "tsv":
            return "start\tend\tspeaker\ttext\n" + "".join(
                f"{round(s.start * 1000)}\t{round(s.end * 1000)}\t{s.speaker}\t{' '.join(s.text.split())}\n"
                for s in transcript.segments
            )
        case "rttm":
            stem = "_".join(name.split()) or "audio"
            return "".join(
                f"SPEAKER {stem} 1 {t.start:.3f} {t.end - t.start:.3f} <NA> <NA> "
                f"{'_'.join(t.speaker.split())} <NA> <NA>\n"
                for t in transcript.turns
            )
        case _:
            return _plain(transcript)


def _plain(transcript: Transcript) -> str:
    """A paragraph for each one who speaks, else a line a segment."""
    if not any(segment.speaker for segment in transcript.segments):
        return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)
    out, last = [], None
    for segment in transcript.segments:
        if segment.speaker != last:
            out.append(
                f"\n[{clock(segment.start)[:8]}] {segment.speaker or 'somebody'}: "
                f"{segment.text.strip()}"
            )
            last = segment.speaker
        else:
            out[-1] += f" {segment.text.strip()}"
    return "\n".join(out).lstrip("\n") + "\n"


def _said(segment: Segment) -> str:
    return f"{segment.speaker}: {segment.text.strip()}" if segment.speaker else segment.text.strip()


def _safe(text: str) -> str:
    """WebVTT reads <, > and & as marks, and --> as a time."""
    return text.strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def captions(segments: Sequence[Segment]) -> list[Segment]:
    """Segments cut between words so that each fits on the screen."""
    out: list[Segment] = []
    for segment in segments:
        if not segment.words or (
            len(segment.text) <= LINE_CHARS and segment.end - segment.start <= LINE_S
        ):
            out.append(segment)
            continue
        held: list[Word] = []
        for word in segment.words:
            text = "".join(w.text for w in held)
            full = held and (
                len(text) + len(word.text) > LINE_CHARS
                or word.end - held[0].start > LINE_S
                or (len(text) > LINE_CHARS // 2 and text.rstrip().endswith((".", "?", "!", "。")))
            )
            if full:
                out.append(_of(segment, held))
                held = []
            held.append(word)
        out.append(_of(segment, held))
    return out


def _of(segment: Segment, held: Sequence[Word]) -> Segment:
    return replace(
        segment,
        start=held[0].start,
        end=held[-1].end,
        text="".join(word.text for word in held).strip(),
        words=tuple(held),
    )


def by_speaker(segments: Sequence[Segment], turns: Sequence[Turn]) -> list[Segment]:
    """Each word to whoever speaks in its middle (else the nearest), and segments cut where the
    speaker changes."""
    if not turns:
        return list(segments)

    def who(at: float) -> str:
        safe_join = [turn for turn in turns if turn.start <= at <= turn.end]
        nearest = min(
            safe_join or turns,
            key=lambda turn: (
                (turn.end - turn.start)
                if safe_join
                else min(abs(turn.start - at), abs(turn.end - at))
            ),
        )
        return nearest.speaker

    out: list[Segment] = []
    for segment in segments:
        if not segment.words:
            out.append(replace(segment, speaker=who((segment.start + segment.end) / 2)))
            continue
        words = [replace(word, speaker=who((word.start + word.end) / 2)) for word in segment.words]
        for i in range(
            1, len(words) - 1
        ):  # one word between two of another speaker is a slip of the border, not a turn
            if (
                words[i].speaker != words[i - 1].speaker == words[i + 1].speaker
                and words[i].end - words[i].start < 0.4
            ):
                words[i] = replace(words[i], speaker=words[i - 1].speaker)
        start = 0
        for i in range(1, len(words) + 1):
            if i == len(words) or words[i].speaker != words[start].speaker:
                out.append(replace(_of(segment, words[start:i]), speaker=words[start].speaker))
                start = i
    return out
