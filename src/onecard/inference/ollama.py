"""Ollama's own API: what it holds, and pulling a model into it. Knows nothing of prompts."""

import json
from typing import Any

import httpx

from onecard.errors import EngineError, not_found
from onecard.reporting import Reporter
from onecard.units import size


def models(url: str) -> list[dict[str, Any]]:
    """Name, size and details of every model that the server holds.

    Raises EngineError when it is not running.
    """
    try:
        rows = httpx.get(f"{url}/api/tags", timeout=5).raise_for_status().json()["models"]
        return [
            {
                "name": str(row["name"]),
                "bytes": int(row.get("size", 0)),
                "details": row.get("details", {}),
            }
            for row in rows
        ]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as fault:
        raise EngineError(
            f"Ollama does not answer at {url}",
            why=str(fault)[:200],
            fix="start it with: ollama serve (or set OLLAMA_HOST)",
        ) from None


def need(url: str, name: str, reporter: Reporter) -> None:
    """Make sure the server holds a model: pull it when it does not.

    Raises EngineError, NotFound.
    """
    held = [row["name"] for row in models(url)]
    if name in held or f"{name}:latest" in held:
        return
    reporter.line(f"Ollama pulls {name}")
    try:
        with httpx.stream(
            "POST", f"{url}/api/pull", json={"model": name}, timeout=httpx.Timeout(None, connect=5)
        ) as events:
            events.raise_for_status()
            _follow(events, name, held, reporter)
    except httpx.HTTPError as fault:
        raise EngineError(
            f"Ollama did not pull {name}", why=str(fault)[:200], fix=f"ollama pull {name}"
        ) from None


def _follow(events: httpx.Response, name: str, held: list[str], reporter: Reporter) -> None:
    told = ""
    for line in events.iter_lines():
        row = json.loads(line) if line.strip() else {}
        if "error" in row:
            fault = not_found("model in Ollama", name, held)
            fault.why = str(row["error"])[:300]
            raise fault
        status = str(row.get("status", ""))
        if status != told:
            told = status
            reporter.line(f"  {status}" + (f" {size(row['total'])}" if "total" in row else ""))
