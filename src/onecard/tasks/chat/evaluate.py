"""`onecard chat evaluate`: score a model's answers against references, and by a judge."""

from pathlib import Path
from typing import Any

from onecard.datasets import rows as data_rows
from onecard.errors import SettingsError
from onecard.evaluation import judge, stats
from onecard.evaluation.metric_table import metric_table
from onecard.evaluation.metrics.text import TEXT_METRICS
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.compare import regressions
from onecard.runs.record import Run, fingerprint
from onecard.runs.store import RunRecord, recent
from onecard.tasks.chat.configs import EvaluateConfig


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """Exact match, F1, ROUGE and BLEU of each answer, with intervals; marks if a judge is set.

    Raises SettingsError without questions, DataError with file:line.
    """
    if not config.questions:
        raise SettingsError(
            "there are no questions to score",
            why="--questions names no file",
            fix='--questions FILE with lines like {"question": "...", "answer": "..."}',
        )
    path = Path(config.questions)
    rows = data_rows.jsonl(path, need=("question", "answer"), check=_row_fault)
    run.data("questions", rows=len(rows), sha256=fingerprint(path))
    items: list[dict[str, Any]] = []
    marks: list[int] = []
    verdicts: list[str] = []
    with (
        language_model(config, run.plan, run.reporter) as client,
        run.reporter.progress("questions", len(rows)) as bar,
    ):
        for i, row in enumerate(rows):
            items.append(_answer(client, config, row, i))
            bar.step()
        if config.judge != "none":
            marks = _marks(client, config.rubric, items)
            agreement = _agreement(client, config.rubric, rows)
            verdicts = ["the accuracy of the judge is unknown: no row has human_mark"]
            if agreement:
                verdicts = [agreement.render()]
    for item, mark in zip(items, marks, strict=False):
        item["scores"]["mark"] = mark
    metrics = {
        name: stats.metric_interval(name, [item["scores"][name] for item in items]).as_dict()
        for name in (*TEXT_METRICS, *(("mark",) if marks else ()))
    }
    run.items(items)
    run.scores(metrics, verdicts=verdicts)
    if run.folder:
        verdicts += regressions(RunRecord(run.folder), recent())
    return Result(
        {"metrics": metrics, "verdicts": verdicts},
        "\n".join([metric_table(metrics), *verdicts]),
    )


def _answer(client: Client, config: EvaluateConfig, row: dict[str, Any], i: int) -> dict[str, Any]:
    """The item of one question: the model's answer, the reference, the scores."""
    messages = [
        {"role": "system", "content": config.system},
        {"role": "user", "content": row["question"]},
    ]
    answer = client.chat(messages).text
    reference = str(row["answer"])
    return {
        "id": str(row.get("id", i)),
        "question": row["question"],
        "answer": answer,
        "reference": row["answer"],
        "scores": {name: metric(answer, reference) for name, metric in TEXT_METRICS.items()},
    }


def _row_fault(row: dict[str, Any]) -> str:
    """What is wrong with a row of the question set, or ""."""
    if not isinstance(row["question"], str):
        return f"question must be a text, not {str(row['question'])[:60]!r}"
    mark = row.get("human_mark")
    if mark is not None and (
        not isinstance(mark, int) or isinstance(mark, bool) or not 1 <= mark <= 5
    ):
        return f"human_mark must be 1 to 5, not {str(mark)[:60]!r}"
    return ""


def _ask_with(client: Client) -> judge.Ask:
    def ask(messages: list[dict[str, str]], schema: dict[str, Any]) -> str:
        return client.chat(messages, schema=schema, max_tokens=200).text

    return ask


def _marks(client: Client, rubric: str, items: list[dict[str, Any]]) -> list[int]:
    """The judge's mark of each answer."""
    ask = _ask_with(client)
    return [
        judge.mark(ask, rubric, judge.JudgedItem(item["id"], item["question"], item["answer"]))
        for item in items
    ]


def _agreement(client: Client, rubric: str, rows: list[dict[str, Any]]) -> judge.Agreement | None:
    """The judge against the rows with human_mark, which is a mark of human_answer, else of answer.

    None for fewer than two such rows.
    """
    ask = _ask_with(client)
    pairs = []
    for row in rows:
        if row.get("human_mark") is None:
            continue
        answer = str(row.get("human_answer", row["answer"]))
        mark = judge.mark(ask, rubric, judge.JudgedItem("", row["question"], answer))
        pairs.append((mark, row["human_mark"]))
    return judge.agreement(pairs) if len(pairs) > 1 else None
