"""Metrics behind one small interface: (predictions, references) -> one number an item. Knows
nothing of doubt: see stats.

Every metric here is of items, so that it can be resampled and paired; corpus BLEU is the exception
and says so.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import jiwer
import numpy as np
from rouge_score import rouge_scorer
from sacrebleu.metrics.bleu import BLEU

PerItem = Callable[[str, str], float]


def normalize(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces (SQuAD's evaluation script,
    Rajpurkar 2016)."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(
        " " if letter in string.punctuation or unicodedata.category(letter)[0] == "P" else letter
        for letter in text
    )
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def words(text: str) -> list[str]:
    """Words of a normalized text; each CJK character is a word of its own, as in BLEU's zh
    tokenizer.

    >>> words("The 3 cats, 北京!")
    ['3', 'cats', '北', '京']
    """
    return re.findall(
        r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+",
        normalize(text),
    )


def exact_match(prediction: str, reference: str) -> float:
    """1 when equal after `normalize`."""
    return float(normalize(prediction) == normalize(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of word precision and recall, counted as bags (SQuAD's F1).

    >>> round(token_f1("in the city of Paris", "Paris"), 2)
    0.4
    """
    got, want = words(prediction), words(reference)
    if not got or not want:
        return float(got == want)
    common = sum((Counter(got) & Counter(want)).values())
    return 0.0 if not common else 2 * common / (len(got) + len(want))


def bleu(prediction: str, reference: str) -> float:
    """Sentence BLEU in [0, 1] by sacrebleu, exponential smoothing, effective order; Chinese is cut
    by character."""
    return float(_bleu_of(reference).sentence_score(prediction, [reference]).score) / 100


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """BLEU over all items at once, in [0, 1]: the figure that papers give."""
    joined = " ".join(references)
    return float(_bleu_of(joined).corpus_score(list(predictions), [list(references)]).score) / 100


def _bleu_of(text: str) -> BLEU:
    cjk = bool(re.search(r"[\u4e00-\u9fff]", text))
    return BLEU(tokenize="zh" if cjk else "13a", effective_order=True)


class _Cut:
    """ROUGE's tokenizer, ours: the package's own drops every letter that is not ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


_ROUGE = rouge_scorer.RougeScorer(["rouge1", "rougeL"], tokenizer=_Cut())


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004)."""
    return float(_ROUGE.score(reference, prediction)["rougeL"].fmeasure)


def rouge_1(prediction: str, reference: str) -> float:
    """F-measure of common words (Lin 2004)."""
    return float(_ROUGE.score(reference, prediction)["rouge1"].fmeasure)


def word_errors(
    prediction: str, reference: str, normal: Callable[[str], str] | None = None
) -> tuple[int, int]:
    """(substitutions + deletions + insertions, words of the reference): WER is the ratio of their
    sums. `normal`: another way to normalize, whose words stand between spaces."""
    got, want = (
        words(text) if normal is None else normal(text).split() for text in (prediction, reference)
    )
    if not want:
        return len(got), 0
    done = jiwer.process_words(" ".join(want), " ".join(got))
    return done.substitutions + done.deletions + done.insertions, len(want)


def character_errors(
    prediction: str, reference: str, normal: Callable[[str], str] = normalize
) -> tuple[int, int]:
    """As `word_errors`, over the characters of the normalized texts."""
    got, want = normal(prediction).replace(" ", ""), normal(reference).replace(" ", "")
    if not want:
        return len(got), 0
    done = jiwer.process_characters(want, got)
    return done.substitutions + done.deletions + done.insertions, len(want)


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean negative log-likelihood (nats) of the tokens; nan for none."""
    return math.exp(-sum(logprobs) / len(logprobs)) if logprobs else math.nan


def recall_at(ranked: Sequence[str], relevant: set[str], k: int) -> float:
    """Share of the relevant items among the first k; nan when nothing is relevant.

    >>> recall_at(["a", "b", "c"], {"b", "z"}, 2)
    0.5
    """
    return len(set(ranked[:k]) & relevant) / len(relevant) if relevant else math.nan


def reciprocal_rank(ranked: Sequence[str], relevant: set[str]) -> float:
    """1 / rank of the first relevant item, 0 when there is none."""
    return next((1 / rank for rank, item in enumerate(ranked, 1) if item in relevant), 0.0)


def ndcg_at(ranked: Sequence[str], gains: dict[str, float], k: int = 10) -> float:
    """Normalized discounted cumulative gain, linear gain as trec_eval's ndcg_cut (Järvelin &
    Kekäläinen 2002).

    >>> round(ndcg_at(["x", "a"], {"a": 1.0}, 10), 3)
    0.631
    """

    def dcg(values: Sequence[float]) -> float:
        return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(values, 1)))

    best = dcg(sorted((g for g in gains.values() if g > 0), reverse=True)[:k])
    return dcg([max(gains.get(item, 0.0), 0.0) for item in ranked[:k]]) / best if best else math.nan


TEXT_METRICS: dict[str, PerItem] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "rouge1": rouge_1,
    "rougeL": rouge_l,
    "bleu": bleu,
}
"""The metrics of a predicted text against a reference; all in [0, 1], higher is better."""
