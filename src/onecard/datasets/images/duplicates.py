"""Pictures that are the same file, or the same picture in another size, exposure or compression."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from onecard.datasets.images.decode import thumbnail
from onecard.datasets.images.records import Picture, RejectedLabel
from onecard.errors import DataError
from onecard.reporting import Reporter

SIDE = 32
"""Of the thumbnails that are compared (px)."""
MAX_BITS = 7
"""Differing bits of two candidates' hashes: all such pairs are met, by the pigeonhole principle."""
BANDS, BAND_BITS = 4, 16
MAX_NEIGHBOURS = 24
"""Candidates of a picture in each bucket: thousands of white pages have one hash."""
MIN_CORRELATION = 0.97
MAX_DIFFERENCE = 1.0
"""Of the worst 3x3 cells of two thumbnails, in standard deviations: another object in front of one
still camera differs by more there, however well the rest agrees."""
MIN_CONTRAST = 4.0
"""Standard deviation of a thumbnail (of 255) below which only equal files are duplicates."""
CHUNK = 2048
"""Pairs that are compared at once."""

Pairs = list[tuple[int, int]]


@dataclass
class Signatures:
    """What N pictures are compared by; 3 KB each."""

    digests: list[bytes]
    """sha256 of the files; empty for one that cannot be decoded."""
    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    """N x SIDE x SIDE x 3."""
    broken: list[RejectedLabel]
    """Pictures that cannot be decoded to their end."""


def signatures(pictures: Sequence[Picture], reporter: Reporter | None = None) -> Signatures:
    """Reads and decodes every picture once, on all cores."""
    digests, thumbnails, broken = [], np.zeros((len(pictures), SIDE, SIDE, 3), np.uint8), []
    with (
        (reporter or Reporter()).progress("pictures compared", len(pictures)) as progress,
        ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool,
    ):
        for i, (digest, tile, fault) in enumerate(pool.map(_signature, pictures)):
            progress.step()
            digests.append(digest)
            if tile is None:
                broken.append(RejectedLabel(pictures[i].name, fault))
            else:
                thumbnails[i] = tile
    return Signatures(digests, perceptual_hashes(thumbnails), thumbnails, broken)


def _signature(picture: Picture) -> tuple[bytes, NDArray[np.uint8] | None, str]:
    try:
        data = picture.path.read_bytes()
        return hashlib.sha256(data).digest(), thumbnail(data, picture.name, SIDE), ""
    except DataError as fault:
        return b"", None, fault.why
    except OSError as fault:
        return b"", None, fault.strerror or str(fault)


def perceptual_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits each: whether the 8x8 lowest frequencies of the cosine transform are above their
    median (pHash, Zauner 2010). Brightness and contrast change none of them."""
    hashes = np.zeros(len(thumbnails), np.uint64)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    powers = np.uint64(1) << np.arange(64, dtype=np.uint64)
    for start in range(0, len(thumbnails), CHUNK):
        grey = thumbnails[start : start + CHUNK].astype(np.float32) @ weights
        low = dctn(grey, axes=(1, 2), norm="ortho")[:, 1:9, 1:9].reshape(len(grey), 64)
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes[start : start + CHUNK] = (bits * powers).sum(axis=1, dtype=np.uint64)
    return hashes


def exact_pairs(signs: Signatures) -> Pairs:
    """Each file with the first that has the same bytes."""
    first: dict[bytes, int] = {}
    pairs = []
    for i, digest in enumerate(signs.digests):
        if digest and (other := first.setdefault(digest, i)) != i:
            pairs.append((other, i))
    return pairs


def near_pairs(signs: Signatures) -> Pairs:
    """Pairs whose hashes are near and whose thumbnails agree everywhere. Mirrored, turned and
    strongly cropped copies are not met. Memory is linear in N."""
    usable = np.flatnonzero([bool(digest) for digest in signs.digests])
    usable = usable[_contrast(signs.thumbnails[usable]) >= MIN_CONTRAST]
    pairs: set[tuple[int, int]] = set()
    for left, right in _candidates(signs.hashes[usable]):
        for start in range(0, len(left), CHUNK):
            a, b = usable[left[start : start + CHUNK]], usable[right[start : start + CHUNK]]
            both = zip(a.tolist(), b.tolist(), strict=True)
            new = [k for k, pair in enumerate(both) if pair not in pairs]
            a, b = a[new], b[new]
            same = _agree(signs.thumbnails[a], signs.thumbnails[b])
            pairs.update(zip(a[same].tolist(), b[same].tolist(), strict=True))
    return sorted(pairs)


def _candidates(hashes: NDArray[np.uint64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs i < j with at most MAX_BITS differing bits: one of four bands of 16 bits then differs
    by one bit at most, so that equal bands and bands with one bit turned meet all of them."""
    candidates = []
    for band in range(BANDS):
        keys = (hashes >> np.uint64(band * BAND_BITS)).astype(np.int64) & 0xFFFF
        order = np.lexsort((hashes, keys))
        ranked = keys[order]
        for flip in (0, *(1 << bit for bit in range(BAND_BITS))):
            wanted = ranked ^ flip
            low = np.searchsorted(ranked, wanted, "left")
            high = np.searchsorted(ranked, wanted, "right")
            if not flip:
                low = np.arange(len(ranked)) + 1  # each pair of a bucket once
            counts = np.clip(high - low, 0, MAX_NEIGHBOURS)
            left = np.repeat(np.arange(len(ranked)), counts)
            offsets = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
            i, j = order[left], order[low[left] + offsets]
            near = np.bitwise_count(hashes[i] ^ hashes[j]) <= MAX_BITS
            i, j = i[near], j[near]
            pairs = np.unique(np.stack([np.minimum(i, j), np.maximum(i, j)]), axis=1)
            candidates.append((pairs[0], pairs[1]))
    return candidates


def _contrast(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Standard deviation within each thumbnail's channels."""
    parts: list[NDArray[np.float32]] = [
        thumbnails[start : start + CHUNK].astype(np.float32).std(axis=(1, 2)).max(axis=1)
        for start in range(0, len(thumbnails), CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _agree(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether K pairs of thumbnails are one picture but for brightness and contrast: correlated
    over all, and nowhere far apart."""
    if not len(a):
        return np.zeros(0, np.bool_)
    x, y = _standardised(a), _standardised(b)
    correlation = (x * y).mean(axis=(1, 2, 3))
    gap = np.abs(x - y).mean(axis=3)
    cells = gap[:, :30, :30].reshape(len(a), 10, 3, 10, 3).mean(axis=(2, 4))
    return np.asarray((correlation >= MIN_CORRELATION) & (cells.max(axis=(1, 2)) <= MAX_DIFFERENCE))


def _standardised(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """K x SIDE x SIDE x 3 with channel means of 0 and one common deviation of 1."""
    values = tiles.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    spread = np.sqrt((values**2).mean(axis=(1, 2, 3), keepdims=True))
    return np.asarray(values / np.maximum(spread, 1e-6), np.float32)
