"""Phrases that repeat over and over, and echoes of a prompt: found in words, not judged here.

Whisper's decoder falls into loops, and people say "no, no, no" too: which it was only the sound can
tell (Transcriber listens again). Pure text.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

MIN_REPEATS = 4
"""Of a phrase; of a single word MIN_WORD_REPEATS."""
MIN_WORD_REPEATS = 7
MIN_LETTERS = 12
"""Of the whole run."""
MIN_LETTERS_IN_WORD = 20
"""Of a run within one word, as 'nononono' written without spaces."""
MAX_PHRASE = 80
"""Letters of what repeats."""
LONG_TEXT = 30
"""Words from which a phrase that returns with small changes counts too."""
ECHO_WORDS = 5
ECHO_SHARE = 0.6
"""Words in a row, or share of the prompt, from which a text may be its echo."""


@dataclass(frozen=True)
class Span:
    """Words from `start` to before `stop`; a loop repeats its phrase."""

    start: int
    stop: int
    phrase: str = ""
    repeats: int = 1


def letters(text: str) -> str:
    """
    >>> letters("No, no. 不，不！")
    'nono不不'
    """
    return "".join(re.findall(r"\w", text.casefold()))


def find(words: Sequence[str]) -> list[Span]:
    """Loops among words, also in scripts without spaces.

    >>> find("well no no no no no no no no then".split())
    [Span(start=1, stop=9, phrase='no', repeats=8)]
    >>> find("I said no no no to that".split())
    []
    """
    owners: list[int] = []
    pieces: list[str] = []
    for i, word in enumerate(words):
        piece = letters(word)
        pieces.append(piece)
        owners += [i] * len(piece)
    text = "".join(pieces)
    spans: list[Span] = []
    pattern = re.compile(rf"(.{{1,{MAX_PHRASE}}}?)\1{{{MIN_REPEATS - 1},}}")
    at = 0
    while match := pattern.search(text, at):
        phrase, run = match[1], match.end() - match.start()
        repeats = run // len(phrase)
        start, stop = owners[match.start()], owners[match.end() - 1] + 1
        if _counts(phrase, repeats, stop - start, run):
            spans.append(Span(start, stop, phrase, repeats))
            at = match.end()
        else:
            at = match.start() + 1
    if not spans and (span := _returning(pieces)):
        spans = [span]
    return spans


def _counts(phrase: str, repeats: int, n_words: int, n_letters: int) -> bool:
    """Whether a run is long enough to be a loop."""
    if phrase.isdigit():
        return n_words >= MIN_WORD_REPEATS and n_letters > MIN_LETTERS  # 1000000000 is none
    if n_words == 1:
        return n_letters >= MIN_LETTERS_IN_WORD and repeats >= MIN_WORD_REPEATS
    single = n_words >= repeats * 0.9 and n_words <= repeats * 1.1
    return n_letters >= MIN_LETTERS and repeats >= (MIN_WORD_REPEATS if single else MIN_REPEATS)


def _returning(words: Sequence[str]) -> Span | None:
    """Three words that make up most of a long text, from their first to their last place."""
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(words) < LONG_TEXT or not triples:
        return None
    triple, n = Counter(triples).most_common(1)[0]
    if n * 3 <= 0.5 * len(words):
        return None
    places = [i for i, found in enumerate(triples) if found == triple]
    return Span(places[0], places[-1] + 3, "".join(triple), n)


def repeats_in(phrase: str, text: str) -> int:
    """How often a phrase stands in a text, without overlap, whatever is between."""
    return letters(text).count(phrase) if phrase else 0


def share_in(words: Sequence[str], others: Sequence[str]) -> float:
    """Share of words that stand among others too, each as often as it stands there."""
    counts, found = Counter(map(letters, words)), Counter(map(letters, others))
    return sum((counts & found).values()) / max(len(words), 1)


def echo(words: Sequence[str], prompt: str) -> Span | None:
    """The words that repeat a run of the prompt, where that is long enough to be its echo.

    >>> echo("Glossary: Kubernetes, Helm.".split(), "Glossary: Kubernetes, Helm.")
    Span(start=0, stop=3, phrase='', repeats=1)
    """
    said, given = [letters(word) for word in words], [letters(word) for word in prompt.split()]
    match = SequenceMatcher(None, said, given, autojunk=False).find_longest_match()
    if match.size < 2 or match.size < min(ECHO_WORDS, ECHO_SHARE * len(given)):
        return None
    return Span(match.a, match.a + match.size)
