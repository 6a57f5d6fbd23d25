"""Who speaks when: regions of speech to embeddings, similar embeddings to speakers, enrolled voices
to their names. Knows no words."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import silhouette_score

from onecard import paths
from onecard.errors import MissingExtra, NotFound
from onecard.tasks.asr import speaker_embedding
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import DiarizeConfig
from onecard.tasks.asr.speech import Region, without_padding
from onecard.tasks.asr.transcript import Turn

MIN_SPEAKER_S = 0.9
"""A shorter span makes no speaker of its own; it goes to the most similar one."""
SPLIT_S = 4.0
"""From twice this length on, a span may hold two people who follow each other without a pause."""
TWO_VOICES_DISTANCE = 0.27
"""Cosine distance from which two voices are two speakers where nothing else is known."""
MIN_SILHOUETTE = 0.3
"""Below this mean silhouette (Rousseeuw 1987) of the best number of speakers, it is one speaker:
the best of 0.15 to 0.3 on dialogues made of half of the clips of bench_speakers.py."""
MAX_SPEAKERS = 20
MIN_SPANS = 4
"""Fewer spans tell nothing about how well they separate."""
HALF_SPAN_DISTANCE = 0.08
"""Two halves of a few seconds differ by this much more than whole spans do."""
MAX_ENROLLED_DISTANCE = 0.25
"""Cosine distance below which a voice is that of an enrolled person: between clips of one speaker
it is 0.1 to 0.2, between two speakers 0.3 and more."""
OVERLAP_MARGIN = 0.05
"""A span whose distances to the two nearest speakers differ by less is marked as overlapping
speech: a guess."""
MIN_TOTAL_S = 2.0
"""Speakers with less speech than this, beside others with more, are probably a noisy span of one of
those."""


class Diarizer(Protocol):
    """Collects the chunks of one recording; tells at its end who spoke when."""

    def add(self, sound: np.ndarray, regions: Sequence[Region], start_s: float) -> None: ...

    def turns(self) -> list[Turn]: ...


def open_diarizer(config: DiarizeConfig) -> Diarizer:
    """Raises MissingExtra, NotFound."""
    if config.diarizer == "pyannote":
        return PyannoteDiarizer(config)
    return EmbeddingDiarizer(config)


class EmbeddingDiarizer:
    """Speaker embeddings and agglomerative clustering."""

    def __init__(self, config: DiarizeConfig) -> None:
        self.config = config
        self.encoder = speaker_embedding.load_encoder()
        self.spans: list[tuple[float, float]] = []
        """Seconds in the recording."""
        self.embeddings: list[np.ndarray] = []

    def add(self, sound: np.ndarray, regions: Sequence[Region], start_s: float) -> None:
        """The speech of one chunk, which begins at `start_s` of the recording."""
        for start, end in without_padding(regions, len(sound)):
            for a, b in self._split(sound, start, end):
                self.spans.append((start_s + a / RATE_HZ, start_s + b / RATE_HZ))
                self.embeddings.append(self.encoder.embed(sound[a:b]))

    def _split(self, sound: np.ndarray, start: int, end: int) -> list[tuple[int, int]]:
        """The span, or its two parts (and theirs) where the voices before and after a moment
        differ."""
        min_part = int(SPLIT_S / 2 * RATE_HZ)
        if end - start < 2 * min_part:
            return [(start, end)]
        width = int(SPLIT_S * RATE_HZ)
        candidates = []
        for at in range(start + min_part, end - min_part + 1, RATE_HZ // 2):
            before = self.encoder.embed(sound[max(start, at - width) : at])
            after = self.encoder.embed(sound[at : min(end, at + width)])
            candidates.append((1 - float(before @ after), at))
        distance, at = max(candidates)
        threshold = self.config.speaker_threshold or TWO_VOICES_DISTANCE
        if distance < threshold + HALF_SPAN_DISTANCE:
            return [(start, end)]
        return [*self._split(sound, start, at), *self._split(sound, at, end)]

    def turns(self) -> list[Turn]:
        """In the order of time; neighbouring turns of one speaker are joined."""
        if not self.embeddings:
            return []
        embeddings = np.stack(self.embeddings)
        lengths = np.array([end - start for start, end in self.spans])
        n_speakers, threshold = self.config.num_speakers, self.config.speaker_threshold
        labels = cluster(embeddings, lengths, n_speakers, threshold)
        centroids = np.stack(
            [
                _centroid(embeddings[labels == i], lengths[labels == i])
                for i in range(labels.max() + 1)
            ]
        )
        names = name_speakers(centroids, enrolled_voices())
        turns = []
        for (start, end), label, embedding in zip(self.spans, labels, embeddings, strict=True):
            distances = np.sort(1 - centroids @ embedding)
            overlap = (
                len(distances) > 1
                and end - start > 1
                and float(distances[1] - distances[0]) < OVERLAP_MARGIN
            )
            turns.append(Turn(round(start, 3), round(end, 3), names[label], overlap))
        return join_turns(sorted(turns, key=lambda turn: turn.start))


# Clustering


def cluster(
    embeddings: np.ndarray, lengths: np.ndarray, n_speakers: int, threshold: float
) -> np.ndarray:
    """(n) speaker numbers from 0 in the order of their first span.

    Average linkage on the cosine distance of spans that are long enough; the others go to the most
    similar speaker. `n_speakers`: 0 stops at `threshold`; without both, the number decides with
    which spans are nearest to their own speaker and farthest from the next (silhouette).
    """
    reliable = np.flatnonzero(lengths >= MIN_SPEAKER_S)
    if len(reliable) < max(n_speakers, 1):
        reliable = np.argsort(-lengths)[: max(n_speakers, 1)]
    if not n_speakers and not threshold and len(reliable) < MIN_SPANS:
        threshold = TWO_VOICES_DISTANCE
    labels = np.full(len(embeddings), -1)
    labels[reliable] = _link(embeddings[reliable], n_speakers, threshold)
    if threshold and not n_speakers:
        _drop_small(labels, lengths)
    speakers = [label for label in np.unique(labels) if label >= 0]
    centroids = np.stack(
        [_centroid(embeddings[labels == label], lengths[labels == label]) for label in speakers]
    )
    for i in np.flatnonzero(labels < 0):
        labels[i] = speakers[int(np.argmax(centroids @ embeddings[i]))]
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([numbers[label] for label in labels.tolist()])


def _link(embeddings: np.ndarray, n_speakers: int, threshold: float) -> np.ndarray:
    if len(embeddings) == 1:
        return np.array([1])
    tree = linkage(embeddings, method="average", metric="cosine")
    if not n_speakers and not threshold:
        n_speakers = _separable(tree, embeddings)
    if n_speakers:
        return np.asarray(fcluster(tree, n_speakers, "maxclust"))
    return np.asarray(fcluster(tree, threshold, "distance"))


def _separable(tree: np.ndarray, embeddings: np.ndarray) -> int:
    """The number of clusters with the highest mean silhouette; 1 where none reaches
    MIN_SILHOUETTE."""
    distances = np.clip(1 - embeddings @ embeddings.T, 0, None)
    np.fill_diagonal(distances, 0)
    best, n_best = MIN_SILHOUETTE, 1
    for n in range(2, min(MAX_SPEAKERS, len(embeddings) - 1) + 1):
        labels = fcluster(tree, n, "maxclust")
        if len(np.unique(labels)) < n:  # ties in the tree
            continue
        silhouette = float(silhouette_score(distances, labels, metric="precomputed"))
        if silhouette > best:
            best, n_best = silhouette, n
    return n_best


def _drop_small(labels: np.ndarray, lengths: np.ndarray) -> None:
    """Spans of speakers with less than MIN_TOTAL_S are assigned again (label -1), unless all
    speakers have so little."""
    totals = {label: lengths[labels == label].sum() for label in np.unique(labels) if label >= 0}
    if max(totals.values()) >= MIN_TOTAL_S:
        for label, seconds in totals.items():
            if seconds < MIN_TOTAL_S:
                labels[labels == label] = -1


def _centroid(embeddings: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Their mean by length, with unit length."""
    total = (embeddings * lengths[:, None]).sum(0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9))


def name_speakers(centroids: np.ndarray, enrolled: dict[str, np.ndarray]) -> list[str]:
    """A name for each speaker: an enrolled one where the voice is similar enough, each name once,
    the most similar first; else speaker 1, 2 ..."""
    names = [""] * len(centroids)
    pairs = sorted(
        (1 - float(centroid @ voice), i, name)
        for i, centroid in enumerate(centroids)
        for name, voice in enrolled.items()
    )
    for distance, i, name in pairs:
        if distance < MAX_ENROLLED_DISTANCE and not names[i] and name not in names:
            names[i] = name
    n_unnamed = 0
    for i, name in enumerate(names):
        if not name:
            n_unnamed += 1
            names[i] = f"speaker {n_unnamed}"
    return names


def join_turns(turns: Sequence[Turn], max_gap_s: float = 0.5) -> list[Turn]:
    """Turns of one speaker with a gap of at most `max_gap_s` become one."""
    joined: list[Turn] = []
    for turn in turns:
        last = joined[-1] if joined else None
        if (
            last
            and last.speaker == turn.speaker
            and turn.start - last.end <= max_gap_s
            and last.overlap == turn.overlap
        ):
            joined[-1] = replace(last, end=max(last.end, turn.end))
        else:
            joined.append(turn)
    return joined


# Enrolled voices


def voices_folder() -> Path:
    return paths.home() / "voices"


def enrolled_voices() -> dict[str, np.ndarray]:
    """name -> embedding."""
    voices = {}
    for path in sorted(voices_folder().glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        voices[str(row["name"])] = np.array(row["vector"], dtype=np.float32)
    return voices


def mean_embedding(embeddings: Sequence[np.ndarray], lengths: Sequence[float]) -> np.ndarray:
    """Of one person's spans, weighted by their length."""
    return _centroid(np.stack(list(embeddings)), np.array(lengths))


class PyannoteDiarizer:
    """pyannote's own pipeline over the whole file, for those who accepted its licence."""

    def __init__(self, config: DiarizeConfig) -> None:
        # an optional package that this task does not install
        try:
            from pyannote.audio import Pipeline
        except ModuleNotFoundError:
            raise MissingExtra(
                "--diarizer pyannote needs pyannote.audio",
                why="it is not installed",
                fix="pip install pyannote.audio; or leave --diarizer out",
            ) from None
        name = "pyannote/speaker-diarization-3.1"
        reason = "they are gated"
        try:
            pipeline: Any = Pipeline.from_pretrained(name)
        except Exception as fault:  # gated, offline or a wrong token: each raises another class
            pipeline, reason = None, str(fault).splitlines()[0][:200]
        if pipeline is None:  # also returned where the licence was not accepted
            raise NotFound(
                "pyannote's models cannot be downloaded",
                why=reason,
                fix=f"accept the licence on the page of {name}, then: hf auth login",
            )
        if torch.cuda.is_available():
            pipeline.to(torch.device("cuda"))
        self.pipeline, self.n_speakers = pipeline, config.num_speakers
        self.sounds: list[np.ndarray] = []

    def add(self, sound: np.ndarray, regions: Sequence[Region], start_s: float) -> None:
        """Kept for the pipeline, which hears the whole: it must not open a stranger's file."""
        self.sounds.append(sound)

    def turns(self) -> list[Turn]:
        if not self.sounds:
            return []
        options = {"num_speakers": self.n_speakers} if self.n_speakers else {}
        waveform = torch.from_numpy(np.concatenate(self.sounds))[None]
        output = self.pipeline({"waveform": waveform, "sample_rate": RATE_HZ}, **options)
        annotation = getattr(output, "speaker_diarization", output)
        names: dict[str, str] = {}
        return [
            Turn(
                round(span.start, 3),
                round(span.end, 3),
                names.setdefault(label, f"speaker {len(names) + 1}"),
            )
            for span, _, label in annotation.itertracks(yield_label=True)
        ]
