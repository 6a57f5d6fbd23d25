"""Who speaks when: whole stretches of speech become voices, alike voices become people, known ones
get their names. Knows no words."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from onecard import fsio, paths
from onecard.errors import DataError, MissingExtra, NotFound
from onecard.runs.record import Run
from onecard.tasks.asr import audio, speaker_embedding
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.words import Turn

LEAST_S = 0.9
"""A stretch shorter than this does not make a person; it goes to the voice it is nearest to."""
PAD_S = 0.4
"""What the voice activity adds on each side, taken off again here."""
LONG_S = 4.0
"""From twice this length on a stretch may hold two people who follow each other without a pause."""
KNOWN = 0.25
"""Cosine distance below which a voice is that of an enrolled person: between clips of one speaker
it is 0.1 to 0.2, between two 0.3 and more."""
TWO_AT_ONCE = 0.05
"""A stretch whose distances to the two nearest people differ by less is marked as two at once: a
guess."""
LONELY_S = 2.0
"""People with less speech than this, beside others with more, are thought to be a bad stretch of
one of these."""


class Voices:
    """Collects stretches of one recording, and tells at its end who they were."""

    def __init__(self, settings: Settings) -> None:
        self.s = settings
        self.encoder = speaker_embedding.opened()
        self.spans: list[tuple[float, float]] = []
        self.vectors: list[np.ndarray] = []

    def add(self, sound: np.ndarray, regions: Sequence[dict[str, int]], start_s: float) -> None:
        """Speech of one stretch of the recording."""
        for a, b in _inner(regions, len(sound)):
            for low, high in self._split(sound, a, b):
                self.spans.append((start_s + low / RATE_HZ, start_s + high / RATE_HZ))
                self.vectors.append(self.encoder.embed(sound[low:high]))

    def _split(self, sound: np.ndarray, a: int, b: int) -> list[tuple[int, int]]:
        """One stretch, or its two parts (and theirs) where the voice before a moment is another
        than that after it."""
        least = int(LONG_S / 2 * RATE_HZ)
        if b - a < 2 * least:
            return [(a, b)]
        moments = range(a + least, b - least + 1, RATE_HZ // 2)
        width = int(LONG_S * RATE_HZ)
        far = [
            (
                1
                - float(
                    self.encoder.embed(sound[max(a, at - width) : at])
                    @ self.encoder.embed(sound[at : min(b, at + width)])
                ),
                at,
            )
            for at in moments
        ]
        most, at = max(far)
        if (
            most < self.s.speaker_threshold + 0.08
        ):  # two halves of few seconds differ more than whole stretches do
            return [(a, b)]
        return [*self._split(sound, a, at), *self._split(sound, at, b)]

    def turns(self) -> list[Turn]:
        """In the order of time; neighbours of one speaker are joined."""
        if not self.vectors:
            return []
        vectors, lengths = np.stack(self.vectors), np.array([b - a for a, b in self.spans])
        people = cluster(vectors, lengths, self.s.num_speakers, self.s.speaker_threshold)
        centres = np.stack(
            [_centre(vectors[people == i], lengths[people == i]) for i in range(people.max() + 1)]
        )
        names = named(centres, known_voices())
        turns = []
        for (start, end), person, vector in zip(self.spans, people, vectors, strict=True):
            far = np.sort(1 - centres @ vector)
            turns.append(
                Turn(
                    round(start, 3),
                    round(end, 3),
                    names[person],
                    overlap=len(far) > 1
                    and end - start > 1
                    and float(far[1] - far[0]) < TWO_AT_ONCE,
                )
            )
        return joined(sorted(turns, key=lambda turn: turn.start))


def cluster(vectors: np.ndarray, lengths: np.ndarray, number: int, threshold: float) -> np.ndarray:
    """(n) people from 0 in the order of their first word.

    Average linkage on cosine distance over stretches that are long enough; the others follow the
    nearest person.
    """
    sure = np.flatnonzero(lengths >= LEAST_S)
    if len(sure) == 0 or (number and len(sure) < number):
        sure = np.argsort(-lengths)[: max(number, 1)]
    if len(sure) == 1:
        labels = np.array([1])
    else:
        tree = linkage(vectors[sure], method="average", metric="cosine")
        labels = (
            fcluster(tree, number, "maxclust") if number else fcluster(tree, threshold, "distance")
        )
    out = np.full(len(vectors), -1)
    out[sure] = labels
    if not number:
        out = _without_lonely(out, vectors, lengths)
    kept = [label for label in np.unique(out) if label >= 0]
    centres = np.stack([_centre(vectors[out == label], lengths[out == label]) for label in kept])
    for i in np.flatnonzero(out < 0):
        out[i] = kept[int(np.argmax(centres @ vectors[i]))]
    order = dict.fromkeys(out.tolist())
    numbers = {label: i for i, label in enumerate(order)}
    return np.array([numbers[label] for label in out.tolist()])


def _without_lonely(labels: np.ndarray, vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    spoken = {label: lengths[labels == label].sum() for label in np.unique(labels) if label >= 0}
    many = [label for label, seconds in spoken.items() if seconds >= LONELY_S]
    if many:
        for label, seconds in spoken.items():
            if seconds < LONELY_S:
                labels[labels == label] = -1
    return labels


def _centre(vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    mean = (vectors * lengths[:, None]).sum(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9))


def named(centres: np.ndarray, known: dict[str, np.ndarray]) -> list[str]:
    """A name for each person: an enrolled one where the voice is near enough, each name once; else
    speaker 1, 2 ..."""
    names = [""] * len(centres)
    pairs = sorted(
        (1 - float(centre @ vector), i, name)
        for i, centre in enumerate(centres)
        for name, vector in known.items()
    )
    for far, i, name in pairs:
        if far < KNOWN and not names[i] and name not in names:
            names[i] = name
    count = 0
    for i, name in enumerate(names):
        if not name:
            count += 1
            names[i] = f"speaker {count}"
    return names


def joined(turns: Sequence[Turn], gap_s: float = 0.5) -> list[Turn]:
    out: list[Turn] = []
    for turn in turns:
        last = out[-1] if out else None
        if (
            last
            and last.speaker == turn.speaker
            and turn.start - last.end <= gap_s
            and last.overlap == turn.overlap
        ):
            out[-1] = replace(last, end=max(last.end, turn.end))
        else:
            out.append(turn)
    return out


def _inner(regions: Sequence[dict[str, int]], length: int) -> list[tuple[int, int]]:
    """Speech without what the voice activity added around it."""
    pad, out = int(PAD_S * RATE_HZ), []
    for i, row in enumerate(regions):
        before = row["start"] - regions[i - 1]["end"] if i else row["start"] + pad
        after = (
            regions[i + 1]["start"] - row["end"]
            if i + 1 < len(regions)
            else length - row["end"] + pad
        )
        a, b = row["start"] + (pad if before > 0 else 0), row["end"] - (pad if after > 0 else 0)
        if b - a > RATE_HZ // 10:
            out.append((a, b))
        elif row["end"] > row["start"]:
            out.append((row["start"], row["end"]))
    return out


def known_voices() -> dict[str, np.ndarray]:
    out = {}
    for path in sorted((paths.home() / "voices").glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        out[str(row["name"])] = np.array(row["vector"], dtype=np.float32)
    return out


def enroll(name: str, clips: Sequence[Path], settings: Settings, run: Run) -> tuple[Path, float]:
    """Keep the mean voice of these clips. Raises DataError where nobody speaks in them."""
    from onecard.tasks.asr.model import open_ear

    ear, encoder = open_ear(settings, run), speaker_embedding.opened()
    vectors, lengths = [], []
    for clip in clips:
        sound = audio.load(clip)
        for a, b in _inner(ear.regions(sound), len(sound)):
            vectors.append(encoder.embed(sound[a:b]))
            lengths.append((b - a) / RATE_HZ)
    if sum(lengths) < LEAST_S:
        raise DataError(
            f"there is too little speech to know {name} by",
            why=f"{sum(lengths):.1f} s in {len(clips)} clips",
            fix="a clip with at least three seconds of that one voice",
        )
    path = paths.safe_join(paths.home() / "voices", f"{name}.json")
    fsio.write_text(
        path,
        json.dumps(
            {
                "name": name,
                "vector": [
                    round(float(x), 6) for x in _centre(np.stack(vectors), np.array(lengths))
                ],
                "seconds": sum(lengths),
            }
        ),
    )
    return path, float(sum(lengths))


class Pyannote:
    """pyannote's own pipeline over the whole file, for those who accepted its licence."""

    def __init__(self, settings: Settings, path: Path) -> None:
        try:
            from pyannote.audio import Pipeline
        except ModuleNotFoundError:
            raise MissingExtra(
                "--diarizer pyannote needs pyannote.audio",
                why="it is not installed",
                fix="pip install pyannote.audio; or leave --diarizer out",
            ) from None
        try:
            self.pipeline: Any = Pipeline.from_pretrained("pyannote/speaker-diarization-3.1")
        except Exception as fault:  # gated, offline or a wrong token: each raises another class
            raise NotFound(
                "pyannote's models cannot be had",
                why=str(fault).splitlines()[0][:200],
                fix="accept the licence on the page of pyannote/speaker-diarization-3.1, then: hf "
                "auth login",
            ) from None
        if self.pipeline is None:  # so it says that the licence was not accepted
            raise NotFound(
                "pyannote's models cannot be had",
                why="they are gated",
                fix="accept the licence on the page of pyannote/speaker-diarization-3.1, then: hf "
                "auth login",
            )
        if torch.cuda.is_available():
            self.pipeline.to(torch.device("cuda"))
        self.path, self.number = path, settings.num_speakers

    def add(self, sound: np.ndarray, regions: Sequence[dict[str, int]], start_s: float) -> None: ...

    def turns(self) -> list[Turn]:
        found = self.pipeline(
            str(self.path), **({"num_speakers": self.number} if self.number else {})
        )
        found = getattr(found, "speaker_diarization", found)
        names: dict[str, str] = {}
        return [
            Turn(
                round(span.start, 3),
                round(span.end, 3),
                names.setdefault(label, f"speaker {len(names) + 1}"),
            )
            for span, _, label in found.itertracks(yield_label=True)
        ]


def open_voices(settings: Settings, path: Path) -> Any:
    """Raises MissingExtra, NotFound."""
    return Pyannote(settings, path) if settings.diarizer == "pyannote" else Voices(settings)
