"""How much of a question one sentence or row of a passage takes up, by terms and their rarity."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from onecard.tasks.rag import analyzer

Part = frozenset[str]
"""Terms, any of which takes up one part of a question: a word, a date, a Chinese character."""
QUESTION_WORDS = re.compile(
    "怎麼樣?|怎么样?|怎樣|怎样|什麼時候|什么时候|為什麼|为什么|什麼|什么|為何|为何|如何|何時|何时|是否|"
    "哪[些個个裡里一位種种年]?|誰|谁|多少|幾|几|可以|應該|应该|嗎|吗|呢|的|是|了|在|於|于|"
    "ですか|ます|です|どう|なに|なぜ|いつ|どこ|から|まで|[てはのをにがとでか]"
)
"""Words of Chinese and Japanese questions that say nothing about the subject, as STOP_WORDS does
for English."""
COMPOUND_WEIGHT = 3.0
"""A version or date weighs as much as three words: it is what look-alikes differ in."""
Rarity = Callable[[str], float]
"""Term -> its weight in the index; the rarer, the higher, and highest for an unknown one."""


def question_parts(question: str) -> list[Part]:
    """The distinct parts of a question. Of a date or version the whole alone: its digits and month
    are in many places. A Chinese character is taken up by either of its pairs.

    >>> [sorted(part) for part in question_parts("Which tools came with v4.2.1?")]
    [['4.2.1'], ['tool'], ['came']]
    >>> [sorted(part) for part in question_parts("如何上傳檔")]
    [['上傳'], ['上傳', '傳檔'], ['傳檔']]
    """
    text = unicodedata.normalize("NFKC", question)
    parts: list[Part] = []
    readings = frozenset(analyzer.compound_terms(text))
    if readings:
        numbers = [match[0] for match in analyzer.NUMBER_GROUPS.finditer(text)]
        for pattern, _ in analyzer.WRITTEN_DATES:
            numbers += [match[0] for match in pattern.finditer(text)]
        for piece in numbers:
            if own := frozenset(analyzer.compound_terms(piece)):
                parts.append(own)
                text = text.replace(piece, " ")
    for run in analyzer.WORD.findall(text):
        for piece in analyzer.split_scripts(run):
            if analyzer.is_cjk(piece[0]):
                for words in QUESTION_WORDS.split(piece):
                    parts += _characters(words)
            else:
                parts += [frozenset([term]) for term in analyzer.terms(piece)]
    return list(dict.fromkeys(parts))


def _characters(run: str) -> list[Part]:
    pairs = [run[i : i + 2] for i in range(len(run) - 1)]
    if not pairs:
        return [frozenset([run])] if run else []
    return [frozenset(pairs[max(i - 1, 0) : i + 1]) for i in range(len(run))]


def coverage(parts: Sequence[Part], texts: Iterable[set[str]], rarity: Rarity) -> float:
    """Share of a question's parts that the best of some texts takes up alone, weighted by rarity, 0
    to 1. A text is its set of terms."""
    weights = [_weight(part, rarity) for part in parts]
    total = sum(weights)
    if not total:
        return 0.0
    return (
        max(
            (
                sum(weight for part, weight in zip(parts, weights, strict=True) if part & text)
                for text in texts
            ),
            default=0.0,
        )
        / total
    )


def _weight(part: Part, rarity: Rarity) -> float:
    """Of a character with an unknown pair that of the known one: the other spans two words."""
    if any(analyzer.is_compound(term) for term in part):
        return COMPOUND_WEIGHT * max(map(rarity, part))
    unknown = rarity("")
    weights = [rarity(term) for term in part]
    known = [weight for weight in weights if weight < unknown]
    weight = max(known or weights)
    return weight / 2 if analyzer.is_cjk(next(iter(part))[0]) else weight
