"""Measures of a tiny language model: loss, perplexity and bits a character over the whole held-out
text, loss beyond the training length, and the throughput of generation. Knows no training."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from onecard.evaluation import stats
from onecard.reporting import Reporter, table
from onecard.tasks.tinylm import leakage, tokenization
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import Cache, TinyLM
from onecard.units import size

THROUGHPUT_LENGTH = 512
"""Tokens of context at which generation is timed, where the model attends that far."""
CACHED_STEPS = 16
PLAIN_STEPS = 3

Metrics = dict[str, stats.Interval]


# Held-out loss


def block_losses(
    net: TinyLM, tokens: np.ndarray, block: int, reporter: Reporter, label: str = "held-out text"
) -> np.ndarray:
    """(n, block): nats of each token, in adjoining blocks over all of `tokens`. Each block is read
    from its own start, as nanoGPT's batches are."""
    device = next(net.parameters()).device
    n = (len(tokens) - 1) // block
    at_once = net.model_config.blocks_at_once(block)
    losses = np.empty((n, block), dtype=np.float32)
    with torch.inference_mode(), reporter.progress(label, n) as bar:
        for start in range(0, n, at_once):
            stop = min(n, start + at_once)
            windows = [tokens[i * block : (i + 1) * block + 1] for i in range(start, stop)]
            ids = torch.from_numpy(np.stack(windows).astype(np.int64)).to(device)
            logits = net(ids[:, :-1])
            for i in range(stop - start):  # one by one: a copy of all logits in fp32 need not fit
                nats = torch.nn.functional.cross_entropy(
                    logits[i].float(), ids[i, 1:], reduction="none"
                )
                losses[start + i] = nats.cpu().numpy()
            del logits  # else they would coexist with the next ones
            bar.step(stop - start)
    return losses


def summarize(losses: np.ndarray, tokens: np.ndarray, tokenizer: Any) -> Metrics:
    """Loss (nats a token), perplexity and bits a character, with intervals over blocks."""
    n, block = losses.shape
    sums = losses.sum(1, dtype=np.float64)
    positive = (0.0, math.inf)
    loss = stats.ratio_interval(sums.tolist(), np.full(n, block), bounds=positive)
    scored = tokens[1 : n * block + 1].astype(np.int64)
    n_chars = tokenization.chars_per_token(tokenizer)[scored].reshape(n, block).sum(1)
    perplexity = stats.Interval(
        math.exp(loss.value), math.exp(loss.low), math.exp(loss.high), loss.n
    )
    return {
        "val_loss": loss,
        "perplexity": perplexity,
        "bits_per_char": stats.ratio_interval(
            (sums / math.log(2)).tolist(), n_chars, bounds=positive
        ),
    }


def held_out(net: TinyLM, corpus: Corpus, reporter: Reporter) -> tuple[Metrics, np.ndarray]:
    """The metrics over all of the held-out text, and block_losses behind them."""
    losses = block_losses(net, corpus.val, net.model_config.block_size, reporter)
    return summarize(losses, corpus.val, corpus.tokenizer), losses


def item_rows(losses: np.ndarray) -> list[dict[str, Any]]:
    """One row a block for the run's record."""
    return [
        {"id": f"block {i}", "scores": {"loss": float(loss)}}
        for i, loss in enumerate(losses.mean(1))
    ]


def length_extrapolation(
    net: TinyLM, corpus: Corpus, reporter: Reporter, base_losses: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Loss over windows of 1, 2 and 4 training lengths, and over their last quarter alone, where
    the model attends farthest (as Press et al. 2022 measure it).

    `base_losses`: those of the first row, where they were computed before. A row without a loss
    says why.
    """
    rows: list[dict[str, Any]] = []
    for times in (1, 2, 4):
        length = times * net.model_config.block_size
        row: dict[str, Any] = {"times": times, "tokens": length, "loss": None, "last_quarter": None}
        rows.append(row)
        if times > 1 and net.model_config.position == "learned":
            row["why"] = "learned positions end"
        elif len(corpus.val) <= length:
            row["why"] = "the held-out text is shorter"
        else:
            losses = base_losses if times == 1 else None
            if losses is None:
                label = f"windows of {length} tokens"
                losses = block_losses(net, corpus.val, length, reporter, label)
            quarter = losses[:, -length // 4 :]
            row["loss"] = stats.metric_interval("loss", losses.mean(1).tolist()).as_dict()
            row["last_quarter"] = stats.metric_interval("loss", quarter.mean(1).tolist()).as_dict()
    return rows


# Throughput


def throughput(
    net: TinyLM, batch_sizes: Sequence[int] = (1, 8, 32), repeats: int = 3
) -> list[dict[str, Any]]:
    """Tokens/s of generation at a full window, medians. Without a cache each token reads the whole
    window again, with it only itself."""
    length = min(THROUGHPUT_LENGTH, net.model_config.block_size)
    rows = []
    for batch in batch_sizes:
        plain, cached = zip(
            *(_generation_rates(net, batch, length) for _ in range(repeats)), strict=True
        )
        rows.append(
            {
                "batch": batch,
                "length": length,
                "plain_tokens_per_s": float(np.median(plain)),
                "cached_tokens_per_s": float(np.median(cached)),
                "cache_bytes": 2 * Cache(net.model_config, batch, length).k_LBGSK.nbytes,
            }
        )
    return rows


def _generation_rates(net: TinyLM, batch: int, length: int) -> tuple[float, float]:
    """Tokens/s of a batch (without cache, with it)."""
    device = next(net.parameters()).device
    generator = torch.Generator(device=device).manual_seed(0)
    vocab_size = net.model_config.vocab_size
    ids = torch.randint(0, vocab_size, (batch, length), device=device, generator=generator)
    n_cached = min(CACHED_STEPS, length - 1)
    cache = Cache(net.model_config, batch, length, device)

    def plain_step() -> None:
        net(ids)[:, -1].argmax(-1)

    def cached_step() -> None:
        net(ids[:, -1:], cache)[:, -1].argmax(-1)

    with torch.inference_mode():
        plain_step()  # warms up
        plain = batch * _calls_per_s(plain_step, PLAIN_STEPS, device)
        net(ids[:, : length - n_cached], cache)
        cached = batch * _calls_per_s(cached_step, n_cached, device)
    return plain, cached


def _calls_per_s(call: Callable[[], None], n: int, device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(n):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return n / (time.perf_counter() - started)


# For the terminal


def render_split(corpus: Corpus, split: str) -> list[str]:
    """That the held-out text repeats the training part; nothing where it is new."""
    text = leakage.warning(corpus.facts["repeated_share"], split)
    return [text] if text else []


def render_held_out(metrics: Metrics, n_tokens: int) -> str:
    return (
        f"over {n_tokens:,} held-out tokens: loss {metrics['val_loss'].render(4)} nats a token, "
        f"perplexity {metrics['perplexity'].render(3)}, {metrics['bits_per_char'].render(4)} bits "
        "a character"
    )


def render_length_extrapolation(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        losses = [
            stats.Interval(**row[key]).render(4) if row[key] else row["why"]
            for key in ("loss", "last_quarter")
        ]
        cells.append([f"{row['times']}x", str(row["tokens"]), *losses])
    return table(cells, ["length", "tokens", "loss", "of the last quarter"])


def render_throughput(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        plain, cached = row["plain_tokens_per_s"], row["cached_tokens_per_s"]
        cells.append(
            [
                str(row["batch"]),
                f"{plain:,.0f}",
                f"{cached:,.0f}",
                f"{cached / plain:.1f}x",
                size(row["cache_bytes"]),
            ]
        )
    header = f"tokens/s at length {rows[0]['length']}"
    return table(cells, ["batch", header, "with KV cache", "gain", "cache"])


def render_memory(memory: dict[str, Any]) -> str:
    """memory.json of the training's run; nothing where there is none."""
    if not memory.get("planned_bytes"):
        return ""
    measured = memory.get("device_bytes") or memory["peak_rss_bytes"]
    return f"training: {size(memory['planned_bytes'])} planned, {size(measured)} measured"
