"""Metrics of a short answer to a question about a picture, against one or several accepted answers.

Every metric takes (prediction, accepted answers) and gives [0, 1]. Harnesses differ in what they
take for the same answer, and one model then scores 58 or 45: the normalization here is that of
VQA's own evaluation script, said at `normalize_answer`.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer

from onecard.evaluation.metrics import text
from onecard.evaluation.metrics.vision import units_of
from onecard.evaluation.stats import Interval, mean_interval, ratio_interval

AnswerMetric = Callable[[str, Sequence[str]], float]
YesNo = Literal["yes", "no", ""]

ANLS_THRESHOLD = 0.5
RELAXED_SHARE = 0.05
"""Of the accepted number: ChartQA's tolerance (Masry et al. 2022, 5.1)."""
ANNOTATORS = 10
"""Answers of a question in VQA, VizWiz and TextVQA."""
ENOUGH = 3
"""Annotators whose agreement makes an answer wholly right."""

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""What VQA's script removes; the full stop has a rule of its own, colon and apostrophe stay."""
COMMA_IN_NUMBER = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")
ARTICLES = ("a", "an", "the")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUMBERS = {word: str(i) for i, word in enumerate((*NUMBER_WORDS, "ten"))} | {"none": "0"}
CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've "
    "there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've "
    "you'd you'd've you'll you're you've"
)


def _contractions() -> dict[str, str]:
    """Each form with one of its apostrophes missing -> the form."""
    table = {}
    for form in CONTRACTED.split():
        for i, letter in enumerate(form):
            if letter == "'":
                table[form[:i] + form[i + 1 :]] = form
    return table


CONTRACTIONS = _contractions()
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Kana and Han characters."""
CHINESE_NUMBERS = {word: str(i) for i, word in enumerate("零一二三四五六七八九十")} | {
    "两": "2",
    "兩": "2",
    "〇": "0",
}
QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?%?")


# Normalization


def normalize_answer(answer: str) -> str:
    """What VQA's script compares: lower case, no punctuation, no articles, digits for the words
    zero to ten (and none), apostrophes of contractions put back.

    Antol et al. 2015; vqaEval.py of GT-Vision-Lab/VQA, applied to both sides of every question (the
    script leaves both as they are where all annotators agree). Beyond it: Unicode's compatibility
    forms (NFKC) and curly quotes first; an answer that would be empty, as the choice "A", stays in
    lower case. Chinese and Japanese answers lose spaces and all punctuation.

    >>> normalize_answer("The two  T-shirts."), normalize_answer("1,000"), normalize_answer("dont")
    ('2 t shirts', '1000', "don't")
    >>> normalize_answer("Ａ"), normalize_answer("一只 猫。"), normalize_answer("两")
    ('a', '一只猫', '2')
    """
    plain = unicodedata.normalize("NFKC", answer.translate(QUOTES))
    plain = " ".join(plain.split())
    if UNSPACED.search(plain):
        return _normalize_unspaced(plain) or plain.lower()
    kept = _without_punctuation(plain).lower().split()
    words = [NUMBERS.get(word, word) for word in kept]
    words = [CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES]
    return " ".join(words) or plain.lower()


def _without_punctuation(answer: str) -> str:
    """A mark that stands at a space, or anywhere beside a number with commas, goes without a trace;
    between two words it becomes a space."""
    closes = bool(COMMA_IN_NUMBER.search(answer))
    kept = answer
    for mark in PUNCTUATION:
        alone = closes or f"{mark} " in answer or f" {mark}" in answer
        kept = kept.replace(mark, "" if alone else " ")
    return FULL_STOP.sub("", kept)


def _normalize_unspaced(answer: str) -> str:
    """Letters, digits, and what belongs to numbers: %, and . : - / between digits."""
    kept = []
    for i, letter in enumerate(answer):
        inner = answer[i - 1 : i].isdigit() and answer[i + 1 : i + 2].isdigit()
        if letter.isspace() or (
            unicodedata.category(letter)[0] == "P"
            and letter != "%"
            and not (letter in ".:-/" and inner)
        ):
            continue
        kept.append(letter)
    joined = "".join(kept).lower()
    return CHINESE_NUMBERS.get(joined, joined)


# Answers against answers


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the normalized prediction is one of the normalized answers.

    >>> exact_match("A dog.", ["cat", "dog"]), exact_match("dogs", ["dog"])
    (1.0, 0.0)
    """
    wanted = normalize_answer(prediction)
    return float(any(normalize_answer(answer) == wanted for answer in answers))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA's accuracy (Antol et al. 2015): with 10 annotators the mean over all sets of 9 of
    min(matches / 3, 1); with any other number of answers `exact_match`.

    One match of ten gives .3, two .6, three .9, four 1.

    >>> vqa_accuracy("red", ["red"] * 2 + ["blue"] * 8), vqa_accuracy("red", ["red", "blue"])
    (0.6, 1.0)
    """
    if len(answers) != ANNOTATORS:
        return exact_match(prediction, answers)
    wanted = normalize_answer(prediction)
    n = sum(normalize_answer(answer) == wanted for answer in answers)
    without_one, without_other = min((n - 1) / ENOUGH, 1.0), min(n / ENOUGH, 1.0)
    total = n * without_one + (ANNOTATORS - n) * without_other
    return round(total / ANNOTATORS, 12)


def anls(prediction: str, answers: Sequence[str], threshold: float = ANLS_THRESHOLD) -> float:
    """Normalized Levenshtein similarity to the nearest answer; below the threshold 0 (Biten et al.
    2019). Case and repeated spaces do not count.

    A similarity of exactly .5 counts, as in the evaluator of DocVQA's leaderboard; the paper's
    formula would make it 0.

    >>> round(anls("Hello World", ["hello worlds"]), 3), anls("abcd", ["abzz"]), anls("a", ["xyz"])
    (0.917, 0.5, 0.0)
    """
    best = max((_similarity(prediction, answer) for answer in answers), default=0.0)
    return best if best >= threshold else 0.0


def _similarity(one: str, other: str) -> float:
    """1 - edits / length of the longer text."""
    a, b = (" ".join(unicodedata.normalize("NFKC", each).lower().split()) for each in (one, other))
    longer = max(len(a), len(b))
    if a == b:
        return float(longer > 0)
    if not a or not b:
        return 0.0
    edits = jiwer.process_characters(b, a)
    return 1 - (edits.substitutions + edits.deletions + edits.insertions) / longer


def relaxed_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """ChartQA's measure (Methani et al. 2020, Masry et al. 2022): numbers within 5 % of an answer,
    other answers by equal letters.

    A per cent sign divides by 100. Thousands may have commas, which the paper's script does not
    read. Years within 5 % count as right, as there.

    >>> relaxed_accuracy("104", ["100"]), relaxed_accuracy("94", ["100"])
    (1.0, 0.0)
    >>> relaxed_accuracy("12%", ["0.12"]), relaxed_accuracy("Yes", ["yes"])
    (1.0, 1.0)
    """
    return float(any(_relaxed_equal(prediction, answer) for answer in answers))


def _relaxed_equal(prediction: str, answer: str) -> bool:
    value, target = number_of(prediction), number_of(answer)
    if value is not None and target is not None:
        return abs(value - target) <= RELAXED_SHARE * abs(target) * (1 + 1e-12)
    return " ".join(prediction.lower().split()) == " ".join(answer.lower().split())


def number_of(answer: str) -> float | None:
    """The number that a text is, or None.

    >>> number_of("1,234.5"), number_of("-3%"), number_of("3 cats"), number_of("1e999")
    (1234.5, -0.03, None, None)
    """
    plain = unicodedata.normalize("NFKC", answer).strip().replace("\u2212", "-").rstrip(".")
    if not NUMBER.fullmatch(plain) or not any(letter.isdecimal() for letter in plain):
        return None
    try:
        value = float(plain.rstrip("%").replace(",", ""))
    except ValueError:  # "e5", ".e5": a sign and an exponent without digits
        return None
    value = value / 100 if plain.endswith("%") else value
    return value if math.isfinite(value) else None


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """ROUGE-L to the nearest answer."""
    return max((text.rouge_l(prediction, answer) for answer in answers), default=0.0)


ANSWER_METRICS: dict[str, AnswerMetric] = {
    "exact_match": exact_match,
    "vqa_accuracy": vqa_accuracy,
    "anls": anls,
    "relaxed_accuracy": relaxed_accuracy,
    "rougeL": rouge_l,
}
"""Name -> metric; all in [0, 1], higher is better."""


def item_scores(
    metric: str, predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """id -> score of each prediction that has accepted answers, for stats.mean_interval and
    stats.compare."""
    score = ANSWER_METRICS[metric]
    return {
        name: score(prediction, answers[name])
        for name, prediction in predictions.items()
        if answers.get(name)
    }


# Yes or no


YES_WORDS = "yes yeah yep true correct ja oui sí si sim да はい 네 예 是 是的 有 对 對"
NO_WORDS = "no nope not false nein non não нет いいえ 아니요 아니오 不是 没有 沒有 否"
YES, NO = frozenset(YES_WORDS.split()), frozenset(NO_WORDS.split())
LEADING = tuple(sorted((*YES, *NO), key=len, reverse=True))
NEGATION = re.compile(r"\b(?:no|not|none|cannot|nothing)\b|n't\b")


def yes_or_no(answer: str) -> YesNo:
    """What an answer says: by its first word, else by a negation or a yes in its first sentence;
    empty where it says neither, which POPE's script counts as yes.

    >>> yes_or_no("Yes, there is."), yes_or_no("There is no dog."), yes_or_no("没有。")
    ('yes', 'no', 'no')
    >>> yes_or_no("A dog is on the left.")
    ''
    """
    plain = unicodedata.normalize("NFKC", answer.translate(QUOTES)).lower().strip()
    plain = plain.lstrip("\"'*`([ ")
    first = (re.match(r"[^\W_]+", plain) or [""])[0]
    if first in YES:
        return "yes"
    if first in NO:
        return "no"
    if UNSPACED.match(plain):
        start = next((word for word in LEADING if plain.startswith(word)), "")
        if start:
            return "yes" if start in YES else "no"
        return ""
    sentence = re.split(r"[.!?\n]", plain, maxsplit=1)[0]
    if NEGATION.search(sentence):
        return "no"
    return "yes" if re.search(r"\byes\b", sentence) else ""


@dataclass(frozen=True)
class YesNoScores:
    """Answers to questions whose truth is yes or no, as POPE counts them (Li et al. 2023); yes is
    the positive class."""

    ids: tuple[str, ...]
    truths: tuple[YesNo, ...]
    predictions: tuple[YesNo, ...]
    """Empty for an answer that says neither; it is wrong."""

    @classmethod
    def of(
        cls, predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]
    ) -> "YesNoScores":
        """Of the questions whose accepted answers all say yes, or all say no."""
        rows = []
        for name, prediction in predictions.items():
            meanings = {yes_or_no(answer) for answer in answers.get(name, ())}
            if len(meanings) == 1 and (truth := meanings.pop()):
                rows.append((name, truth, yes_or_no(prediction)))
        ids, truths, replies = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(tuple(ids), tuple(truths), tuple(replies))

    @property
    def n_unclear(self) -> int:
        return self.predictions.count("")

    def item_scores(self) -> dict[str, float]:
        """id -> 1 for a right answer."""
        rows = zip(self.ids, self.truths, self.predictions, strict=True)
        return {name: float(truth == prediction) for name, truth, prediction in rows}

    def metrics(self, groups: Mapping[str, Hashable] | None = None) -> dict[str, Interval]:
        """accuracy, precision, recall, F1, the share of yes among the answers and in the truth, and
        the share of unclear answers; nan where a ratio has nothing below it."""
        units = list(units_of(self.ids, groups)[0])
        share = (0.0, 1.0)
        true = [float(truth == "yes") for truth in self.truths]
        positive = [float(reply == "yes") for reply in self.predictions]
        both = [a * b for a, b in zip(true, positive, strict=True)]
        unclear = [float(reply == "") for reply in self.predictions]
        twice, sums = (
            [2 * each for each in both],
            [a + b for a, b in zip(true, positive, strict=True)],
        )
        return {
            "yes_no_accuracy": mean_interval(
                list(self.item_scores().values()), bounds=share, groups=units
            ),
            "yes_precision": ratio_interval(both, positive, bounds=share, groups=units),
            "yes_recall": ratio_interval(both, true, bounds=share, groups=units),
            "yes_f1": ratio_interval(twice, sums, bounds=share, groups=units),
            "yes_ratio": mean_interval(positive, bounds=share, groups=units),
            "yes_ratio_of_truth": mean_interval(true, bounds=share, groups=units),
            "unclear": mean_interval(unclear, bounds=share, groups=units),
        }
