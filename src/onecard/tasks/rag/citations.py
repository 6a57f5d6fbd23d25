"""Verification of a model's answer: citations, quotations and sentences against the passages."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onecard.tasks.rag.analyzer import terms
from onecard.tasks.rag.quotes import Quote, is_echo, term_share
from onecard.tasks.rag.retrieve import Hit
from onecard.tasks.rag.store import location_suffix
from onecard.tasks.rag.units import units

NO_ANSWER = "Your notes do not contain the answer."
MIN_SUPPORT = 0.7
"""Share of a sentence's terms that one sentence or row of the cited passages must contain, with its
heading. Over whole passages, "the library is closed on Mondays" is made of two true sentences."""
MAX_SENTENCES = 50
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
CITATION = re.compile(r"\[(\d{1,2})\]")
QUOTATION = re.compile(r"[\"“「]([^\"”」]{8,})[\"”」]")
SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+|(?<=[。！？])")


@dataclass
class CitedAnswer:
    text: str
    abstained: bool = False
    citations: list[dict[str, Any]] = field(default_factory=list)
    """n, path, line, last_line, page, heading, quote: the passages that the text cites."""
    dropped: list[str] = field(default_factory=list)
    """Sentences of the model that no cited passage supports."""
    wrong_citations: int = 0
    """Citations and quotations of the model that are not in the passages and were removed."""
    facts: list[str] = field(default_factory=list)
    """Results of tools that the model was given."""

    def render(self) -> str:
        lines = [self.text, ""] if self.citations else [self.text]
        for row in self.citations:
            location = row["path"] + location_suffix(row["page"], row["line"], row["last_line"])
            lines.append(f"  [{row['n']}] {location}  {row['heading']}")
            if row["quote"] and row["quote"] not in self.text:
                lines.append(f'      "{row["quote"]}"')
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        return {
            "answer": self.text,
            "abstained": self.abstained,
            "citations": self.citations,
            "dropped": self.dropped,
            "wrong_citations": self.wrong_citations,
            "facts": self.facts,
        }


@dataclass(frozen=True)
class _Verdict:
    """One sentence of the model after the check."""

    text: str
    """With its citations; empty for a sentence that is dropped."""
    citations: tuple[int, ...]
    n_wrong: int


def verify_citations(
    question: str,
    reply: str,
    hits: Sequence[Hit],
    quotes: Sequence[Quote],
    sources: Mapping[int, str],
    facts: Sequence[str],
) -> CitedAnswer:
    """The supported sentences of a model's reply with their citations.

    A sentence stays if its citations are among `sources` (number -> text), its quotations are in
    the passages, enough of its terms are in the cited ones, and its numbers are those of what the
    question asks for. Without any, the best quotations are the answer.
    """
    if re.search(r"\bNOT FOUND\b", reply) and len(reply) < 60:
        return CitedAnswer(NO_ANSWER, abstained=True)
    supported: list[str] = []
    dropped: list[str] = []
    cited: set[int] = set()
    sentences: set[str] = set()
    n_wrong = 0
    for sentence in [s.strip() for s in SENTENCE_END.split(reply) if s and s.strip()]:
        numbers = [int(n) for n in CITATION.findall(sentence)]
        n_wrong += sum(n not in sources for n in numbers)
        bare = CITATION.sub("", sentence).strip(" :-*")
        if is_echo(question, bare) or len(supported) >= MAX_SENTENCES or _is_filler(bare):
            continue
        existing = [n for n in dict.fromkeys(numbers) if n in sources]
        if bare in sentences:
            continue
        sentences.add(bare)
        verdict = _verify_sentence(bare, existing, hits, sources, facts)
        if verdict.text and not facts and not numbers_fit(question, bare, hits):
            verdict = _Verdict("", (), 0)
        n_wrong += verdict.n_wrong
        cited |= set(verdict.citations)
        if verdict.text:
            supported.append(verdict.text)
        else:
            dropped.append(sentence)
    if supported:
        answer = CitedAnswer(
            " ".join(supported), citations=[_citation(n, hits, quotes) for n in sorted(cited)]
        )
    else:
        answer = quoted_answer(hits, quotes)
        if facts and answer.abstained:
            answer.text, answer.abstained = "; ".join(facts), False
    answer.dropped, answer.wrong_citations, answer.facts = dropped, n_wrong, list(facts)
    return answer


def _verify_sentence(
    sentence: str,
    cited: Sequence[int],
    hits: Sequence[Hit],
    sources: Mapping[int, str],
    facts: Sequence[str],
) -> _Verdict:
    """`cited` are those of the sentence's citations that exist; without any, the passage that
    supports it best is cited."""
    wrong_quotes = [
        quote
        for quote in QUOTATION.findall(sentence)
        if not any(_contains(hits[n - 1], quote) for n in (cited or sources))
    ]
    if wrong_quotes:
        return _Verdict("", (), len(wrong_quotes))
    best = max(
        cited or list(sources), key=lambda n: _unit_support(sentence, hits[n - 1]), default=0
    )
    if best and _unit_support(sentence, hits[best - 1]) >= MIN_SUPPORT:
        numbers = tuple(cited) or (best,)
        return _Verdict(_with_citations(sentence, numbers), numbers, 0)
    if any(support(sentence, fact) >= MIN_SUPPORT for fact in facts):
        return _Verdict(sentence, (), 0)
    return _Verdict("", (), 0)


def numbers_fit(question: str, sentence: str, hits: Sequence[Hit]) -> bool:
    """Whether each number of a sentence stands where the question points to: of all sentences and
    table rows with a number, none shares more of the question's terms than those with this one.

    "200 MB" is in the passage too when that row is of another plan than the one asked for.
    """
    question_terms = set(terms(question))
    with_numbers = [
        (term_share(question_terms, unit), set(NUMBER.findall(unit.text)))
        for hit in hits
        for unit in units(hit.chunk)
        if NUMBER.search(unit.text)
    ]
    best = max((share for share, _ in with_numbers), default=0.0)
    for number in set(NUMBER.findall(sentence)) - set(NUMBER.findall(question)):
        shares = [share for share, numbers in with_numbers if number in numbers]
        if shares and max(shares) < best - 1e-9:
            return False
    return True


def _with_citations(sentence: str, numbers: Sequence[int]) -> str:
    marks = "".join(f"[{n}]" for n in numbers)
    if sentence[-1] in ".!?":
        return f"{sentence[:-1].rstrip()} {marks}{sentence[-1]}"
    return f"{sentence} {marks}"


def _unit_support(sentence: str, hit: Hit) -> float:
    texts = [f"{unit.context}\n{unit.text}" for unit in units(hit.chunk)]
    return max((support(sentence, text) for text in texts), default=0.0)


def support(sentence: str, source: str) -> float:
    """Share of the sentence's distinct terms that the source contains, 0 to 1.

    Numbers and identifiers count threefold: they are what a model makes up.
    """
    source_terms = set(terms(source))
    total = supported = 0.0
    for term in set(terms(sentence)):
        weight = 3.0 if "_" in term or any(char.isdigit() for char in term) else 1.0
        total += weight
        if term in source_terms:
            supported += weight
    return supported / total if total else 0.0


def _is_filler(sentence: str) -> bool:
    """Whether a sentence repeats itself, or has fewer than two terms and no number.

    Small models do both, as in "Here's how to do it".
    """
    words = sentence.lower().split()
    four_grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    if len(set(four_grams)) < len(four_grams):
        return True
    n_terms = sum(len(term) > 1 for term in set(terms(sentence)))
    return n_terms < 2 and not any(char.isdigit() for char in sentence)


def _contains(hit: Hit, quote: str) -> bool:
    """Whether the passage has the quotation, whatever white space, punctuation and case."""

    def words_only(text: str) -> str:
        return re.sub(r"\W+", " ", text).lower().strip()

    return words_only(quote) in words_only(f"{hit.chunk.title} {hit.chunk.text}")


def quoted_answer(hits: Sequence[Hit], quotes: Sequence[Quote]) -> CitedAnswer:
    """An answer of quotations alone; it abstains without any."""
    if not quotes:
        return CitedAnswer(NO_ANSWER, abstained=True)
    text = "\n".join(f"{quote.render()} [{quote.n}]" for quote in quotes)
    numbers = sorted({quote.n for quote in quotes})
    return CitedAnswer(text, citations=[_citation(n, hits, quotes) for n in numbers])


def _citation(n: int, hits: Sequence[Hit], quotes: Sequence[Quote]) -> dict[str, Any]:
    chunk = hits[n - 1].chunk
    return {
        "n": n,
        "path": chunk.path,
        "line": chunk.line,
        "last_line": chunk.last_line,
        "page": chunk.page,
        "heading": chunk.title,
        "quote": next((quote.text for quote in quotes if quote.n == n), ""),
    }
