"""Makes README.md, notebook.ipynb and report.html of a run folder: how to repeat it, and what came
of it. Knows no kind."""

import html
import json
import shlex
from typing import Any

from onecard import flags, fsio
from onecard.runs import plots
from onecard.runs.record import read_json
from onecard.runs.store import RunRecord
from onecard.units import duration, gib

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:1rem 0;width:100%}td,th{border-bottom:1px solid #d8dee4;padding:.35rem .6rem;text-align:left;vertical-align:top}
th:not(:first-child),td.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f6f8fa;padding:.8rem;overflow-x:auto;border-radius:6px}
svg{max-width:100%;height:auto}h1{margin-bottom:0}.sub{color:#57606a}details{margin:.3rem 0}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}pre{background:#161b22}td,th{border-color:#30363d}figure{background:#fff;border-radius:6px}}"""


def write(run: RunRecord) -> None:
    """All three files, each whole or not at all."""
    facts = _facts(run)
    fsio.write_text(run.folder / "README.md", _readme(facts))
    fsio.write_text(run.folder / "notebook.ipynb", json.dumps(_notebook(facts), indent=1) + "\n")
    fsio.write_text(run.folder / "report.html", _page(facts, run))


def _facts(run: RunRecord) -> dict[str, Any]:
    settings, about = run.settings(), run.about
    words = ["onecard", about.get("kind", ""), about.get("verb", ""), *flags.as_words(settings)]
    return {
        "id": run.id,
        "about": about,
        "settings": settings,
        "status": run.status,
        "repeat": shlex.join(words),
        "env": read_json(run.folder / "env.json"),
        "plan": read_json(run.folder / "plan.json"),
        "data": read_json(run.folder / "data.json"),
        "memory": read_json(run.folder / "memory.json"),
        "metrics": run.metrics,
        "verdicts": read_json(run.folder / "scores.json").get("verdicts", []),
    }


def _score_rows(facts: dict[str, Any]) -> list[list[str]]:
    def show(value: float | None) -> str:
        return "" if value is None or value != value else f"{value:.4g}"

    return [
        [
            name,
            show(row["value"]),
            f"{show(row.get('low'))} – {show(row.get('high'))}"
            if row.get("low") is not None
            else "",
            str(row.get("n", "")),
        ]
        for name, row in facts["metrics"].items()
    ]


def _readme(facts: dict[str, Any]) -> str:
    about, memory = facts["about"], facts["memory"]
    lines = [
        f"# {facts['id']}",
        "",
        f"`{shlex.join(about.get('command', []))}` in `{about.get('cwd', '')}`, "
        f"{about.get('started', '')}: **{facts['status']}**.",
        "",
    ]
    if facts["metrics"]:
        lines += ["| metric | value | 95 % interval | items |", "|---|---:|---|---:|"]
        lines += ["| " + " | ".join(row) + " |" for row in _score_rows(facts)] + [""]
    lines += [f"- {line}" for line in facts["verdicts"]]
    lines += [
        "",
        "## How to repeat it",
        "",
        "```",
        f"onecard runs rerun {facts['id']}",
        "# or, in words:",
        facts["repeat"],
        "```",
        "",
    ]
    lines += ["Settings: `settings.toml`. Environment: `env.json`. What was read:", ""]
    lines += [
        f"- {name}: {row.get('rows', '?')} rows, sha256 `{row.get('sha256', '')}`"
        for name, row in facts["data"].items()
    ] or ["- nothing"]
    if memory:
        lines += [
            "",
            f"Planned {gib(memory['planned_bytes'])}, measured peak "
            f"{gib(memory['peak_rss_bytes'])} (resident), {duration(memory['wall_s'])}.",
        ]
    packages = ", ".join(f"{k} {v}" for k, v in facts["env"].get("packages", {}).items())
    device = facts["env"].get("card", {}).get("name", "?")
    lines += ["", f"Card: {device}. Python {facts['env'].get('python', '?')}. {packages}.", ""]
    return "\n".join(lines)


def _notebook(facts: dict[str, Any]) -> dict[str, Any]:
    about = facts["about"]

    def cell(cell_type: str, text: str) -> dict[str, Any]:
        extra: dict[str, Any] = (
            {"execution_count": None, "outputs": []} if cell_type == "code" else {}
        )
        return {
            "cell_type": cell_type,
            "id": f"c{abs(hash((cell_type, text))) % 10**8}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
            **extra,
        }

    settings = (
        json.dumps(facts["settings"], indent=4, ensure_ascii=False)
        .replace("true", "True")
        .replace("false", "False")
    )
    cells = [
        cell(
            "markdown",
            f"# {facts['id']}\n\nThe same run through the same door that the command line uses.",
        ),
        cell(
            "code",
            f"from onecard import api\n\nsettings = api.configure({about.get('kind')!r}, "
            f"values={settings})\nprint(api.plan({about.get('kind')!r}, settings).render())",
        ),
        cell(
            "code",
            f"answer = api.run({about.get('kind')!r}, {about.get('verb')!r}, "
            "settings)\nprint(answer.text)",
        ),
        cell("code", f"print(api.compare({facts['id']!r}, 'last').text)"),
    ]
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _page(facts: dict[str, Any], run: RunRecord) -> str:
    esc = html.escape
    about = facts["about"]
    parts = [
        f"<h1>{esc(facts['id'])}</h1><p class=sub>{esc(about.get('kind', ''))} "
        f"{esc(about.get('verb', ''))}, {esc(about.get('started', ''))}: "
        f"<b>{esc(facts['status'])}</b></p>"
    ]
    if facts["metrics"]:
        parts.append(
            "<h2>Scores</h2>"
            + _html_table(_score_rows(facts), ["metric", "value", "95 % interval", "items"])
        )
        if drawn := plots.scores(facts["metrics"]):
            parts.append(f"<figure>{drawn}</figure>")
    parts += [f"<p>{esc(line)}</p>" for line in facts["verdicts"]]
    curves = plots.curves(run.events())
    parts += (
        ["<h2>Over time</h2>", *(f"<figure>{curve}</figure>" for curve in curves)] if curves else []
    )
    terms = facts["plan"].get("terms", [])
    if terms:
        parts.append("<h2>Memory: planned and measured</h2>")
        parts.append(
            f"<figure>{plots.memory(terms, facts['memory'].get('peak_rss_bytes', 0))}</figure>"
        )
    parts.append(
        "<h2>How to repeat it</h2><pre>"
        + esc(f"onecard runs rerun {facts['id']}\n{facts['repeat']}")
        + "</pre>"
    )
    items = list(run.items().values())
    if items:
        parts.append(f"<h2>Items ({len(items)})</h2>")
        parts += [
            f"<details><summary>{esc(str(i['id']))}: "
            f"{esc(_brief(i.get('scores', {})))}</summary><pre>{esc(json.dumps(i, indent=1, ensure_ascii=False))}</pre></details>"
            for i in items[:500]
        ]
    parts.append(
        "<h2>Settings and environment</h2><pre>"
        + esc(
            json.dumps(
                {"settings": facts["settings"], "env": facts["env"], "data": facts["data"]},
                indent=1,
                ensure_ascii=False,
            )
        )
        + "</pre>"
    )
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport "
        f"content='width=device-width'><title>{esc(facts['id'])}</title>"
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _brief(scores: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.2f}" for name, value in scores.items() if isinstance(value, int | float)
    )[:160]


def _html_table(rows: list[list[str]], head: list[str]) -> str:
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if i else ''}>{html.escape(c)}</td>" for i, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return (
        "<table><tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + f"</tr>{body}</table>"
    )
