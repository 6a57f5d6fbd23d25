"""The plan on every published measurement, beside the peers' rules on the same rows.

    PYTHONPATH=tests python tests/bench/bench_plan.py [FILE.csv]

Peers, as their documents state them:
  accelerate   estimate-memory: bytes of the weights, 1.2 x to answer, 4 x to train with Adam
  gpu_poor     weights + KV cache + activations (34 + 5 H T / D bytes a token and width,
               Korthikanti 2022; 2 with checkpointing) + gradients + Adam + 650 MB
  canifinetune weights, 16 B a LoRA weight, checkpoints, 14 B a token and word of the vocabulary;
               8 % for CUDA and 5 % margin
  oobabooga    a symbolic regression over 19,517 loads of GGUF files
"""

import json
import math
import statistics
import sys
from pathlib import Path

from onecard.api import measurements
from onecard.errors import OneCardError
from onecard.memory import formats
from onecard.memory.estimators import training
from onecard.tasks.chat.configs import PlanConfig
from onecard.tasks.finetune import memory as finetune_memory

MIB = 2**20
MEASURED = Path(__file__).parents[1] / "validation" / "measurements.csv"


class Cannot(Exception):
    """A row that a peer's rule does not know."""


def case(row):
    """(command, its config, the model's counts, the format of its weights). Raises Cannot."""
    task, name, config = measurements.config_of(row)
    if task.name == "finetune":
        return name, config, finetune_memory.counts(config.model), recipe(config).weights
    if isinstance(config, PlanConfig):
        return name, config, finetune_memory.counts(config.model), config.quant or "q4_k_m"
    raise Cannot("it knows language models only")


def recipe(config):
    return finetune_memory.recipe_of(config)


def gguf(config):
    return config.engine in ("embedded", "llama.cpp")


def held(config, model, form):
    if isinstance(config, PlanConfig) and gguf(config):
        return formats.gguf(model, form).total
    return formats.hf(model, form).total


def accelerate(row):
    name, config, model, form = case(row)
    return model.n_params * 2 * 4 if name == "full" else held(config, model, form) * 1.2


def gpu_poor(row):
    _, config, model, form = case(row)
    base = held(config, model, form) + 650e6
    if isinstance(config, PlanConfig):
        return base + config.n_parallel * config.n_ctx * model.kv_values * 2
    s = recipe(config)
    passing = (
        s.B * s.T * model.D * model.L * (2 if s.checkpointing else 34 + 5 * model.H * s.T / model.D)
    )
    n = model.n_params if s.method == "full" else training.adapter_params(model, s.targets, s.r)
    return base + passing + n * (2 + 2 + 8)


def canifinetune(row):
    name, config, model, _ = case(row)
    if name not in ("lora", "qlora"):
        raise Cannot("it knows LoRA only")
    s = recipe(config)
    tokens = s.B * s.T
    parts = (
        formats.hf(model, s.weights, 4.0 if s.rest_fp32 else 2.0).total
        + 16 * training.adapter_params(model, s.targets, s.r)
        + model.L * tokens * model.D * 4
        + 14 * tokens * model.V
    )
    return parts * 1.13


def oobabooga(row):
    _, config, model, form = case(row)
    if not isinstance(config, PlanConfig) or not gguf(config):
        raise Cannot("it knows the total of GGUF files only")
    size = formats.gguf(model, form).total / MIB / model.L
    ctx = max(config.n_ctx, 256)
    cache = {"q8_0": 8, "q4_0": 4}.get(config.kv_type, 16)
    layers = model.L + 1
    return MIB * (
        (size - 17.99552795246051 + 3.148552680382576e-05 * model.G * cache * ctx)
        * (
            layers
            + max(
                0.9690636483914102,
                cache - (math.floor(50.77817218646521 * model.D / ctx) + 9.987899908205632),
            )
        )
        + 1516.522943869404
    )


PEERS = {
    "accelerate": accelerate,
    "gpu_poor": gpu_poor,
    "canifinetune": canifinetune,
    "oobabooga": oobabooga,
}


def told(errors):
    errors = sorted(abs(e) for e in errors)
    return (
        {
            "rows": len(errors),
            "median": statistics.median(errors),
            "p90": errors[min(int(len(errors) * 0.9), len(errors) - 1)],
        }
        if errors
        else {"rows": 0}
    )


def main():
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else MEASURED
    done = measurements.plan_bench(file)
    ours = {row["id"]: row for row in done.data["rows"]}
    print(done.text)
    side = []
    for row in measurements.read(file):
        mine = ours[row["id"]]
        if (
            mine["tier"] == "C"
            or mine["error"] is None
            or row["component"] not in ("peak", "total")
        ):
            continue
        line = {
            "id": row["id"],
            "workload": mine["plan"].split("/")[-1],
            "kind": row["kind"],
            "onecard": mine["error"],
        }
        for name, rule in PEERS.items():
            try:
                line[name] = rule(row) / mine["measured_bytes"] - 1
            except (Cannot, OneCardError, KeyError, AttributeError):
                line[name] = None
        side.append(line)
    print("\npeaks and totals, row by row (error; - where a rule does not know the workload)")
    for line in side:
        print(
            f"{line['id']:6} {line['workload']:16} {line['kind']:11} "
            + " ".join(
                f"{name} {line[name]:+7.1%}" if line[name] is not None else f"{name}       -"
                for name in ("onecard", *PEERS)
            )
        )
    summary = {}
    for workload in sorted({line["workload"] for line in side}):
        rows = [line for line in side if line["workload"] == workload]
        summary[workload] = {
            name: told([line[name] for line in rows if line[name] is not None])
            for name in ("onecard", *PEERS)
        }
        for name in PEERS:  # on the very rows that the peer knows
            summary[workload][f"onecard on {name}'s rows"] = told(
                [line["onecard"] for line in rows if line[name] is not None]
            )
    print(
        "\n| workload | rule | rows | median error | 90 % within | onecard on the same rows "
        "|\n|---|---|---|---|---|---|"
    )
    for workload, rules in summary.items():
        for name in ("onecard", *PEERS):
            if rules[name]["rows"]:
                beside = rules.get(f"onecard on {name}'s rows", rules["onecard"])
                print(
                    f"| {workload} | {name} | {rules[name]['rows']} | {rules[name]['median']:.1%} "
                    f"| {rules[name]['p90']:.1%} | {beside['median']:.1%}, {beside['p90']:.1%} |"
                )
    out = Path("bench-results")
    out.mkdir(exist_ok=True)
    (out / "plan.json").write_text(
        json.dumps(
            {
                "file": file.name,
                "summary": done.data["summary"],
                "side_by_side": summary,
                "rows": side,
            },
            indent=1,
        )
        + "\n"
    )
    print(f"\n{out / 'plan.json'}; the plans imported no torch: {'torch' not in sys.modules}")


if __name__ == "__main__":
    main()
