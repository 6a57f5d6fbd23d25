"""The channels of a recording to one. Pure arithmetic on samples."""

from collections.abc import Sequence

import numpy as np

SILENT_CHANNEL = 0.01
"""A channel with less than this share of the other's level holds no speech: mixed in, it would
halve the level."""
INVERTED = -0.5
"""Correlation with the loudest channel below which a channel is its mirror image: wired the wrong
way round, it would cancel the other."""
CENTRE, BASS = "FC", "LFE"
"""ffmpeg's names: films put speech on the centre of 5.1, and effects on the bass."""
MIN_FILM_CHANNELS = 3


def levels(rows: np.ndarray) -> np.ndarray:
    """Root mean square of each channel."""
    return np.asarray(np.sqrt((rows.astype(np.float64) ** 2).mean(axis=1)))


def active(rows: np.ndarray) -> np.ndarray:
    """Which channels are not silent beside the loudest."""
    level = levels(rows)
    return np.asarray(level > SILENT_CHANNEL * level.max(initial=0.0))


def mix(rows: np.ndarray, names: Sequence[str] = ()) -> tuple[np.ndarray, bool]:
    """(channels, n) to ((n), whether a channel was inverted).

    `names` of the channels, as ffmpeg's layouts have them. The centre alone where it sounds, else
    the mean of the channels that are not silent, inverted ones turned round.
    """
    if len(rows) == 1:
        return np.ascontiguousarray(rows[0], dtype=np.float32), False
    used = active(rows)
    if len(rows) >= MIN_FILM_CHANNELS and len(names) == len(rows):
        if CENTRE in names and used[names.index(CENTRE)]:
            centre = rows[names.index(CENTRE)]
            return np.ascontiguousarray(centre, dtype=np.float32), False
        without_bass = used & np.array([name != BASS for name in names])
        used = without_bass if without_bass.any() else used
    chosen = rows[used] if used.any() else rows
    signs = _signs(chosen)
    mono = (chosen * signs[:, None]).mean(axis=0)
    return np.ascontiguousarray(mono, dtype=np.float32), bool((signs < 0).any())


def _signs(rows: np.ndarray) -> np.ndarray:
    """-1 for a channel that mirrors the loudest one, else 1."""
    wide = rows.astype(np.float64)
    reference = wide[int(np.argmax((wide**2).sum(axis=1)))]
    norms = np.sqrt((wide**2).sum(axis=1) * (reference**2).sum())
    correlation = (wide @ reference) / np.maximum(norms, 1e-12)
    return np.where(correlation < INVERTED, -1.0, 1.0).astype(rows.dtype)
