"""A transcript: words, segments, turns of speakers. Pure text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

UNSPACED = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""Chinese and Japanese characters, and their marks: no spaces between them."""
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
    language: str = ""


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
    """With --multilingual the one that most of the speech is in."""
    language_probability: float = 0.0
    seconds: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """What was removed as said by nobody: {start, end, text, why}."""
    unheard: list[dict[str, float]] = field(default_factory=list)
    """{start, end} of speech for which there are no words."""
    foreign: list[dict[str, Any]] = field(default_factory=list)
    """{start, end, language} of what sounds like another language than it was written in."""
    warnings: list[str] = field(default_factory=list)
    languages: list[dict[str, Any]] = field(default_factory=list)
    """{language, seconds} of speech in each, the most first."""

    @property
    def text(self) -> str:
        return join_texts([segment.text for segment in self.segments])

    def as_dict(self) -> dict[str, Any]:
        return {"text": self.text, **asdict(self)}


def name_languages(
    result: Transcript, probabilities: Mapping[str, float], multilingual: bool
) -> None:
    """Fills in the languages; of a multilingual recording the one is what most speech is in.

    `probabilities`: of each language, where it was detected.
    """
    result.languages = spoken_languages(result.segments)
    if multilingual and result.languages:
        result.language = result.languages[0]["language"]
        result.language_probability = probabilities.get(result.language, 0.0)


def spoken_languages(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """{language, seconds} of each, the most first."""
    seconds: dict[str, float] = {}
    for segment in segments:
        if segment.language:
            spent = segment.end - segment.start
            seconds[segment.language] = seconds.get(segment.language, 0.0) + spent
    ordered = sorted(seconds, key=lambda language: -seconds[language])
    return [{"language": name, "seconds": round(seconds[name], 2)} for name in ordered]


def join_texts(texts: Sequence[str]) -> str:
    """With spaces between, but not in scripts that are written without.

    >>> join_texts(["It ends. ", "Another."]), join_texts(["今日は。", "雨です。"])
    ('It ends. Another.', '今日は。雨です。')
    """
    joined = ""
    for text in filter(None, (text.strip() for text in texts)):
        tight = joined and UNSPACED.match(joined[-1]) and UNSPACED.match(text[0])
        joined += text if tight or not joined else f" {text}"
    return joined


def segment_from_dict(row: dict[str, Any]) -> Segment:
    """The inverse of dataclasses.asdict."""
    return Segment(**{**row, "words": tuple(Word(**word) for word in row["words"])})


def part(segment: Segment, words: Sequence[Word]) -> Segment:
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
                short = part(segment, words[start:i])
                parts.append(replace(short, speaker=words[start].speaker))
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


def spoken_by(segment: Segment, speaker: str) -> Segment:
    words = tuple(replace(word, speaker=speaker) for word in segment.words)
    return replace(segment, speaker=speaker, words=words)


def turns_of(segments: Sequence[Segment]) -> list[Turn]:
    """Each segment as a turn of its speaker, where a channel tells who that is."""
    return [
        Turn(
            segment.start,
            segment.end,
            segment.speaker,
            any(
                other.speaker != segment.speaker
                and min(other.end, segment.end) > max(other.start, segment.start)
                for other in segments
            ),
        )
        for segment in segments
    ]
