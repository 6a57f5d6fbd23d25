"""A small vision-language model that truly answers, made, tuned, served and measured on a CPU.

    python tests/bench/bench_vlm.py measure    # tower, projector, tuning, controls: about an hour
    python tests/bench/bench_vlm.py speed      # vlm train against a plain transformers + peft loop

Needs ../shared/data/easyvqa. Writes bench-results/vlm*.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
DATA = ROOT.parent / "shared" / "data" / "easyvqa" / "data"
RESULTS = ROOT / "bench-results"
EVAL_ITEMS = 1000
PARTS = (1000, 1300, 2300)
"""Rows of the three parts of the curriculum."""


def onecard(*words: str) -> dict[str, Any]:
    """A command of onecard; its result as JSON. Raises where it fails."""
    command = [sys.executable, "-m", "onecard", "vlm", *words, "--json"]
    reply = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    return dict(json.loads(reply.stdout.strip().splitlines()[-1]))


def measure(work: Path) -> None:
    from tests.bench import easyvqa_conversations as rows
    from tests.bench import vision_tower

    work.mkdir(parents=True, exist_ok=True)
    captions, questions = rows.captions(DATA, work), rows.questions(DATA, work)
    curriculum = rows.curriculum(DATA, work, PARTS)
    seconds: dict[str, float] = {}
    start = time.monotonic()
    tower = vision_tower.train(DATA, work / "tower", epochs=40)
    seconds["tower"] = time.monotonic() - start
    start = time.monotonic()
    usual = ["--images", str(DATA), "--max_new_tokens", "8"]
    projector = onecard(
        *("pretrain-projector", str(captions), "--vision_model", str(work / "tower")),
        *("--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"),
        *("--max_steps", "90", "--eval_items", "64", "--output_dir", str(work / "joined"), *usual),
    )
    seconds["projector"] = time.monotonic() - start
    start = time.monotonic()
    tuned = onecard(
        *("train", str(curriculum), "--model", str(work / "joined" / "model"), "--no-shuffle"),
        *("--eval_data", str(questions), "--eval_items", "64", "--max_steps", "280"),
        *("--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "1"),
        *("--learning_rate", "6e-4", "--projector_lr", "3e-4", "--no-controls"),
        *("--output_dir", str(work / "tuned"), *usual),
    )
    seconds["tuning"] = time.monotonic() - start
    start = time.monotonic()
    score = onecard(
        *("evaluate", str(questions), "--images", str(DATA)),
        *("--model", str(work / "tuned" / "adapter")),
        *("--eval_items", str(EVAL_ITEMS), "--max_new_tokens", "8"),
    )
    seconds["evaluation"] = time.monotonic() - start
    write(
        "vlm-easyvqa.json",
        {
            "seconds": seconds,
            "tower": tower,
            "projector": projector["verdicts"],
            "tuned": tuned["verdicts"],
            "metrics": score["metrics"],
            "verdicts": score["verdicts"],
        },
    )


# Speed


def side(name: str, model: Path, conversations: Path, steps: int) -> None:
    """Trains `steps` micro-batches of four conversations; prints tokens/s and the peak."""
    import torch

    from onecard.reporting import Reporter
    from onecard.runs.record import peak_rss_bytes
    from onecard.tasks.vlm import adapters, batches, picture_rows, trainer
    from onecard.tasks.vlm import model as models
    from onecard.tasks.vlm.configs import TrainConfig

    items = [item for item in picture_rows.read(conversations, [DATA]).items if item.images][:400]
    config = TrainConfig(per_device_train_batch_size=4, gradient_accumulation_steps=1)
    vlm = models.load(str(model), config, dtype=torch.float32, reporter=Reporter())
    torch.manual_seed(0)
    order = batches.Batches(vlm, items, 4, 0)
    step = _ours if name == "ours" else _plain
    tokens, losses, began = 0, [], 0.0
    if name == "ours":
        adapters.attach(vlm, config)
        loop = trainer.Trainer(vlm, config, steps + 2, None)
        vlm.net.train()
    else:
        loop = _plain_loop(vlm, config)
    for number in range(steps + 2):
        if number == 2:  # two to warm up
            began, tokens = time.monotonic(), 0
        n, loss = step(vlm, loop, order, number)
        tokens += n
        losses.append(loss)
    order.close()
    rate = tokens / (time.monotonic() - began)
    print(json.dumps({"tokens_per_s": rate, "peak_bytes": peak_rss_bytes(), "losses": losses}))


def _ours(vlm: Any, loop: Any, order: Any, number: int) -> tuple[int, float]:
    before = loop.tokens
    loss = loop.step(order)
    return loop.tokens - before, loss


def _plain_loop(vlm: Any, config: Any) -> Any:
    """As in the recipes of transformers and PEFT: LoRA on the language model's linear layers, the
    projector saved whole, AdamW."""
    import torch
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    )
    vlm.net = get_peft_model(vlm.net, lora)
    vlm.net.train()
    weights = [weight for weight in vlm.net.parameters() if weight.requires_grad]
    return torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)


def _plain(vlm: Any, optimizer: Any, order: Any, number: int) -> tuple[int, float]:
    import torch

    batch = order[number]
    outputs = vlm.net(**vlm.on_device(batch.inputs))
    outputs.loss.backward()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return batch.n_tokens, float(outputs.loss)


def speed(work: Path, rounds: int, steps: int) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for number in range(rounds):
        for name in ("ours", "plain") if number % 2 == 0 else ("plain", "ours"):
            command = [sys.executable, __file__, "side", name, "--work", str(work)]
            reply = subprocess.run(
                [*command, "--steps", str(steps)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            rows[name].append(json.loads(reply.stdout.strip().splitlines()[-1]))
            print(name, {k: v for k, v in rows[name][-1].items() if k != "losses"}, flush=True)
    medians = {
        name: {
            key: statistics.median(row[key] for row in each)
            for key in ("tokens_per_s", "peak_bytes")
        }
        for name, each in rows.items()
    }
    losses = {name: each[0]["losses"] for name, each in rows.items()}
    ratio = {
        key: medians["ours"][key] / medians["plain"][key] for key in ("tokens_per_s", "peak_bytes")
    }
    write("vlm-speed.json", {"medians": medians, "ratio": ratio, "losses": losses, "rounds": rows})
    print(medians, ratio)


def write(name: str, values: dict[str, Any]) -> None:
    (RESULTS / name).write_text(json.dumps(values, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "speed", "side"))
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--work", type=Path, default=Path("/tmp/bench-vlm"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    if options.what == "measure":
        measure(options.work)
    elif options.what == "speed":
        speed(options.work, options.rounds, options.steps)
    else:
        joined = options.work / "joined" / "model"
        side(options.name, joined, options.work / "curriculum.jsonl", options.steps)


if __name__ == "__main__":
    main()
