"""Two lists of scores to one, and the question moved towards what was found. Pure arithmetic on
arrays.

The constants were chosen on three collections at once, at the middle of a plateau (nDCG@10 on
Cranfield .556 to .569 for
lexical weights .4 to .6; see the table in README.md), not for any one of them.
"""

import numpy as np

FEEDBACK_TOP, FEEDBACK_WEIGHT = 3, 0.5


def positive(scores: np.ndarray) -> np.ndarray:
    """Scores over their maximum, what lies under zero is zero: zero is 'no better than any
    passage'."""
    top = float(scores.max()) if len(scores) else 0.0
    return np.clip(scores, 0, None) / top if top > 0 else np.zeros_like(scores)


def fuse(dense: np.ndarray, lexical: np.ndarray, lexical_weight: float) -> np.ndarray:
    """A convex combination (Bruch et al. 2023, who find it above rank fusion).

    `dense` are cosines less their mean over the whole index, `lexical` BM25 scores; both (n,) of
    the same candidates.
    """
    return (1 - lexical_weight) * positive(dense) + lexical_weight * positive(lexical)


def feedback(question: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Rocchio's step in the space of vectors: the question (d,) moved towards the mean of the best
    (k, d), unit norm."""
    moved = question + FEEDBACK_WEIGHT * best.mean(axis=0)
    return np.asarray(moved / max(float(np.linalg.norm(moved)), 1e-12), dtype=np.float32)
