"""Ollama's own API: the models it has, and pulling a model into it."""

import json
from typing import Any

import httpx

from onecard.errors import EngineError, not_found
from onecard.reporting import Reporter
from onecard.units import size


def models(url: str) -> list[dict[str, Any]]:
    """Name, size and details of each model of the server.

    Raises EngineError when it does not run.
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


def ensure_model(url: str, name: str, reporter: Reporter) -> None:
    """Pull a model into the server unless it is there.

    Raises EngineError, NotFound.
    """
    present = [row["name"] for row in models(url)]
    if name in present or f"{name}:latest" in present:
        return
    reporter.line(f"Ollama pulls {name}")
    try:
        with httpx.stream(
            "POST", f"{url}/api/pull", json={"model": name}, timeout=httpx.Timeout(None, connect=5)
        ) as events:
            events.raise_for_status()
            _follow(events, name, present, reporter)
    except httpx.HTTPError as fault:
        raise EngineError(
            f"Ollama did not pull {name}", why=str(fault)[:200], fix=f"ollama pull {name}"
        ) from None


def _follow(events: httpx.Response, name: str, present: list[str], reporter: Reporter) -> None:
    """Report each new status of a pull. Raises NotFound."""
    last_status = ""
    for line in events.iter_lines():
        row = json.loads(line) if line.strip() else {}
        if "error" in row:
            fault = not_found("model in Ollama", name, present)
            fault.why = str(row["error"])[:300]
            raise fault
        status = str(row.get("status", ""))
        if status != last_status:
            last_status = status
            reporter.line(f"  {status}" + (f" {size(row['total'])}" if "total" in row else ""))
