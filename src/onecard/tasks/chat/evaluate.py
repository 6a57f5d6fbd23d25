"""Score a model's answers against references, and by a rubric where a judge is named.

Knows only questions and answers.
"""

from pathlib import Path
from typing import Any

from onecard.datasets import rows as data_rows
from onecard.errors import SettingsError
from onecard.evaluation import judge, metrics, stats
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result, table
from onecard.runs.compare import regressions
from onecard.runs.record import Run, fingerprint
from onecard.runs.store import RunRecord, recent
from onecard.tasks.chat.configs import Settings


def evaluate(settings: Settings, run: Run) -> Result:
    """Exact match, F1, ROUGE and BLEU of each answer, with intervals.

    Raises DataError with file:line.
    """
    if not settings.questions:
        raise SettingsError(
            "there are no questions to score",
            why="--questions names no file",
            fix='--questions FILE with lines like {"question": "...", "answer": "..."}',
        )
    path = Path(settings.questions)
    rows = data_rows.jsonl(path, need=("question", "answer"), check=_wrong)
    run.data("questions", rows=len(rows), sha256=fingerprint(path))
    items: list[dict[str, Any]] = []
    with (
        language_model(settings, run.plan, run.reporter) as client,
        run.reporter.progress("questions", len(rows)) as bar,
    ):
        for i, row in enumerate(rows):
            said = client.chat(
                [
                    {"role": "system", "content": settings.system},
                    {"role": "user", "content": row["question"]},
                ]
            ).text
            scores = {
                name: metric(said, str(row["answer"]))
                for name, metric in metrics.TEXT_METRICS.items()
            }
            items.append(
                {
                    "id": str(row.get("id", i)),
                    "question": row["question"],
                    "answer": said,
                    "reference": row["answer"],
                    "scores": scores,
                }
            )
            run.log(i, **scores)
            bar.step()
        marked, agreed = (
            _judged(client, settings, rows, items) if settings.judge != "none" else ([], None)
        )
    for item, mark in zip(items, marked, strict=False):
        item["scores"]["mark"] = mark
    names = [*metrics.TEXT_METRICS, *(["mark"] if marked else [])]
    result = {
        name: stats.mean_interval([item["scores"][name] for item in items]).as_dict()
        for name in names
    }
    verdicts = (
        [agreed.render()]
        if agreed
        else ["the judge's worth is not known: no row has human_mark"]
        if marked
        else []
    )
    run.items(items)
    run.scores(result, verdicts=verdicts)
    if run.folder:
        verdicts += regressions(RunRecord(run.folder), recent())
    cells = [
        [name, f"{r['value']:.3f}", f"{r['low']:.3f} – {r['high']:.3f}", str(r["n"])]
        for name, r in result.items()
    ]
    return Result(
        {"metrics": result, "verdicts": verdicts},
        "\n".join([table(cells, ["metric", "value", "95 % interval", "items"]), *verdicts]),
    )


def _wrong(row: dict[str, Any]) -> str:
    """What is wrong with a row of a question set; empty when nothing is."""
    if not isinstance(row["question"], str):
        return f"question must be a text, not {str(row['question'])[:60]!r}"
    mark = row.get("human_mark")
    if mark is not None and (
        not isinstance(mark, int) or isinstance(mark, bool) or not 1 <= mark <= 5
    ):
        return f"human_mark must be 1 to 5, not {str(mark)[:60]!r}"
    return ""


def _judged(
    client: Client, settings: Settings, rows: list[dict[str, Any]], items: list[dict[str, Any]]
) -> tuple[list[int], judge.Agreement | None]:
    """The judge's marks of the answers, and its agreement on rows with human_mark (and
    human_answer, else answer)."""

    def ask(messages: list[dict[str, str]], schema: dict[str, Any]) -> str:
        return client.chat(messages, schema=schema, max_tokens=200).text

    marks = [
        judge.mark(ask, settings.rubric, judge.Marked(item["id"], item["question"], item["answer"]))
        for item in items
    ]
    pairs = []
    for row in rows:
        if row.get("human_mark") is None:
            continue
        text = str(row.get("human_answer", row["answer"]))
        pairs.append(
            (
                judge.mark(ask, settings.rubric, judge.Marked("", row["question"], text)),
                row["human_mark"],
            )
        )
    return marks, judge.agreement(pairs) if len(pairs) > 1 else None
