"""Ask one question, and measure how fast answers come. Knows nothing of terminals or servers."""

import json
import statistics
import sys
import time
from typing import Any

import httpx

from onecard.errors import EngineError, SettingsError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result, table
from onecard.runs.record import Run, peak_rss_bytes
from onecard.tasks.chat.configs import Settings
from onecard.units import size


def ask(settings: Settings, run: Run) -> Result:
    """Stream the answer to one question; text piped in stands before it as context.

    Raises SettingsError for no question.
    """
    piped = sys.stdin.read() if not sys.stdin.isatty() else ""
    question = settings.question or piped
    if not question.strip():
        raise SettingsError(
            "there is no question",
            why="no word was given and nothing was piped in",
            fix='onecard chat ask "What is a KV cache?"',
        )
    if settings.question and piped.strip():
        question = f"Context:\n{piped.strip()}\n\nQuestion: {question}"
    messages = [
        {"role": "system", "content": settings.system},
        {"role": "user", "content": question},
    ]
    started, pieces = time.monotonic(), []
    with language_model(settings, run.plan, run.reporter) as client:
        for piece in client.stream(messages):
            pieces.append(piece)
            run.reporter.stream(piece)
    run.reporter.stream("\n")
    return Result(
        {
            "question": question,
            "answer": "".join(pieces),
            "model": settings.model,
            "seconds": round(time.monotonic() - started, 3),
        }
    )


def bench(settings: Settings, run: Run) -> Result:
    """Prompt and generation tokens/s, time to first token and peak memory; medians over `repeats`."""
    rows: list[dict[str, float]] = []
    with (
        language_model(settings, run.plan, run.reporter) as client,
        run.reporter.progress("bench", settings.repeats + 1) as bar,
    ):
        for i in range(settings.repeats + 1):  # the first one warms the caches and is not counted
            row = measure(client, settings, i)
            bar.step()
            if i:
                rows.append(row)
                run.log(i, **row)
        peak = peak_bytes(client)
    names = {
        "prompt_tokens_per_s": "prompt (tokens/s)",
        "generate_tokens_per_s": "generation (tokens/s)",
        "first_token_s": "time to first token (s)",
    }
    metrics: dict[str, dict[str, Any]] = {}
    for name in names:
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
            said,
            f"{metrics[name]['value']:.2f}",
            f"{metrics[name]['low']:.2f} – {metrics[name]['high']:.2f}",
        ]
        for name, said in names.items()
    ]
    planned = run.plan.total_bytes
    memory = (
        f"memory: planned {size(planned)}, measured {size(peak)} resident with the program itself"
        if peak
        else "memory: the server's own"
    )
    return Result({"metrics": metrics}, f"{table(cells, ['what', 'median', 'range'])}\n{memory}")


def measure(client: Client, settings: Settings, salt: int) -> dict[str, float]:
    """One prompt of `prompt_tokens` with nothing cached, one answer of `generate_tokens`.

    Raises EngineError.
    """
    # a prompt that starts differently each time, else the engine takes it from its cache
    prompt = f"{salt} " + " ".join(
        f"word{(i * 7919 + salt) % 997}" for i in range(settings.prompt_tokens // 3)
    )
    body = {
        "model": client.model,
        "prompt": prompt,
        "max_tokens": settings.generate_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {client.api_key}"} if client.api_key else {}
    started = time.perf_counter()
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
    made = usage.get("completion_tokens", 0)
    if made < 2 or last <= first:
        raise EngineError(
            "the engine answered with no tokens to measure",
            why=f"{made} tokens came",
            fix="a larger --generate_tokens",
        )
    return {
        "prompt_tokens_per_s": usage["prompt_tokens"] / (first - started),
        "generate_tokens_per_s": (made - 1) / (last - first),
        "first_token_s": first - started,
    }


def peak_bytes(client: Client) -> int:
    """Peak resident memory of the engine's process on this machine; 0 for a server elsewhere."""
    owner = getattr(client._why_dead, "__self__", None)
    return peak_rss_bytes(owner.pid) if owner else 0
