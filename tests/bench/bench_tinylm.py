"""The tiny language model beside nanoGPT's published CPU setting and beside a plain loop; all in
one run, in turn.

    python tests/bench/bench_tinylm.py loss [--rounds 2]
        held-out loss at equal weights, block, batch and steps, and in equal wall time
    python tests/bench/bench_tinylm.py speed [--rounds 5]
        training tokens/s of our trainer and of a plain eager loop of the same model
    python tests/bench/bench_tinylm.py cache
        tokens/s of generation at length 512, with and without KV cache
    python tests/bench/bench_tinylm.py large
        100 million characters: peak resident memory of reading, tokenizing and training

The peer is written here after nanoGPT's README and config: 4 layers, 4 heads, width 128, block 64,
batch 12, 2000 steps, LayerNorm without bias, GELU, learned positions, one matrix for q, k and v,
tied embeddings, AdamW (0.9, 0.99) with decay 0.1, 1e-3 falling to 1e-4 by a cosine after 100 steps,
gradients clipped to 1, no dropout, eager fp32. Published: about 1.88 on 20 random batches; measured
here over the whole held-out text.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from onecard.reporting import Reporter
from onecard.tasks.tinylm import corpus, metrics, model, sizing, trainer
from onecard.tasks.tinylm.autotune import Autotuner
from onecard.tasks.tinylm.configs import TrainConfig

ROOT = Path(__file__).parents[2]
TEXT = ROOT.parent / "shared" / "data" / "tinyshakespeare" / "input.txt"
OUT = ROOT / "bench-results" / "tinylm.json"
CPU_SETTING = {
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "block_size": 64,
    "per_device_train_batch_size": 12,
    "max_steps": 2000,
}


class PeerBlock(nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.H, self.ln1, self.ln2 = H, nn.LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)
        self.qkv, self.out, self.up, self.down = (
            nn.Linear(a, b, bias=False) for a, b in ((D, 3 * D), (D, D), (D, 4 * D), (4 * D, D))
        )

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = (
            part.view(B, T, self.H, D // self.H).transpose(1, 2)
            for part in self.qkv(self.ln1(x)).split(D, dim=2)
        )
        x = x + self.out(
            F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D)
        )
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class Peer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.model_config = s
        self.embedding, self.places = (
            nn.Embedding(s.vocab_size, s.n_embd),
            nn.Embedding(s.block_size, s.n_embd),
        )
        self.blocks, self.norm = (
            nn.ModuleList(PeerBlock(s.n_embd, s.n_head) for _ in range(s.n_layer)),
            nn.LayerNorm(s.n_embd, bias=False),
        )
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(
                    weight,
                    std=0.02 / math.sqrt(2 * s.n_layer)
                    if name.endswith(("out.weight", "down.weight"))
                    else 0.02,
                )

    def forward(self, ids):
        x = self.embedding(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def data(**more):
    settings = TrainConfig(dataset=str(TEXT), **(CPU_SETTING | more))
    text = corpus.prepare(settings, Reporter())
    setup = sizing.derive(settings, text.tokenizer.get_vocab_size(), len(text.train))
    return settings, text, setup


def peer(seed):
    """(loss over the whole held-out text, seconds, weights)."""
    s, c, m = data(seed=seed)
    torch.manual_seed(seed)
    net = Peer(m.model_config)
    groups = [
        {"params": [w for w in net.parameters() if w.ndim == 2], "weight_decay": 0.1},
        {"params": [w for w in net.parameters() if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    started = time.perf_counter()
    for step in range(2000):
        rate = (
            1e-3 * (step + 1) / 101
            if step < 100
            else 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / 1900)) * 9e-4
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, targets = next(trainer.micro_batches(c, s.seed, m, step, torch.device("cpu")))
        model.loss_of(net, ids, targets).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    spent = time.perf_counter() - started
    return (
        float(metrics.block_losses(net.eval(), c.val, 64, Reporter()).mean()),
        spent,
        sum(w.numel() for w in net.parameters()),
    )


def ours(seed, seconds=0.0, **more):
    """The same for our trainer; with `seconds` as many steps as fit into them, by the pace
    of its first thirty."""
    s, c, m = data(seed=seed, **more)
    torch.manual_seed(seed)
    net = model.TinyLM(m.model_config)
    if seconds:
        trial = trainer.Trainer(net, c, s, m, trainer.RuntimeOptions(steps=2000))
        for step in range(30):
            if step == 10:
                started = time.perf_counter()
            trial.step()
        m = sizing.derive(
            s.model_copy(
                update={"max_steps": int(seconds / ((time.perf_counter() - started) / 20))}
            ),
            m.model_config.vocab_size,
            len(c.train),
        )
        torch.manual_seed(seed)
        net = model.TinyLM(m.model_config)
    t = trainer.Trainer(net, c, s, m, trainer.RuntimeOptions(steps=m.steps))
    started = time.perf_counter()
    while t.state.step < m.steps:
        t.step()
    spent = time.perf_counter() - started
    return (
        float(metrics.block_losses(net.eval(), c.val, 64, Reporter()).mean()),
        spent,
        net.n_params,
        m.steps,
    )


def loss(args):
    rows = []
    for seed in range(args.rounds):
        theirs = peer(seed)
        mine = ours(seed)
        timed = ours(seed, seconds=theirs[1])
        rows.append({"seed": seed, "peer": theirs, "ours": mine, "ours_in_peer_time": timed})
        print(
            f"seed {seed}: nanoGPT's setting {theirs[0]:.4f} in {theirs[1]:.0f} s ({theirs[2]:,}); "
            f"ours {mine[0]:.4f} in {mine[1]:.0f} s ({mine[2]:,}); in the peer's time "
            f"{timed[0]:.4f} ({timed[3]} steps, {timed[1]:.0f} s)",
            flush=True,
        )
    middle = {
        who: statistics.median(row[who][0] for row in rows)
        for who in ("peer", "ours", "ours_in_peer_time")
    }
    print(
        f"medians: {middle}; lower by {middle['peer'] - middle['ours']:.3f} at equal steps, by "
        f"{middle['peer'] - middle['ours_in_peer_time']:.3f} in equal time"
    )
    return {"rows": rows, "medians": middle}


def speed(args):
    """One model, one optimizer (Muon and AdamW), one batch: torch's own optimizers in a plain loop
    against our trainer with what it chose."""
    rows = {}
    for name, more in (
        ("0.8 M, 12 x 64", {}),
        (
            "2.7 M, 32 x 256",
            {
                "n_layer": 6,
                "n_head": 6,
                "n_embd": 192,
                "block_size": 256,
                "per_device_train_batch_size": 32,
                "max_steps": 4000,
            },
        ),
    ):
        s, c, m = data(**more)
        torch.manual_seed(0)
        net, plain = model.TinyLM(m.model_config), model.TinyLM(m.model_config)
        chosen = Autotuner(net, c, s, m, next_bar()).run()
        print(name, "; ".join(chosen.why), flush=True)
        t = trainer.Trainer(net, c, s, m, chosen)
        matrices = [w for n, w in plain.named_parameters() if w.ndim == 2 and "embedding" not in n]
        others = [w for n, w in plain.named_parameters() if w.ndim < 2 or "embedding" in n]
        muon, adam = (
            torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1),
            torch.optim.AdamW(others, lr=4e-3),
        )

        def eager(step, plain=plain, muon=muon, adam=adam, s=s, c=c, m=m):
            ids, targets = next(trainer.micro_batches(c, s.seed, m, step, torch.device("cpu")))
            model.loss_of(plain, ids, targets).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            muon.step()
            adam.step()
            muon.zero_grad()
            adam.zero_grad()

        n = 60 if not more else 8
        rates = {"ours": [], "plain": []}
        for turn in range(args.rounds + 1):
            for who, work in (("plain", eager), ("ours", lambda step, t=t: t.step())):
                torch.set_num_threads(chosen.threads if who == "ours" else os.cpu_count())
                started = time.perf_counter()
                for step in range(n):
                    work(step)
                if turn:  # the first one warms up
                    rates[who].append(n * m.tokens_per_step / (time.perf_counter() - started))
        middle = {who: statistics.median(values) for who, values in rates.items()}
        rows[name] = {
            "tokens_per_s": middle,
            "ratio": middle["ours"] / middle["plain"],
            "choice": chosen.why,
            "all": rates,
        }
        print(
            f"{name}: ours {middle['ours']:,.0f}, plain {middle['plain']:,.0f} tokens/s: "
            f"{middle['ours'] / middle['plain']:.2f}x",
            flush=True,
        )
    return rows


def next_bar():
    with Reporter().progress("", 0) as bar:
        return bar


def cache(args):
    rows = {}
    for name, more in (
        ("0.8 M", {}),
        ("2.7 M", {"n_layer": 6, "n_head": 6, "n_embd": 192}),
        ("10 M", {"n_layer": 6, "n_head": 6, "n_embd": 384}),
    ):
        _s, _c, m = data(**(more | {"block_size": 512}))
        net = model.TinyLM(m.model_config).eval()
        rows[name] = metrics.throughput(net, repeats=5)
        print(name)
        print(metrics.render_throughput(rows[name]), flush=True)
    return rows


def large(args):
    """In a process of its own: what its peak grows by beyond a training on a small text."""
    code = """
import resource, sys, time
from pathlib import Path
from onecard.cli.app import main
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
words = ["--size", "1m", "--max_steps", "20", "--compile", "off", "--sample_tokens", "0"]
words += ["--quants", "none", "--val_share"]
main(["tinylm", "train", sys.argv[1], *words, "0.1"])
before = peak()
started = time.time()
main(["tinylm", "train", sys.argv[2], *words, "0.001"])
print("RESULT", before, peak(), round(time.time() - started))
"""
    with tempfile.TemporaryDirectory() as temp:
        text = TEXT.read_text()
        big = Path(temp) / "big.txt"
        with big.open("w") as file:
            for i in range(90):
                file.write(text + f"\nVolume {i}\n")
        chars = big.stat().st_size
        process = subprocess.run(
            [sys.executable, "-c", code, str(TEXT), str(big)],
            capture_output=True,
            text=True,
            env={**os.environ, "ONECARD_HOME": temp, "ONECARD_RUNS": temp + "/runs"},
        )
        before, after, spent = map(int, process.stdout.rpartition("RESULT")[2].split())
    print(
        f"{chars:,} characters: peak resident memory {after} MiB, of a training on 1.1 million "
        f"{before} MiB; {spent} s with 20 steps and the score"
    )
    return {
        "chars": chars,
        "peak_mib": after,
        "peak_small_mib": before,
        "seconds": spent,
        "self_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["loss", "speed", "cache", "large"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    benches = {"loss": loss, "speed": speed, "cache": cache, "large": large}
    results[args.what] = benches[args.what](args)
    OUT.write_text(json.dumps(results, indent=1))
