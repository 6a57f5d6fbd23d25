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
    has_words,
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
    def counts(self) -> tuple[int, int]:
        """(errors, words), or (errors, characters) where it has no words."""
        if self.words:
            return self.word_errors, self.words
        return self.char_errors, self.chars

    @property
    def rate(self) -> float:
        """The item's measure: of words, or of characters."""
        wrong, whole = self.counts
        return wrong / max(whole, 1)

    @property
    def wer(self) -> float:
        return self.word_errors / max(self.words, 1)


def count_errors(hypothesis: str, reference: str, language: str = "en") -> Errors:
    """No words are counted in languages that are written without spaces between them.

    The reference tells which those are, as well as `language`: what was detected may be wrong.
    """
    written = language_of_script(reference) or language
    normalizer = partial(normalize_transcript, language=written)
    characters = character_errors(hypothesis, reference, normalizer)
    if not has_words(written):
        return Errors(0, 0, *characters)
    return Errors(*word_errors(hypothesis, reference, normalizer), *characters)


def language_of_script(text: str) -> str:
    """ja or zh for a text that is mostly in their characters, else nothing.

    >>> [language_of_script(text) for text in ("今日は雨です。", "今天下雨", "rain")]
    ['ja', 'zh', '']
    """
    letters = re.findall(r"[^\W\d_]", text)
    kana = sum("\u3040" <= letter <= "\u30ff" for letter in letters)
    han = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    if 2 * (kana + han) <= len(letters):
        return ""
    return "ja" if kana else "zh"


def error_rates(
    errors: Sequence[Errors], prefix: str = "", groups: Sequence[str] | None = None
) -> dict[str, stats.Interval]:
    """WER and CER over all items, with intervals over items or groups of them. No WER where no
    item has words."""
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
        if sum(whole for _, whole in pairs) or name == "cer"
    }


def missed_names(hypothesis: str, reference: str, names: Sequence[str]) -> tuple[int, int]:
    """(how many names of the list are missing, how many the reference has), each as often as it
    stands there."""
    expected = {name: _occurrences(name, reference) for name in names}
    missed = sum(max(0, n - _occurrences(name, hypothesis)) for name, n in expected.items())
    return missed, sum(expected.values())


def _occurrences(name: str, text: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text))
