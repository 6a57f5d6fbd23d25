"""Cost of `onecard chat serve` in front of the engine: tokens/s through it and directly, in turn.

python tests/bench/bench_serve.py [--rounds 5] [--tokens 256]     about 1 minute
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from onecard import api
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Reporter, TerminalReporter, table
from onecard.serving.app import listen
from onecard.tasks.chat.bench import measure, peak_bytes
from onecard.tasks.chat.configs import BenchConfig, ServeConfig
from onecard.tasks.chat.serve import application
from onecard.units import size

ROOT = Path(__file__).parents[2]


class StdoutReporter(Reporter):
    def line(self, text=""):
        print(text, flush=True)


class BothConfig(BenchConfig, ServeConfig):
    """What is measured, and what serves it."""


def serve_in_child(url, key, model, settings):
    """The server in a process of its own, as a user has it, in front of the shared engine."""
    client = Client(url, key, model, settings)
    with listen(settings) as server:
        server.run(application(client, settings), server.url, StdoutReporter())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--front", nargs=3)
    args = parser.parse_args()
    settings = BothConfig(n_ctx=2048, prompt_tokens=64, generate_tokens=args.tokens, port=0)
    if args.front:
        serve_in_child(*args.front, settings)
        return
    with language_model(
        settings, api.plan("chat", settings, card="cpu"), TerminalReporter()
    ) as direct:
        child = subprocess.Popen(
            [sys.executable, __file__, "--front", direct.base_url, direct.api_key, direct.model],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Timer(900, child.kill).start()
        front = Client(f"{child.stdout.readline().strip()}/v1", "", direct.model, settings)
        rates = {"direct": [], "through serve": []}
        for i in range(args.rounds + 1):
            for name, client in (
                (("direct", direct), ("through serve", front))
                if i % 2
                else (("through serve", front), ("direct", direct))
            ):
                row = measure(client, settings, i * 2 + (name == "direct"))
                if i:
                    rates[name].append(row["generate_tokens_per_s"])
                time.sleep(0.2)
        child.kill()
        memory = peak_bytes(direct)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    loss = 1 - medians["through serve"] / medians["direct"]
    print(
        table(
            [
                [name, f"{medians[name]:.1f}", " ".join(f"{v:.1f}" for v in rates[name])]
                for name in rates
            ],
            ["way", "median tokens/s", "rounds"],
        )
    )
    print(f"loss {loss:.1%}; engine peak {size(memory)}")
    (ROOT / "bench-results").mkdir(exist_ok=True)
    (ROOT / "bench-results" / "serve.json").write_text(
        json.dumps(
            {"medians": medians, "rounds": rates, "loss": loss, "engine_peak_bytes": memory},
            indent=1,
        )
        + "\n"
    )
    os._exit(0)


if __name__ == "__main__":
    main()
