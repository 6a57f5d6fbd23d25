"""Makes README.md, notebook.ipynb and report.html of a run folder: how to repeat it, and what came
of it. Knows no task.

The page is a jinja2 template with autoescape: what a run holds is text, never HTML. Charts are SVG
that this package draws.
"""

import hashlib
import json
import pprint
import shlex
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from onecard import config as configs
from onecard import fsio
from onecard.errors import DataError
from onecard.evaluation.metric_table import by_unit
from onecard.runs import plots
from onecard.runs.record import read_json
from onecard.runs.store import RunRecord
from onecard.units import duration, gib

PICTURES_SHOWN = 12
"""Files of artifacts that the page shows."""
ITEMS_SHOWN = 500
"""Items that the page lists: more make it slow to open."""


def write(run: RunRecord) -> None:
    """All three files, each whole or not at all. Raises DataError for a run whose files are none
    of ours."""
    try:
        facts = _facts(run)
        texts = {
            "README.md": _render("report.md", facts),
            "notebook.ipynb": json.dumps(_notebook(facts), indent=1) + "\n",
            "report.html": _render("report.html", _page_facts(facts, run)),
        }
    except (LookupError, TypeError, AttributeError, ValueError, jinja2.TemplateError) as fault:
        raise DataError(
            f"the report of run {run.id} cannot be made",
            why=f"a file in {run.folder} is broken: {fault}",
            fix="rerun it",
        ) from fault
    for name, text in texts.items():
        fsio.write_text(run.folder / name, text)


def _render(name: str, facts: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"gib": gib, "duration": duration}
    return environment.get_template(f"{name}.jinja").render(facts)


def _facts(run: RunRecord) -> dict[str, Any]:
    settings = run.settings()
    env = read_json(run.folder / "env.json")
    device = env.get("device") or env.get("card") or {}
    repeat = ["onecard", run.task, run.command, *configs.as_flags(settings)]
    return {
        "id": run.id,
        "task": run.task,
        "command": run.command,
        "about": run.about,
        "argv": shlex.join(run.argv),
        "settings": settings,
        "status": run.status,
        "repeat": shlex.join(repeat),
        "env": env,
        "device": str(device.get("name", "?")),
        "packages": env.get("packages", {}),
        "plan": read_json(run.folder / "plan.json"),
        "data": read_json(run.folder / "data.json"),
        "memory": read_json(run.folder / "memory.json"),
        "metrics": run.metrics,
        "scores": _score_rows(run.metrics),
        "verdicts": read_json(run.folder / "scores.json").get("verdicts", []),
    }


def _score_rows(metrics: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Metrics of one unit stand together."""
    rows = []
    for unit, group in by_unit(metrics).items():
        for name, row in group.items():
            interval = ""
            if row.get("low") is not None:
                interval = f"{_number(row.get('low'))} – {_number(row.get('high'))}"
            rows.append([name, _number(row["value"]), unit, interval, str(row.get("n", ""))])
    return rows


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.4g}"


def _notebook(facts: dict[str, Any]) -> dict[str, Any]:
    """The same run through the same door that the command line uses."""
    task, command = facts["task"], facts["command"]
    # pprint writes Python: true and null inside a question stay words
    values = pprint.pformat(facts["settings"], width=90, sort_dicts=False)
    cells = [
        ("markdown", f"# {facts['id']}\n\nThe same run through the Python API."),
        (
            "code",
            "from onecard import api\n\n"
            f"values = {values}\n"
            f"config = api.configure({task!r}, {command!r}, values=values)\n"
            f"print(api.plan({task!r}, config).render())",
        ),
        ("code", f"result = api.run({task!r}, {command!r}, config)\nprint(result.text)"),
        ("code", f"print(api.compare({facts['id']!r}, 'last').text)"),
    ]
    return {
        "cells": [_cell(*cell) for cell in cells],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(cell_type: str, text: str) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if cell_type == "code":
        extra = {"execution_count": None, "outputs": []}
    return {
        "cell_type": cell_type,
        "id": hashlib.sha256(f"{cell_type}{text}".encode()).hexdigest()[:8],
        "metadata": {},
        "source": text.splitlines(keepends=True),
        **extra,
    }


def _page_facts(facts: dict[str, Any], run: RunRecord) -> dict[str, Any]:
    """Charts and items beside the facts."""
    items = list(run.items().values())
    terms = facts["plan"].get("terms", [])
    memory = plots.memory(terms, facts["memory"].get("peak_rss_bytes", 0)) if terms else ""
    details = {"settings": facts["settings"], "env": facts["env"], "data": facts["data"]}
    return facts | {
        "score_charts": [
            Markup(plots.scores(unit, group)) for unit, group in by_unit(facts["metrics"]).items()
        ],
        "curves": [Markup(curve) for curve in plots.curves(run.events())],
        "memory_chart": Markup(memory),
        "pictures": _pictures(run.folder),
        "details": json.dumps(details, indent=1, ensure_ascii=False),
        "n_items": len(items),
        "items": [
            {
                "id": str(item["id"]),
                "brief": _brief(item.get("scores", {})),
                "text": json.dumps(item, indent=1, ensure_ascii=False),
            }
            for item in items[:ITEMS_SHOWN]
        ],
    }


def _pictures(folder: Path) -> list[str]:
    """Charts and sheets that the work left in its artifacts, as paths from the page. They are shown
    as images, in which no script runs."""
    kept = [path for path in (folder / "artifacts").glob("*") if path.suffix in (".svg", ".png")]
    return [f"artifacts/{path.name}" for path in sorted(kept)[:PICTURES_SHOWN]]


def _brief(scores: dict[str, Any]) -> str:
    figures = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {value:.2f}" for name, value in figures.items())[:160]
