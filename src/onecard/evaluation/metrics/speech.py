"""Word and character errors of a transcript, and the normalization before they are counted.

WER and CER are ratios of sums: use stats.ratio_interval over the counts of all items.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jiwer

from onecard.evaluation.metrics import text

Normalizer = Callable[[str], str]
CHINESE = frozenset(("zh", "yue"))
UNSPACED = CHINESE | {"ja", "th", "lo", "my", "km", "bo"}
"""Languages that are written without spaces: all of a sentence would be one word."""


def normalize_transcript(transcript: str, language: str = "en") -> str:
    """The normalization of Whisper's paper (Radford et al. 2022, appendix C).

    In English, case, punctuation, fillers and spelled numbers make no difference; in other
    languages case and punctuation. An empty `language` is English. Traditional Chinese becomes
    Simplified: which of the two a model writes is no error of hearing.
    """
    text = str(_whisper_normalizer(language)(transcript)).strip()
    if language in CHINESE:
        return str(_to_simplified().convert(text))
    return text


def has_words(language: str) -> bool:
    """Whether spaces divide words; where they do not, the character error rate is the measure.

    >>> has_words("de"), has_words("zh")
    (True, False)
    """
    return language not in UNSPACED


@cache
def _to_simplified() -> Any:
    import opencc  # comes with the extra `asr`

    return opencc.OpenCC("t2s")


@cache
def _whisper_normalizer(language: str) -> Any:
    # transformers comes with the extra `asr`; counting errors needs jiwer alone
    from transformers.models.whisper import english_normalizer

    if language in ("en", ""):
        return english_normalizer.EnglishTextNormalizer({})
    return english_normalizer.BasicTextNormalizer()


def word_errors(
    prediction: str, reference: str, normalize: Normalizer | None = None
) -> tuple[int, int]:
    """(substitutions + deletions + insertions, words of the reference).

    `normalize` gives words between spaces; without it they are those of text.words.
    """
    if normalize is None:
        hypothesis, truth = text.words(prediction), text.words(reference)
    else:
        hypothesis, truth = normalize(prediction).split(), normalize(reference).split()
    if not truth:
        return len(hypothesis), 0
    alignment = jiwer.process_words(" ".join(truth), " ".join(hypothesis))
    return alignment.substitutions + alignment.deletions + alignment.insertions, len(truth)


def character_errors(
    prediction: str, reference: str, normalize: Normalizer = text.normalize
) -> tuple[int, int]:
    """(substitutions + deletions + insertions, characters of the reference), without spaces."""
    hypothesis = normalize(prediction).replace(" ", "")
    truth = normalize(reference).replace(" ", "")
    if not truth:
        return len(hypothesis), 0
    alignment = jiwer.process_characters(truth, hypothesis)
    return alignment.substitutions + alignment.deletions + alignment.insertions, len(truth)
