"""What `onecard chat serve` costs in front of the engine: tokens/s through it and directly, in
turn, one engine.

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

import uvicorn

from onecard import api
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import TerminalReporter, table
from onecard.serving import guards
from onecard.tasks.chat.ask import measure, peak_bytes
from onecard.tasks.chat.configs import BenchConfig
from onecard.tasks.chat.serve import application
from onecard.units import size

ROOT = Path(__file__).parents[2]


def serve_in_child(url, key, model, settings):
    """The front in a process of its own, as a user has it; the engine is shared."""
    client = Client(url, key, model, settings)
    listener = guards.bind("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    app = guards.Guard(application(client, settings), "127.0.0.1", "")
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(
        sockets=[listener]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--front", nargs=3)
    asked = parser.parse_args()
    settings = BenchConfig(n_ctx=2048, prompt_tokens=64, generate_tokens=asked.tokens)
    if asked.front:
        serve_in_child(*asked.front, settings)
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
        front = Client(
            f"http://127.0.0.1:{child.stdout.readline().strip()}/v1", "", direct.model, settings
        )
        rates = {"direct": [], "through serve": []}
        for i in range(asked.rounds + 1):
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
