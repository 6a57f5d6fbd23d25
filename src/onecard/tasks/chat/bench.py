"""`onecard chat bench`: tokens/s, time to first token and memory of a language model."""

import json
import statistics
import time
from typing import Any

import httpx

from onecard.errors import EngineError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result, table
from onecard.runs.record import Run, peak_rss_bytes
from onecard.tasks.chat.configs import BenchConfig
from onecard.units import size

LABELS = {
    "prompt_tokens_per_s": "prompt (tokens/s)",
    "generate_tokens_per_s": "generation (tokens/s)",
    "first_token_s": "time to first token (s)",
}
"""Metric -> its row in the table."""


def bench(config: BenchConfig, run: Run) -> Result:
    """Medians over `repeats` requests, after one that warms the caches."""
    rows: list[dict[str, float]] = []
    with (
        language_model(config, run.plan, run.reporter) as client,
        run.reporter.progress("bench", config.repeats + 1) as bar,
    ):
        for i in range(config.repeats + 1):
            row = measure(client, config, i)
            bar.step()
            if i:
                rows.append(row)
        peak = peak_bytes(client)
    metrics: dict[str, dict[str, Any]] = {}
    for name in LABELS:
        values = sorted(row[name] for row in rows)
        metrics[name] = {
            "value": statistics.median(values),
            "low": values[0],
            "high": values[-1],
            "n": len(values),
        }
    metrics["peak_bytes"] = {"value": peak, "n": 1}
    run.scores(metrics)
    run.items([{"id": str(i), "scores": row} for i, row in enumerate(rows)])
    cells = [
        [
            label,
            f"{metrics[name]['value']:.2f}",
            f"{metrics[name]['low']:.2f} – {metrics[name]['high']:.2f}",
        ]
        for name, label in LABELS.items()
    ]
    memory = "memory: unknown, the model runs in a server elsewhere"
    if peak:
        memory = (
            f"memory: planned {size(run.plan.total_bytes)}, measured {size(peak)} resident, "
            "the program itself included"
        )
    return Result({"metrics": metrics}, f"{table(cells, ['what', 'median', 'range'])}\n{memory}")


def measure(client: Client, config: BenchConfig, salt: int) -> dict[str, float]:
    """One request of `prompt_tokens` that no cache holds, and `generate_tokens` of answer.

    Raises EngineError.
    """
    # each prompt starts differently, else the engine would take it from its cache
    prompt = f"{salt} " + " ".join(
        f"word{(i * 7919 + salt) % 997}" for i in range(config.prompt_tokens // 3)
    )
    body = {
        "model": client.model,
        "prompt": prompt,
        "max_tokens": config.generate_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {client.api_key}"} if client.api_key else {}
    start = time.perf_counter()
    first = last = 0.0
    usage: dict[str, Any] = {}
    try:
        with httpx.stream(
            "POST", f"{client.base_url}/completions", json=body, headers=headers, timeout=600
        ) as events:
            if events.status_code != 200:
                raise EngineError(
                    "the engine refused the measurement",
                    why=events.read().decode(errors="replace")[:300],
                    fix="a smaller --prompt_tokens or a larger --n_ctx",
                )
            for line in events.iter_lines():
                if not line.startswith("data: {"):
                    continue
                row = json.loads(line[6:])
                usage = row.get("usage") or usage
                if row.get("choices"):
                    last = time.perf_counter()
                    first = first or last
    except httpx.HTTPError as fault:
        raise EngineError(
            "the engine did not answer", why=str(fault), fix="onecard doctor"
        ) from None
    n_tokens = usage.get("completion_tokens", 0)
    if n_tokens < 2 or last <= first:
        raise EngineError(
            "the answer is too short to measure",
            why=f"it has {n_tokens} tokens",
            fix="a larger --generate_tokens",
        )
    return {
        "prompt_tokens_per_s": usage["prompt_tokens"] / (first - start),
        "generate_tokens_per_s": (n_tokens - 1) / (last - first),
        "first_token_s": first - start,
    }


def peak_bytes(client: Client) -> int:
    """Peak resident memory of the engine's process; 0 for a server elsewhere."""
    return peak_rss_bytes(client.engine.pid) if client.engine else 0
