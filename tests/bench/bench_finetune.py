"""Training speed and peak memory beside a plain TRL script: the same model, samples, batches and
steps, each in a process of its own, in turn.

    python tests/bench/bench_finetune.py [--rounds 3] [--steps 6] [--kbit]

--kbit: nf4 instead, ours beside ours after PEFT's prepare_model_for_kbit_training (embeddings, head
and norms in fp32): is the loss equal? Each round has a seed of its own: adapters and the order of
the samples; the two of a round share it.

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

os.environ.setdefault("HF_HUB_OFFLINE", "1")
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
    from onecard.hub import checkpoints
    from onecard.memory import devices
    from onecard.memory.plan import Plan
    from onecard.reporting import Reporter
    from onecard.runs.record import Run
    from onecard.tasks.finetune import dataset, model, tokenize_rows, trainer, validation
    from onecard.tasks.finetune.configs import Settings

    checkpoints.quiet()
    settings = Settings(
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
    tokenizer = model.tokenizer_of(folder)
    encoded = validation.encode_all(
        dataset.read(data).samples, lambda s: tokenize_rows.encode(tokenizer, s)
    )[1]
    net = model.base(folder, settings)
    if kbit == "fp32":
        from peft import prepare_model_for_kbit_training

        net = prepare_model_for_kbit_training(net, use_gradient_checkpointing=False)
    reporter = Reporter()
    with tempfile.TemporaryDirectory() as temp, reporter.progress("ours", 0) as bar:
        made = trainer.answers(
            net,
            tokenizer,
            model.lora(settings, net),
            encoded,
            settings,
            Path(temp),
            Run(None, reporter, Plan((), devices.find("cpu"))),
            bar,
            trainer.Stop(),
        )
        return run(made)


def peer(folder, data, steps, batch, bf16, seed):
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = load_dataset("json", data_files=str(data), split="train").map(
        lambda row: {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
    )
    with tempfile.TemporaryDirectory() as temp:
        args = SFTConfig(
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
        made = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
            args=args,
            processing_class=tokenizer,
            train_dataset=rows,
            peft_config=LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        return run(made)


def run(made):
    """Steps, the first left out of the clock; the mean loss of the last three, and the tokens that
    were no padding."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self):
            self.at, self.losses = [], []

        def on_step_end(self, args, state, control, **more):
            self.at.append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **more):
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

    clock, seen = Clock(), []
    made.add_callback(clock)
    inner = made.data_collator

    def counted(batch):
        out = inner(batch)
        seen.append(out.get("n_tokens") or int(out["attention_mask"].sum()))
        return out

    made.data_collator = counted
    made.train()
    steps = len(clock.at)
    return {
        "tokens_per_s": sum(seen[1:steps]) / (clock.at[-1] - clock.at[0]),
        "loss": statistics.mean(clock.losses[-3:]),
        "first_loss": clock.losses[0],
        "tokens": sum(seen[1:steps]),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main():
    ask = argparse.ArgumentParser()
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--steps", type=int, default=6)
    ask.add_argument("--batch", type=int, default=4)
    ask.add_argument("--fp32", action="store_true")
    ask.add_argument("--kbit", action="store_true")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--one", default="")
    ask.add_argument("--data", default="")
    given = ask.parse_args()
    from onecard.hub import checkpoints
    from onecard.reporting import Reporter

    folder = checkpoints.folder("smollm2-135m", Reporter())
    if given.one:
        print(
            "RESULT "
            + json.dumps(
                WHO[given.one](
                    folder, Path(given.data), given.steps, given.batch, not given.fp32, given.seed
                )
            )
        )
        return
    with tempfile.TemporaryDirectory() as temp:
        data = Path(temp) / "data.jsonl"
        make(data, 200)
        found = {
            who: [] for who in (("kbit_ours", "kbit_fp32") if given.kbit else ("ours", "peer"))
        }
        for seed in range(given.rounds):
            for who in found:
                words = [
                    sys.executable,
                    __file__,
                    "--one",
                    who,
                    "--data",
                    str(data),
                    "--steps",
                    str(given.steps),
                    "--batch",
                    str(given.batch),
                    "--seed",
                    str(seed),
                    *(["--fp32"] if given.fp32 else []),
                ]
                done = subprocess.run(words, capture_output=True, text=True)
                line = next(
                    (line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None
                )
                if line is None:
                    raise SystemExit(done.stderr[-2000:])
                found[who].append(json.loads(line[7:]))
                print(who, line[7:], flush=True)
    middle = {
        who: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for who, rows in found.items()
    }
    mine, theirs = middle.values()
    out = OUT.with_name("finetune-kbit.json") if given.kbit else OUT
    out.parent.mkdir(exist_ok=True)
    out.write_text(
        json.dumps(
            {
                "rounds": found,
                "median": middle,
                "ratio": mine["tokens_per_s"] / theirs["tokens_per_s"],
            },
            indent=2,
        )
        + "\n"
    )
    print(
        json.dumps(middle, indent=2),
        f"\n{' / '.join(found)}: {mine['tokens_per_s'] / theirs['tokens_per_s']:.2f}x tokens/s, "
        f"{mine['peak_rss_bytes'] / theirs['peak_rss_bytes']:.2f}x peak memory, loss "
        f"{mine['loss']:.4f} and {theirs['loss']:.4f}",
    )


WHO = {
    "ours": ours,
    "peer": peer,
    "kbit_ours": lambda *given: ours(*given, kbit="bf16"),
    "kbit_fp32": lambda *given: ours(*given, kbit="fp32"),
}


if __name__ == "__main__":
    main()
