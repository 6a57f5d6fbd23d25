"""Word and character error rates, normalised as Whisper's paper does. Knows no training."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from onecard.evaluation import stats
from onecard.evaluation.metrics.kinds import kind_of
from onecard.evaluation.metrics.speech import (
    character_errors,
    normalize_transcript,
    word_errors,
)


@dataclass(frozen=True)
class Errors:
    """Counts of one item."""

    word_errors: int
    words: int
    char_errors: int
    chars: int

    @property
    def wer(self) -> float:
        return self.word_errors / max(self.words, 1)


def count_errors(hypothesis: str, reference: str, language: str = "en") -> Errors:
    normalizer = partial(normalize_transcript, language=language)
    return Errors(
        *word_errors(hypothesis, reference, normalizer),
        *character_errors(hypothesis, reference, normalizer),
    )


def error_rates(
    errors: Sequence[Errors], prefix: str = "", groups: Sequence[str] | None = None
) -> dict[str, stats.Interval]:
    """WER and CER over all items, with intervals over items or groups of them."""
    counts = {
        "wer": [(e.word_errors, e.words) for e in errors],
        "cer": [(e.char_errors, e.chars) for e in errors],
    }
    return {
        f"{prefix}{name}": stats.ratio_interval(
            [wrong for wrong, _ in pairs],
            np.array([whole for _, whole in pairs]),
            bounds=kind_of(name).bounds,
            groups=groups,
        )
        for name, pairs in counts.items()
    }


def missed_names(hypothesis: str, reference: str, names: Sequence[str]) -> tuple[int, int]:
    """(how many names of the list are missing, how many the reference has), each as often as it
    stands there."""
    expected = {name: _occurrences(name, reference) for name in names}
    missed = sum(max(0, n - _occurrences(name, hypothesis)) for name, n in expected.items())
    return missed, sum(expected.values())


def _occurrences(name: str, text: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text))
