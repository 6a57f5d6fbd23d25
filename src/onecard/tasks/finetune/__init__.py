"""finetune: LoRA and QLoRA of a language model on your own pairs, with the proof whether it is
better."""

from onecard.tasks.base import Command, Task
from onecard.tasks.finetune.configs import Settings
from onecard.tasks.finetune.memory import plan, smaller

NEEDS = ("torch", "transformers", "peft", "trl", "datasets", "datasketch")
DATA = (
    "dataset",
    "eval_dataset",
    "columns",
    "model_name",
    "max_seq_length",
    "overlong",
    "eval_share",
    "seed",
)

TASK = Task(
    name="finetune",
    says="LoRA and QLoRA of a language model on your own pairs, with the proof whether it is better",
    settings=Settings,
    plan=plan,
    commands={
        "train": Command(
            "train:train",
            "tune, score before and after, export, score again",
            "dataset",
            needs=NEEDS,
        ),
        "check": Command(
            "check:check",
            "the gates alone: what is wrong with the data",
            "dataset",
            needs=NEEDS[1:2] + NEEDS[5:],
            records=False,
            fields=DATA,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score a run's adapter against its base on other pairs",
            "run_id",
            needs=NEEDS,
            fields=(
                "run_id",
                "eval_dataset",
                "columns",
                "eval_items",
                "generate_items",
                "max_new_tokens",
                "rubric",
                "judge_model",
                "seed",
                "report_to",
            ),
        ),
        "export": Command(
            "export:export",
            "merge a run's adapter and make GGUF files, each scored",
            "run_id",
            needs=NEEDS,
            fields=(
                "run_id",
                "quants",
                "adapter_gguf",
                "output_dir",
                "generate_items",
                "max_new_tokens",
            ),
        ),
        "make-data": Command(
            "draft:draft",
            "draft pairs from a folder of notes with a local model, for you to correct",
            "notes",
            fields=("notes", "pairs", "judge_model", "output_dir", "seed"),
        ),
    },
    smaller=smaller,
)
