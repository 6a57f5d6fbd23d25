"""The model card of a fine-tune: how it was trained, how to repeat it, and its scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onecard.runs.record import Run
from onecard.tasks.finetune.configs import TrainConfig
from onecard.tasks.finetune.training_data import TrainingData
from onecard.units import size

FIELDS = (
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "max_seq_length",
    "packing",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "optim",
    "load_in_4bit",
    "bf16",
    "seed",
)


def write(
    config: TrainConfig,
    data: TrainingData,
    metrics: Mapping[str, Mapping[str, Any]],
    verdicts: Sequence[str],
    files: Sequence[Path],
    run: Run,
) -> str:
    """Markdown with the front matter that model hubs read."""
    return "\n".join(
        [
            "---",
            f"base_model: {config.model}",
            "library_name: peft",
            f"tags: [onecard, {config.method}, lora]",
            "---",
            f"# {config.model}, tuned on {Path(config.dataset).name}",
            "",
            f"{len(data.train)} samples trained, {len(data.evaluation)} were held out (split by "
            f"document, duplicates on one side). {len(data.report.rejected)} rows were rejected.",
            "",
            "## Is it better?",
            "",
            *(f"- {verdict}" for verdict in verdicts),
            "",
            "| metric | value | 95 % interval | items |",
            "|---|---:|---|---:|",
            *(
                f"| {name} | {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} | "
                f"{row['n']} |"
                for name, row in metrics.items()
            ),
            "",
            "A loss is in nats a token of the answers. Its licence is that of the base model and "
            "of the data.",
            "",
            "## How to repeat it",
            "",
            f"`{_flags(config)}`",
            "",
            f"Planned memory {size(run.plan.total_bytes)}; run {run.id or 'not recorded'}.",
            "",
            "## Files",
            "",
            *(f"- `{path.name}`" for path in files),
            "",
        ]
    )


def _flags(config: TrainConfig) -> str:
    values = config.model_dump(mode="json")
    flags = []
    for name in FIELDS:
        value = values[name]
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        flags.append(f"--{name} {text}")
    return " ".join(flags)
