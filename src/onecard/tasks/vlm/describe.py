"""onecard vlm describe: what pictures and pages show, as text that rag can index."""

from typing import Any

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.vlm import document_answers
from onecard.tasks.vlm.configs import DescribeConfig
from onecard.tasks.vlm.engine import Answer

FILE = "descriptions.jsonl"


def describe(config: DescribeConfig, run: Run) -> Result:
    """A line for each picture and page: file, page, text. Raises OneCardErrors."""
    document_answers.require_sources(config.images, "describe")
    rows, path = document_answers.ask_all(config, run, config.question, FILE, _row)
    n_failed = sum(bool(row.get("error")) for row in rows)
    lines = [
        f"{len(rows) - n_failed:,} of {len(rows):,} described",
        f"wrote {path}",
        f"index them: onecard rag index FOLDER --descriptions {path}",
    ]
    return Result({"rows": rows, "file": str(path)}, "\n".join(lines))


def _row(answer: Answer) -> dict[str, Any]:
    if not answer.text.strip():
        return {"error": "the answer is empty"}
    return {"text": answer.text}
