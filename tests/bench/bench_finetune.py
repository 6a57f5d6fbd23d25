"""Training speed and peak memory beside a plain TRL script: the same model, samples, batches and
steps, each in a process of its own, in turn.

    python tests/bench/bench_finetune.py [--rounds 3] [--steps 6] [--kbit]
    python tests/bench/bench_finetune.py --memory

--kbit: nf4 instead, ours beside ours after PEFT's prepare_model_for_kbit_training (embeddings, head
and norms in fp32): is the loss equal? Each round has a seed of its own: adapters and the order of
the samples; the two of a round share it.

--memory: planned against allocated bytes of one step in each width (minutes where bf16 is
emulated).

The samples' lengths are uneven (log-normal, as in instruction sets); a row of the peer's batch is
padded to its longest. Tokens are the samples' own.
"""

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import datasets
import peft
import transformers
import trl
from sft_memory import planned_and_measured

from onecard.hub import checkpoints
from onecard.memory import devices
from onecard.memory.plan import Plan
from onecard.reporting import Reporter, table
from onecard.runs.record import Run
from onecard.tasks.finetune import dataset, model, trainer, training_data
from onecard.tasks.finetune.configs import TrainConfig
from onecard.tasks.finetune.training_data import ModelLimits

OUT = Path(__file__).parents[2] / "bench-results" / "finetune.json"
WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
]


def make(path, n):
    draw = random.Random(0)
    rows = []
    for i in range(n):
        length = min(400, max(8, int(draw.lognormvariate(math.log(70), 0.9))))
        rows.append(
            {
                "prompt": f"Write about {draw.choice(WORDS)} and {draw.choice(WORDS)}, number {i}.",
                "completion": " ".join(draw.choice(WORDS) for _ in range(length)) + ".",
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def ours(folder, data, steps, batch, bf16, seed, kbit=""):
    checkpoints.quiet()
    settings = TrainConfig(
        max_seq_length=1024,
        packing=False,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        max_steps=steps,
        save_steps=10_000,
        lr_scheduler_type="constant",
        warmup_ratio=0,
        bf16=bf16,
        seed=seed,
        load_in_4bit=bool(kbit),
    )
    tokenizer = model.load_tokenizer(folder)
    examples = training_data.tokenize(dataset.read(data).samples, tokenizer, ModelLimits())[1]
    net = model.load_base(folder, settings)
    if kbit == "fp32":
        net = peft.prepare_model_for_kbit_training(net, use_gradient_checkpointing=False)
    reporter = Reporter()
    with tempfile.TemporaryDirectory() as temp, reporter.progress("ours", 0) as bar:
        run = Run(None, reporter, Plan((), devices.find("cpu")))
        sft = trainer.sft_trainer(
            net,
            tokenizer,
            model.lora_config(settings, net),
            examples,
            settings,
            Path(temp),
            trainer.ProgressCallback(run, bar, settings.optim),
        )
        return measure(sft)


def peer(folder, data, steps, batch, bf16, seed):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = datasets.load_dataset("json", data_files=str(data), split="train").map(
        lambda row: {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
    )
    with tempfile.TemporaryDirectory() as temp:
        args = trl.SFTConfig(
            output_dir=temp,
            max_length=1024,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            max_steps=steps,
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            warmup_steps=0,
            bf16=bf16,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            seed=seed,
            data_seed=seed,
            disable_tqdm=True,
        )
        sft = trl.SFTTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
            args=args,
            processing_class=tokenizer,
            train_dataset=rows,
            peft_config=peft.LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        return measure(sft)


class Clock(transformers.TrainerCallback):
    def __init__(self):
        self.step_ends, self.losses = [], []

    def on_step_end(self, args, state, control, **unused):
        self.step_ends.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **unused):
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def measure(sft):
    """Steps, the first left out of the clock; the mean loss of the last three, and the tokens that
    were no padding."""
    clock, tokens = Clock(), []
    sft.add_callback(clock)
    collate = sft.data_collator

    def counted(batch):
        out = collate(batch)
        tokens.append(out.get("n_tokens") or int(out["attention_mask"].sum()))
        return out

    sft.data_collator = counted
    sft.train()
    steps = len(clock.step_ends)
    return {
        "tokens_per_s": sum(tokens[1:steps]) / (clock.step_ends[-1] - clock.step_ends[0]),
        "loss": statistics.mean(clock.losses[-3:]),
        "first_loss": clock.losses[0],
        "tokens": sum(tokens[1:steps]),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


WIDTHS = {
    "fp32": {},
    "bf16": {"bf16": True},
    "nf4": {"bf16": True, "load_in_4bit": True},
}
MEMORY_CASES = [
    ("fp32", 512, False),
    ("fp32", 1024, True),
    ("bf16", 512, False),
    ("bf16", 512, True),
    ("bf16", 1024, False),
    ("nf4", 512, False),
    ("nf4", 512, True),
]


def memory(folder):
    """The table of the README: planned against allocated bytes of a step."""
    rows = []
    for width, tokens, checkpointing in MEMORY_CASES:
        settings = TrainConfig(
            max_seq_length=tokens,
            gradient_accumulation_steps=1,
            max_steps=1,
            save_steps=1000,
            gradient_checkpointing=checkpointing,
            **WIDTHS[width],
        )
        with tempfile.TemporaryDirectory() as temp:
            planned, measured = planned_and_measured(folder, settings, Path(temp))
        rows.append(
            [
                width,
                str(tokens),
                "yes" if checkpointing else "no",
                f"{measured / 2**30:.3f}",
                f"{planned / 2**30:.3f}",
                f"{planned / measured - 1:+.1%}",
            ]
        )
    print(table(rows, ["weights", "tokens", "checkpointing", "measured (GiB)", "planned", "error"]))


def in_own_process(who, data, args, seed):
    """One measurement of ours or the peer's: peak memory is that of a process."""
    words = [
        sys.executable,
        __file__,
        "--one",
        who,
        "--data",
        str(data),
        "--steps",
        str(args.steps),
        "--batch",
        str(args.batch),
        "--seed",
        str(seed),
        *(["--fp32"] if args.fp32 else []),
    ]
    process = subprocess.run(words, capture_output=True, text=True)
    results = [line for line in process.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        raise SystemExit(process.stderr[-2000:])
    print(who, results[0][7:], flush=True)
    return json.loads(results[0][7:])


def compare(args):
    names = ("kbit_ours", "kbit_fp32") if args.kbit else ("ours", "peer")
    rounds = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temp:
        data = Path(temp) / "data.jsonl"
        make(data, 200)
        for seed in range(args.rounds):
            for name in names:
                rounds[name].append(in_own_process(name, data, args, seed))
    medians = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in rounds.items()
    }
    mine, theirs = medians.values()
    ratio = mine["tokens_per_s"] / theirs["tokens_per_s"]
    out = OUT.with_name("finetune-kbit.json") if args.kbit else OUT
    out.parent.mkdir(exist_ok=True)
    out.write_text(
        json.dumps({"rounds": rounds, "median": medians, "ratio": ratio}, indent=2) + "\n"
    )
    print(
        json.dumps(medians, indent=2),
        f"\n{' / '.join(names)}: {ratio:.2f}x tokens/s, "
        f"{mine['peak_rss_bytes'] / theirs['peak_rss_bytes']:.2f}x peak memory, loss "
        f"{mine['loss']:.4f} and {theirs['loss']:.4f}",
    )


WHO = {
    "ours": ours,
    "peer": peer,
    "kbit_ours": lambda *args: ours(*args, kbit="bf16"),
    "kbit_fp32": lambda *args: ours(*args, kbit="fp32"),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--fp32", action="store_true")
    parser.add_argument("--kbit", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", default="")
    parser.add_argument("--data", default="")
    args = parser.parse_args()
    folder = checkpoints.folder("smollm2-135m", Reporter())
    if args.memory:
        memory(folder)
    elif args.one:
        data = Path(args.data)
        row = WHO[args.one](folder, data, args.steps, args.batch, not args.fp32, args.seed)
        print("RESULT " + json.dumps(row))
    else:
        compare(args)


if __name__ == "__main__":
    main()
