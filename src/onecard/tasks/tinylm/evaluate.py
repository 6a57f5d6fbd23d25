"""What a tiny language model is worth: loss, perplexity and bits a character over the whole
held-out text, its pace, and how far beyond its training length it reads. Knows no training."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from onecard.evaluation import stats
from onecard.reporting import Reporter, Result, table
from onecard.runs import plots
from onecard.runs.record import Run, read_json
from onecard.tasks.tinylm import corpus as texts
from onecard.tasks.tinylm import export
from onecard.tasks.tinylm import tokenizers as ours
from onecard.tasks.tinylm.configs import Settings
from onecard.tasks.tinylm.corpus import Corpus
from onecard.tasks.tinylm.model import Cache, TinyLM
from onecard.units import size

PACE_LENGTH = 512
"""Length of a text whose writing is timed, where the model looks back so far."""


def block_losses(
    net: TinyLM, row: np.ndarray, block: int, reporter: Reporter, what: str = "held-out text"
) -> np.ndarray:
    """(n, block) nats of each token: blocks side by side over the whole row, none twice, each read
    from its own start (as nanoGPT's batches are)."""
    where = next(net.parameters()).device
    n = (len(row) - 1) // block
    at_once = net.shape.blocks_at_once(block)
    out = np.empty((n, block), dtype=np.float32)
    with torch.inference_mode(), reporter.progress(what, n) as bar:
        for start in range(0, n, at_once):
            stop = min(n, start + at_once)
            held = torch.from_numpy(
                np.stack([row[i * block : (i + 1) * block + 1] for i in range(start, stop)]).astype(
                    np.int64
                )
            ).to(where)
            logits = net(held[:, :-1])
            for i in range(stop - start):
                out[start + i] = (
                    torch.nn.functional.cross_entropy(
                        logits[i].float(), held[i, 1:], reduction="none"
                    )
                    .cpu()
                    .numpy()
                )
            del logits  # else it lies beside the next one
            bar.step(stop - start)
    return out


def scores(losses: np.ndarray, row: np.ndarray, tokenizer: Any) -> dict[str, stats.Interval]:
    """Loss (nats a token), perplexity and bits a character, with intervals over blocks."""
    n, block = losses.shape
    sums = losses.sum(1, dtype=np.float64)
    loss = stats.ratio_interval(sums.tolist(), np.full(n, block))
    counts = (
        ours.char_counts(tokenizer)[row[1 : n * block + 1].astype(np.int64)]
        .reshape(n, block)
        .sum(1)
    )
    bits = stats.ratio_interval((sums / math.log(2)).tolist(), counts)
    perplexity = stats.Interval(
        math.exp(loss.value), math.exp(loss.low), math.exp(loss.high), loss.n
    )
    return {"val_loss": loss, "perplexity": perplexity, "bits_per_char": bits}


def held_out(
    net: TinyLM, corpus: Corpus, reporter: Reporter
) -> tuple[dict[str, stats.Interval], np.ndarray]:
    losses = block_losses(net, corpus.val, net.shape.block_size, reporter)
    return scores(losses, corpus.val, corpus.tokenizer), losses


def extrapolation(
    net: TinyLM, corpus: Corpus, reporter: Reporter, known: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Loss over windows of 1 (`known`, where it was measured before), 2 and 4 training lengths, and
    of their last quarter alone, where the model has read farthest (Press et al. 2022 measure the
    same). Learned positions end at 1."""
    rows: list[dict[str, Any]] = []
    for times in (1, 2, 4):
        length = times * net.shape.block_size
        if times > 1 and net.shape.position == "learned":
            rows.append(
                {
                    "times": times,
                    "tokens": length,
                    "loss": None,
                    "last_quarter": None,
                    "why": "learned positions end",
                }
            )
        elif len(corpus.val) <= length:
            rows.append(
                {
                    "times": times,
                    "tokens": length,
                    "loss": None,
                    "last_quarter": None,
                    "why": "the held-out text is shorter",
                }
            )
        else:
            losses = (
                known
                if times == 1 and known is not None
                else block_losses(net, corpus.val, length, reporter, f"windows of {length} tokens")
            )
            rows.append(
                {
                    "times": times,
                    "tokens": length,
                    "loss": stats.mean_interval(losses.mean(1).tolist()).as_dict(),
                    "last_quarter": stats.mean_interval(
                        losses[:, -length // 4 :].mean(1).tolist()
                    ).as_dict(),
                }
            )
    return rows


def pace(
    net: TinyLM, batches: Sequence[int] = (1, 8, 32), repeats: int = 3
) -> list[dict[str, Any]]:
    """Tokens/s of writing at a full window, medians: without cache each token reads the whole
    window anew, with it only itself."""
    length = min(PACE_LENGTH, net.shape.block_size)
    where = next(net.parameters()).device
    rows = []
    for batch in batches:
        ids = torch.randint(
            0,
            net.shape.vocab_size,
            (batch, length),
            device=where,
            generator=torch.Generator(device=where).manual_seed(0),
        )
        plain, cached = [], []
        for _ in range(repeats):
            plain.append(
                batch * _rate(lambda ids=ids: net(ids)[:, -1].argmax(-1), 3, where, warm=True)
            )
            cache = Cache(net.shape, batch, length, where)
            n_new = min(16, length - 1)
            with torch.inference_mode():
                net(ids[:, : length - n_new], cache)

            def step(ids: torch.Tensor = ids, cache: Cache = cache) -> None:
                net(ids[:, -1:], cache)[:, -1].argmax(-1)

            cached.append(batch * _rate(step, n_new, where, warm=False))
        rows.append(
            {
                "batch": batch,
                "length": length,
                "plain_tokens_per_s": float(np.median(plain)),
                "cached_tokens_per_s": float(np.median(cached)),
                "cache_bytes": Cache(net.shape, batch, length).k_LBGSK.nbytes * 2,
            }
        )
    return rows


def _rate(work: Any, n: int, where: torch.device, *, warm: bool) -> float:
    """Calls a second."""
    with torch.inference_mode():
        if warm:
            work()
        started = time.perf_counter()
        for _ in range(n):
            work()
        if where.type == "cuda":
            torch.cuda.synchronize()
        return n / (time.perf_counter() - started)


def evaluate(settings: Settings, run: Run) -> Result:
    """All measures of a trained model, over the text it was trained with or another one.

    Raises NotFound, DataError.
    """
    net, tokenizer, folder, config = export.opened(settings.run_id)
    told = config.get("data", {})
    asked = (
        settings
        if settings.dataset
        else settings.model_copy(
            update={
                key: told[key] for key in ("dataset", "split", "val_share", "seed") if key in told
            }
        )
    )
    corpus = texts.prepare(asked, run.reporter, tokenizer)
    texts.need_blocks(corpus, net.shape.block_size)
    run.data("questions", rows=len(corpus.val), sha256=corpus.facts["sha256"])
    found, losses = held_out(net, corpus, run.reporter)
    run.items(
        [
            {"id": f"block {i}", "scores": {"loss": float(value)}}
            for i, value in enumerate(losses.mean(1))
        ]
    )
    far = extrapolation(net, corpus, run.reporter, losses)
    run.reporter.line("measuring the pace")
    paces = pace(net)
    memory = read_json(folder.parents[1] / "memory.json")
    metrics = {name: interval.as_dict() for name, interval in found.items()} | {
        f"loss_at_{row['times']}x": row["loss"] for row in far if row["loss"]
    }
    run.scores(metrics)
    run.artifact(
        "extrapolation.svg",
        plots.lines(
            {
                net.shape.position: [
                    (row["tokens"], row["loss"]["value"]) for row in far if row["loss"]
                ]
            },
            "tokens of a window",
            "loss (nats a token)",
        ),
    )
    data = {
        "metrics": metrics,
        "extrapolation": far,
        "pace": paces,
        "memory": memory,
        "val_tokens": len(corpus.val),
    }
    return Result(
        data,
        "\n\n".join(
            [words(found, len(corpus.val)), far_words(far), pace_words(paces), memory_words(memory)]
        ).strip(),
    )


def words(found: dict[str, stats.Interval], n_tokens: int) -> str:
    return (
        f"over {n_tokens:,} held-out tokens: loss {found['val_loss'].render(4)} nats a token, "
        f"perplexity {found['perplexity'].render(3)}, {found['bits_per_char'].render(4)} bits a "
        "character"
    )


def far_words(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            f"{row['times']}x",
            str(row["tokens"]),
            *(
                (stats.Interval(**row[key]).render(4) if row[key] else row["why"])
                for key in ("loss", "last_quarter")
            ),
        ]
        for row in rows
    ]
    return table(cells, ["length", "tokens", "loss", "of the last quarter"])


def pace_words(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            str(row["batch"]),
            f"{row['plain_tokens_per_s']:,.0f}",
            f"{row['cached_tokens_per_s']:,.0f}",
            f"{row['cached_tokens_per_s'] / row['plain_tokens_per_s']:.1f}x",
            size(row["cache_bytes"]),
        ]
        for row in rows
    ]
    return table(
        cells,
        ["batch", f"tokens/s at length {rows[0]['length']}", "with KV cache", "gain", "cache"],
    )


def memory_words(memory: dict[str, Any]) -> str:
    return (
        f"training: {size(memory['planned_bytes'])} planned, "
        f"{size(memory.get('device_bytes') or memory['peak_rss_bytes'])} measured"
        if memory.get("planned_bytes")
        else ""
    )
