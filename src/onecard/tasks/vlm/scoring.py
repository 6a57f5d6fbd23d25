"""Answers of a model to held-out rows, with the controls, and what they score."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onecard.datasets import splits
from onecard.evaluation import stats
from onecard.evaluation.metrics.json_fields import field_f1, parse_json
from onecard.evaluation.metrics.vqa import ANSWER_METRICS, YesNoScores
from onecard.evaluation.metrics.vqa import item_scores as answer_scores
from onecard.reporting import Reporter
from onecard.tasks.vlm import controls, picture_facts
from onecard.tasks.vlm.controls import Scores, Verdict
from onecard.tasks.vlm.engine import Engine, Question, picture
from onecard.tasks.vlm.items import VlmItem
from onecard.tasks.vlm.picture_facts import PictureFacts

SEEING, BLIND, SHUFFLED = "", "blind", "shuffled"
"""How a set is asked: with its pictures, without them, with those of others."""
SHORT_WORDS = 4
"""Longest reference that counts as a short answer, which is right or wrong."""
ANNOTATED = 8
"""Accepted answers from which a row counts as marked by VQA's ten annotators."""
MIN_YES_NO = 10
"""Questions of yes or no from which their bias is told."""
BIAS = 0.1
"""Difference between the share of yes among answers and in the truth from which it is told."""


@dataclass
class Answers:
    """Item id -> answer, for each way of asking."""

    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    prompt_tokens: int = 0
    picture_tokens: int = 0
    seconds: float = 0.0
    n: int = 0


def ask(
    engine: Engine,
    items: Sequence[VlmItem],
    max_new_tokens: int,
    reporter: Reporter,
    name: str,
    *,
    with_controls: bool,
    seed: int = 0,
    facts: PictureFacts | None = None,
    keep: Callable[[str, dict[str, str]], None] | None = None,
) -> Answers:
    """Greedy answers of an engine. `keep` is called with each way's answers when it is done."""
    answers = Answers()
    for way, rows in _ways(items, with_controls, seed, facts):
        title = f"answers of {name}" + (f", {way}" if way else "")
        texts: dict[str, str] = {}
        with reporter.progress(title, len(rows)) as bar:
            questions = (question_of(item) for item in rows)
            replies = engine.answers(questions, max_tokens=max_new_tokens)
            for item, reply in zip(rows, replies, strict=True):
                texts[item.id] = reply.text
                bar.step()
                if way == SEEING:
                    answers.prompt_tokens += reply.prompt_tokens
                    answers.picture_tokens += reply.picture_tokens
                    answers.seconds += reply.seconds
                    answers.n += 1
        answers.texts[way] = texts
        if keep:
            keep(way, texts)
    return answers


def _ways(
    items: Sequence[VlmItem], with_controls: bool, seed: int, facts: PictureFacts | None
) -> Iterator[tuple[str, Sequence[VlmItem]]]:
    yield SEEING, items
    if with_controls and any(item.images for item in items):
        yield BLIND, controls.blind(items)
        others = controls.shuffled(items, seed, facts).items
        if others:
            yield SHUFFLED, others


def question_of(item: VlmItem) -> Question:
    """Raises DataError for a picture that cannot be read."""
    return Question(item.prompt, tuple(picture(path) for path in item.images))


# Scores


def metric_of(items: Sequence[VlmItem]) -> str:
    """What fits the references: JSON fields, ten annotators, short answers or sentences."""
    with_answers = [item for item in items if item.answers]
    if not with_answers:
        return "exact_match"
    kinds = Counter(_kind(item) for item in with_answers)
    # of a mixed set the coarser one: a sentence is never equal to another
    for kind, least in (("field_f1", 0.5), ("rougeL", 0.2), ("vqa_accuracy", 0.5)):
        if kinds[kind] >= least * len(with_answers):
            return kind
    return "exact_match"


def _kind(item: VlmItem) -> str:
    reference = item.answers[0]
    if reference.lstrip().startswith(("{", "[", "`")) and parse_json(reference) is not None:
        return "field_f1"
    if len(item.answers) >= ANNOTATED:
        return "vqa_accuracy"
    if len(reference.split()) > SHORT_WORDS or len(reference) > 60:
        return "rougeL"
    return "exact_match"


def score(metric: str, texts: Mapping[str, str], items: Sequence[VlmItem]) -> dict[str, float]:
    """Item id -> score in [0, 1] of each answer that has a reference."""
    references = {item.id: item.answers for item in items if item.answers}
    if metric == "field_f1":
        return {
            name: max(field_f1(text, reference) for reference in references[name])
            for name, text in texts.items()
            if name in references
        }
    return answer_scores(metric, texts, references)


def metrics_of(
    prefix: str, texts: Mapping[str, str], items: Sequence[VlmItem], units: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Every metric with its interval over pictures, as `base_exact_match`."""
    rows = {}
    names = [*ANSWER_METRICS]
    if metric_of(items) == "field_f1":
        names = ["field_f1", "anls"]
    for name in names:
        scores = score(name, texts, items)
        if not scores:
            continue
        groups = [units.get(each, each) for each in scores]
        interval = stats.mean_interval([*scores.values()], bounds=(0.0, 1.0), groups=groups)
        rows[f"{prefix}_{name}"] = interval.as_dict()
    yes_no = YesNoScores.of(texts, {item.id: item.answers for item in items})
    if len(yes_no.ids) >= MIN_YES_NO:
        for name, interval in yes_no.metrics(units).items():
            rows[f"{prefix}_{name}"] = interval.as_dict()
    return rows


@dataclass(frozen=True)
class Judged:
    metrics: dict[str, dict[str, Any]]
    verdict: Verdict
    sentences: list[str]


def judge(
    items: Sequence[VlmItem],
    answers: Answers,
    base: Answers | None = None,
    *,
    metric: str = "auto",
    facts: PictureFacts | None = None,
    text_alone: Scores | None = None,
    name: str = "model",
) -> Judged:
    """Scores of all ways of asking, and what they say together."""
    metric = metric_of(items) if metric == "auto" else metric
    units = picture_facts.unit_names(items, facts)
    metrics: dict[str, dict[str, Any]] = {}
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for label, each in ((name, answers), ("base", base)):
        if each is None:
            continue
        scores[label] = {way: score(metric, texts, items) for way, texts in each.texts.items()}
        for way, texts in each.texts.items():
            prefix = f"{label}_{way}" if way else label
            metrics |= metrics_of(prefix, texts, items, units)
    own, old = scores[name], scores.get("base", {})
    verdict = controls.verdict(
        own[SEEING],
        own.get(BLIND),
        own.get(SHUFFLED),
        old.get(SEEING),
        old.get(BLIND),
        text_alone=text_alone,
        groups=units,
        metric=metric,
    )
    sentences = [*verdict.sentences, *_yes_bias(items, answers.texts[SEEING], units)]
    return Judged(metrics, verdict, sentences)


def _yes_bias(
    items: Sequence[VlmItem], texts: Mapping[str, str], units: Mapping[str, Any]
) -> list[str]:
    """Whether the model says yes (or no) whatever it is shown."""
    yes_no = YesNoScores.of(texts, {item.id: item.answers for item in items})
    if len(yes_no.ids) < MIN_YES_NO:
        return []
    shares = yes_no.metrics(units)
    said, truth = shares["yes_ratio"], shares["yes_ratio_of_truth"]
    line = (
        f"questions of yes or no: it says yes to {100 * said.value:.0f} % "
        f"[{100 * said.low:.0f}, {100 * said.high:.0f}] of {len(yes_no.ids):,}, where "
        f"{100 * truth.value:.0f} % are yes"
    )
    if abs(said.value - truth.value) > BIAS:
        line += ": it leans to " + ("yes" if said.value > truth.value else "no")
    if yes_no.n_unclear:
        line += f"; {yes_no.n_unclear:,} answers say neither"
    return [line]


def item_rows(
    items: Sequence[VlmItem], metric: str, answers: Mapping[str, Answers]
) -> list[dict[str, Any]]:
    """One row an item for the run: question, references, each model's answers and scores."""
    metric = metric_of(items) if metric == "auto" else metric
    scores = {
        label: {way: score(metric, texts, items) for way, texts in each.texts.items()}
        for label, each in answers.items()
    }
    rows = []
    for item in items:
        row: dict[str, Any] = {
            "id": item.id,
            "question": item.question,
            "images": [str(path) for path in item.images],
            "reference": item.answers[0] if item.answers else "",
        }
        row["answers"], row["scores"] = {}, {}
        for label, each in answers.items():
            for way, texts in each.texts.items():
                key = f"{label}_{way}" if way else label
                if item.id in texts:
                    row["answers"][key] = texts[item.id]
                if item.id in scores[label][way]:
                    row["scores"][f"{key}_{metric}"] = scores[label][way][item.id]
        rows.append(row)
    return rows


def sample(items: Sequence[VlmItem], n: int, seed: int) -> list[VlmItem]:
    """At most `n` items, the same ones in whatever order and folder they come."""
    if len(items) <= n:
        return list(items)

    def rank(i: int) -> str:
        item = items[i]
        names = " ".join(path.name for path in item.images)
        return splits.hash_rank(seed, f"{names}|{item.conversation}|{item.answer}")

    chosen = sorted(range(len(items)), key=lambda i: (rank(i), i))[:n]
    return [items[i] for i in sorted(chosen)]
