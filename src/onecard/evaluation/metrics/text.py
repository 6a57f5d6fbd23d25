"""Metrics of a text against a reference: exact match, F1, ROUGE, BLEU, perplexity.

All are of single items except corpus BLEU.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from rouge_score import rouge_scorer
from sacrebleu.metrics.bleu import BLEU

PerItem = Callable[[str, str], float]


def normalize(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces.

    The normalization of SQuAD's evaluation script (Rajpurkar et al. 2016).
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(
        " " if letter in string.punctuation or unicodedata.category(letter)[0] == "P" else letter
        for letter in text
    )
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def words(text: str) -> list[str]:
    """Words of the normalized text; each CJK character is a word, as in BLEU's zh tokenizer.

    >>> words("The 3 cats, 北京!")
    ['3', 'cats', '北', '京']
    """
    return re.findall(
        r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+",
        normalize(text),
    )


def exact_match(prediction: str, reference: str) -> float:
    """1 if the normalized texts are equal."""
    return float(normalize(prediction) == normalize(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of word precision and recall over bags of words (SQuAD's F1).

    >>> round(token_f1("in the city of Paris", "Paris"), 2)
    0.4
    """
    predicted, expected = words(prediction), words(reference)
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def bleu(prediction: str, reference: str) -> float:
    """Sentence BLEU in [0, 1] by sacrebleu: exponential smoothing, effective order.

    Chinese is split by character.
    """
    return float(_bleu_of(reference).sentence_score(prediction, [reference]).score) / 100


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """BLEU over all items at once, in [0, 1], as papers report it."""
    joined = " ".join(references)
    return float(_bleu_of(joined).corpus_score(list(predictions), [list(references)]).score) / 100


def _bleu_of(text: str) -> BLEU:
    cjk = bool(re.search(r"[\u4e00-\u9fff]", text))
    return BLEU(tokenize="zh" if cjk else "13a", effective_order=True)


class _WordTokenizer:
    """A tokenizer for rouge_score, whose own drops every letter that is not ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


_ROUGE = rouge_scorer.RougeScorer(["rouge1", "rougeL"], tokenizer=_WordTokenizer())


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004)."""
    return float(_ROUGE.score(reference, prediction)["rougeL"].fmeasure)


def rouge_1(prediction: str, reference: str) -> float:
    """F-measure of common words (Lin 2004)."""
    return float(_ROUGE.score(reference, prediction)["rouge1"].fmeasure)


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean negative log-likelihood of the tokens (nats); nan without tokens."""
    return math.exp(-sum(logprobs) / len(logprobs)) if logprobs else math.nan


TEXT_METRICS: dict[str, PerItem] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "rouge1": rouge_1,
    "rougeL": rouge_l,
    "bleu": bleu,
}
"""Name -> metric (prediction, reference); all in [0, 1], higher is better."""
