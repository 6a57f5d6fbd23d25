"""How much of the held-out text stands in the training part word for word: where much of it does,
the held-out loss is recall and says nothing about new text. Knows no model and no files.

Windows are compared by a rolling hash over the token arrays, a chunk at a time: 100 million tokens
take some seconds and 100 MB.
"""

import numpy as np

WINDOW_CHARS = 60
"""Of a window: about a line. Ordinary prose repeats almost no line of this length."""
MAX_WINDOWS = 20_000
"""Held-out windows that are looked up, spread evenly: the share is then known to .01."""
CHUNK_TOKENS = 1 << 20
SOME_SHARE, LARGE_SHARE = 0.1, 0.5
"""Of the windows, from which the result warns, and says that the loss means nothing. Licence texts
and generated headers make some per cent of a folder of code."""
FILTER_BITS = 20
"""Leading bits of a hash in a table of those looked up, which leaves one in fifty to search for."""


def repeated_share(train: np.ndarray, val: np.ndarray, chars_per_token: float) -> float:
    """Share of windows of `val` (tokens) that occur in `train`; 0 where a part is shorter than one
    window."""
    window = max(4, round(WINDOW_CHARS / max(chars_per_token, 1e-9)))
    if len(val) < window or len(train) < window:
        return 0.0
    n_windows = len(val) - window + 1
    starts = np.unique(np.linspace(0, n_windows - 1, min(n_windows, MAX_WINDOWS)).astype(np.int64))
    symbols = np.random.default_rng(0).integers(0, 2**64, 1 << 16, dtype=np.uint64)
    wanted = _hashes_at(val, starts, window, symbols)
    hashes, which = np.unique(wanted, return_inverse=True)
    shift = np.uint64(64 - FILTER_BITS)
    listed = np.zeros(1 << FILTER_BITS, dtype=bool)
    listed[hashes >> shift] = True
    is_repeated = np.zeros(len(hashes), dtype=bool)
    for start in range(0, len(train) - window + 1, CHUNK_TOKENS):
        rolling = window_hashes(train[start : start + CHUNK_TOKENS + window - 1], window, symbols)
        candidates = rolling[listed[rolling >> shift]]
        places = np.minimum(np.searchsorted(hashes, candidates), len(hashes) - 1)
        is_repeated[places[hashes[places] == candidates]] = True
        if is_repeated.all():
            break
    return float(is_repeated[which].mean())


def _hashes_at(
    tokens: np.ndarray, starts: np.ndarray, window: int, symbols: np.ndarray
) -> np.ndarray:
    """The hashes of the windows that begin at `starts` (ascending)."""
    parts = []
    for start in range(0, len(tokens) - window + 1, CHUNK_TOKENS):
        inside = starts[(starts >= start) & (starts < start + CHUNK_TOKENS)]
        if len(inside):
            part = tokens[start : start + CHUNK_TOKENS + window - 1]
            parts.append(window_hashes(part, window, symbols)[inside - start])
    return np.concatenate(parts)


def window_hashes(tokens: np.ndarray, window: int, symbols: np.ndarray) -> np.ndarray:
    """(n - window + 1): a polynomial hash (modulo 2^64) of each run of `window` tokens, in about
    2 log2(window) passes: a run of 2k tokens is two of k.

    `symbols`: a random number for each token.
    """
    base = 0x9E3779B97F4A7C15  # odd, so that no power of it vanishes
    power_of_two = symbols[tokens]  # hashes of runs of `length` tokens
    length, done = 1, 0
    total: np.ndarray | None = None  # hashes of runs of `done` tokens
    while True:
        if window & length:
            if total is None:
                total = power_of_two
            else:
                n = len(tokens) - done - length + 1
                factor = np.uint64(pow(base, length, 2**64))
                total = total[:n] * factor + power_of_two[done : done + n]
            done += length
        if done == window:
            return total if total is not None else power_of_two
        n = len(tokens) - 2 * length + 1
        factor = np.uint64(pow(base, length, 2**64))
        power_of_two = power_of_two[:n] * factor + power_of_two[length : length + n]
        length *= 2


def render(share: float) -> str:
    return f"{share:.1%} of the held-out text stands in the training part word for word"


def warning(share: float, split: str) -> str:
    """What the result must say about its held-out loss; empty where little is repeated."""
    if share < SOME_SHARE:
        return ""
    verdict = "is partly recall and too low for new text"
    if share >= LARGE_SHARE:
        verdict = "says nothing about new text"
    fix = "take the repetitions out of the text"
    if split != "document":
        fix = f"--split document keeps equal parts on one side; or {fix}"
    measure = f"{render(share)} (windows of {WINDOW_CHARS} characters)"
    return f"the held-out loss {verdict}: {measure}; {fix}"
