"""Text to the terms of lexical search: tokenization, stop words, stemming.

Words are stemmed, identifiers also split into their parts; CJK text becomes pairs of characters.
"""

import re
import unicodedata
from functools import lru_cache

import snowballstemmer

_ENGLISH = snowballstemmer.stemmer("english")
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
# (?<!_)_++ : no match begins within a run of underscores, else a line of 50,000 takes 77 s
WORD = re.compile(rf"[{CJK}]+|[^\W_]+(?:_+[^\W_]+)*_*|(?<!_)_++[^\W_]+(?:_+[^\W_]+)*_*")
_SPLIT_CJK = re.compile(rf"([{CJK}]+)")
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "above",
        "after",
        "again",
        "all",
        "am",
        "an",
        "and",
        "any",
        "are",
        "aren",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "below",
        "between",
        "both",
        "but",
        "by",
        "can",
        "cannot",
        "could",
        "did",
        "do",
        "does",
        "doing",
        "down",
        "during",
        "each",
        "few",
        "for",
        "from",
        "further",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "hers",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "itself",
        "just",
        "me",
        "more",
        "most",
        "my",
        "no",
        "nor",
        "not",
        "of",
        "off",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "ours",
        "out",
        "over",
        "own",
        "same",
        "she",
        "should",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
        "yours",
    ]
)
"""English function words: they carry no meaning and have the longest posting lists."""
MAX_TERM_CHARS = 64
"""Longer runs of letters are base64 or noise, and are cut."""


@lru_cache(maxsize=200_000)
def _word_terms(word: str) -> tuple[str, ...]:
    """The terms of one run of letters, digits and underscores."""
    lower = word.lower()[:MAX_TERM_CHARS]
    if lower in STOP_WORDS:
        return ()
    if lower.isalpha() and lower.isascii() and (word.islower() or word.istitle()):
        return (str(_ENGLISH.stemWord(lower)),)
    parts = (
        [part.lower()[:MAX_TERM_CHARS] for part in _CAMEL.findall(word)] if word.isascii() else []
    )
    whole = lower.strip("_")
    if len(parts) > 1:  # snake_case, camelCase, x86: the whole and its parts
        return (whole, *(str(_ENGLISH.stemWord(part)) for part in parts if part not in STOP_WORDS))
    return (str(_ENGLISH.stemWord(whole)),) if whole and whole not in STOP_WORDS else ()


def terms(text: str) -> list[str]:
    """Terms in the order of the text, with repeats.

    >>> terms("Running the parse_config tests")
    ['run', 'parse_config', 'pars', 'config', 'test']
    >>> terms("搜尋引擎")
    ['搜尋', '尋引', '引擎']
    """
    result: list[str] = []
    for run in WORD.findall(unicodedata.normalize("NFKC", text)):
        if run[0] < "\u3040" or not _is_cjk(run[0]):
            for piece in _SPLIT_CJK.split(run) if not run.isascii() else (run,):
                if piece and _is_cjk(piece[0]):
                    result += _pairs(piece)
                elif piece:
                    result += _word_terms(piece[: 4 * MAX_TERM_CHARS])
        else:
            result += _pairs(run)
    return result


def _is_cjk(letter: str) -> bool:
    return (
        "\u3040" <= letter <= "\u30ff"
        or "\u3400" <= letter <= "\u9fff"
        or "\uf900" <= letter <= "\ufaff"
        or "\uac00" <= letter <= "\ud7af"
    )


def _pairs(run: str) -> list[str]:
    """Overlapping pairs of characters.

    For Chinese they retrieve as well as word segmentation, without a dictionary (Nie et al. 2000).
    """
    return [run[i : i + 2] for i in range(len(run) - 1)] if len(run) > 1 else [run]
