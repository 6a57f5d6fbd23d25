"""The formulas of a training step against the real model classes on fake tensors.

python tests/bench/bench_traces.py [NAME ...]        about 20 minutes

Each class with four of its layers at its real widths, without checkpointing and with, whole, LoRA
and QLoRA. Writes bench-results/traces.json.
"""

import json
import statistics
import sys
from pathlib import Path

from onecard.memory.architectures import lm
from onecard.memory.estimators import training
from onecard.reporting import table

ROOT = Path(__file__).parents[2]
NAMES = [
    *("smollm2-135m", "llama-3.2-1b", "tinyllama-1.1b", "mistral-7b-v0.3", "qwen2.5-0.5b"),
    *("qwen3-0.6b", "qwen3-4b", "gemma-2b", "gemma-2-2b", "gemma-3-270m", "gemma-3-4b", "phi-2"),
    *("phi-3-mini", "phi-4-mini", "granite-3.3-8b", "olmo2-1124-7b", "olmo-3-7b", "smollm3-3b"),
    *("command-r7b", "exaone-4.0-1.2b", "seed-oss-36b", "ministral-3-3b", "apertus-8b", "gpt2"),
    *("starcoder2-3b", "hunyuan-7b", "ernie-4.5-0.3b", "glm4-9b", "lfm2-350m", "qwen3.5-0.8b"),
    *("granite-4.0-h-1b", "falcon-h1-0.5b", "deepseek-v2-lite", "qwen3-30b-a3b", "gpt-oss-20b"),
    *("gemma-4-E2B", "aya-expanse-8b", "internlm3-8b", "falcon3-1b", "pythia-410m"),
]
RECIPES = [
    ("full", "bf16", True),
    ("full", "bf16", False),
    ("lora", "bf16", True),
    ("lora", "bf16", False),
    ("qlora", "nf4", True),
    ("qlora", "nf4", False),
]


def main():
    from onecard.memory import fake_tensor

    rows = []
    for name in sys.argv[1:] or NAMES:
        known = lm.named(name)
        if known is None:
            print("not known:", name)
            continue
        model = known.with_layers(min(known.L, 4))
        for method, weights, checkpointing in RECIPES:
            recipe = training.Recipe(
                method,
                weights,
                1,
                512,
                checkpointing=checkpointing,
                accumulation=1 if method == "full" else 2,
                keeps_logits=False,
            )
            row = {"model": name, "method": method, "checkpointing": checkpointing}
            try:
                traced = fake_tensor.step(model, recipe).peak_bytes
                planned = sum(term.bytes for term in training.step(model, recipe))
                row |= {"traced": traced, "planned": planned, "error": planned / traced - 1}
            except Exception as fault:  # told in the table
                row["fault"] = f"{type(fault).__name__}: {fault}"[:160]
            rows.append(row)
            print(name, method, checkpointing, row.get("error", row.get("fault")), flush=True)
    (ROOT / "bench-results").mkdir(exist_ok=True)
    (ROOT / "bench-results/traces.json").write_text(json.dumps(rows, indent=1))
    good = [row for row in rows if "error" in row]
    cells = []
    for method, _, checkpointing in RECIPES:
        same = [r for r in good if (r["method"], r["checkpointing"]) == (method, checkpointing)]
        errors = [abs(row["error"]) for row in same] or [0.0]
        within = f"{sum(each <= 0.05 for each in errors)} of {len(same)}"
        middle, largest = f"{statistics.median(errors):.1%}", f"{max(errors):.1%}"
        cells.append([method, str(checkpointing), str(len(same)), middle, largest, within])
    print(table(cells, ["method", "checkpointing", "classes", "median", "largest", "within 5 %"]))


if __name__ == "__main__":
    main()
