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
NUMBER_GROUPS = re.compile(r"(?<![\w.])[vV]?(\d{1,4}(?:[.\-/:]\d{1,4}){1,5})(?![\w])")
MONTH_NAMES = (
    r"(?:jan|feb|mar|m[aä]r|apr|avr|abr|ma[iy]|mag|jun|jui|giu|jul|lug|aug|ago|ao[uû]|sep|set|oct|"
    r"okt|ott|out|nov|dec|dez|dic|d[eé]c|ene|gen|f[eé]v)[^\W\d_]{0,7}\.?"
)
MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan ene gen",
            "feb fév fev",
            "mar mär",
            "apr avr abr",
            "may mai mag maj",
            "jun giu jui",
            "jul lug",
            "aug ago aoû aou",
            "sep set",
            "oct okt ott out",
            "nov",
            "dec dez dic déc",
        ),
        1,
    )
    for name in names.split()
}
"""First three letters of a month in English, German, French, Spanish, Italian and Portuguese.
French juin and juillet begin alike and both count as June: a date in July is then not found by its
written form."""
WRITTEN_DATES = (
    (
        re.compile(
            rf"(?i)\b(\d{{1,2}})(?:st|nd|rd|th|\.|er)?\s+(?:of\s+|de\s+)?({MONTH_NAMES}),?"
            r"\s+(?:de\s+)?(\d{4})\b"
        ),
        (3, 2, 1),
    ),
    (
        re.compile(rf"(?i)\b({MONTH_NAMES})\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})\b"),
        (3, 1, 2),
    ),
    (re.compile(r"(\d{4})\s*年\s*(\d{1,2})\s*月\s*(\d{1,2})\s*日"), (1, 2, 3)),
)
"""(pattern, its groups of year, month and day)."""
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
        for piece in split_scripts(run):
            if is_cjk(piece[0]):
                result += _pairs(piece)
            else:
                result += _word_terms(piece[: 4 * MAX_TERM_CHARS])
    return result + compound_terms(text)


def split_scripts(run: str) -> list[str]:
    """A run of letters cut where CJK characters begin and end."""
    return [run] if run.isascii() else [piece for piece in _SPLIT_CJK.split(run) if piece]


def compound_terms(text: str) -> list[str]:
    """Versions, dates and other numbers in groups as one term each, besides their parts: else 1.2.4
    is found as well as 2.1.4. Dates in all usual forms become 2025-03-04; one that can be read in
    two ways (3/4/2025) becomes both.

    >>> compound_terms("v4.2.1 of March 4, 2025, as 4.3.2025, at 10:30")
    ['4.2.1', '2025-03-04', '10.30', '2025-03-04']
    >>> compound_terms("2025年3月4日 or 3/4/2025")
    ['2025-04-03', '2025-03-04', '2025-03-04']
    """
    compounds: list[str] = []
    if not any(char.isdigit() for char in text):
        return compounds
    for match in NUMBER_GROUPS.finditer(text):
        parts = re.split(r"[.\-/:]", match[1])
        compounds += _dates(parts, match[1]) or [".".join(parts)]
    for pattern, (year, month, day) in WRITTEN_DATES:
        for match in pattern.finditer(text):
            name = match[month].lower().rstrip(".")
            number = int(name) if name.isdigit() else MONTHS.get(name[:3], 0)
            if number:
                compounds += _iso(match[year], number, match[day])
    return compounds


def is_compound(term: str) -> bool:
    return not term.isalnum() and term[0].isdigit() and ("." in term or "-" in term)


def _dates(parts: list[str], text: str) -> list[str]:
    """ISO dates that three groups of digits can be read as."""
    if len(parts) != 3:
        return []
    first, second, third = parts
    if len(first) == 4:
        return _iso(first, int(second), third)
    if len(third) != 4:
        return []
    readings = _iso(third, int(second), first)
    if "." not in text and first != second:
        readings += _iso(third, int(first), second)
    return readings


def _iso(year: str, month: int, day: str) -> list[str]:
    if 1 <= month <= 12 and 1 <= int(day) <= 31 and len(year) == 4:
        return [f"{year}-{month:02}-{int(day):02}"]
    return []


def is_cjk(letter: str) -> bool:
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
