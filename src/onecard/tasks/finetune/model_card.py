"""The model card of a fine-tune: what it is made of, how to repeat it, what was measured.

Knows numbers as they were scored.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onecard.runs.record import Run
from onecard.tasks.finetune.configs import Settings
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
    settings: Settings,
    data: Any,
    metrics: Mapping[str, Mapping[str, Any]],
    verdicts: Sequence[str],
    files: Sequence[Path],
    run: Run,
) -> str:
    """Markdown with the head that model hubs read."""
    values = settings.model_dump(mode="json")
    rows = "\n".join(
        f"| {name} | {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {row['n']} |"
        for name, row in metrics.items()
    )
    said = "\n".join(f"- {line}" for line in verdicts)
    made = "\n".join(f"- `{path.name}`" for path in files)
    return f"""---
base_model: {settings.model_name}
library_name: peft
tags: [onecard, {settings.method}, lora]
---
# {settings.model_name}, tuned on {Path(settings.dataset).name}

{len(data.train)} samples trained, {len(data.held)} were held out (split by document, duplicates on one side). {len(data.gate.rejected)} rows were put aside.

## Is it better?

{said}

| metric | value | 95 % interval | items |
|---|---:|---|---:|
{rows}

A loss is in nats a token of the answers. Its licence is that of the base model and of the data.

## How it was made

`{" ".join(f"--{name} {' '.join(map(str, values[name])) if isinstance(values[name], list) else values[name]}" for name in FIELDS)}`

Planned memory {size(run.plan.total_bytes)}; run {run.id or "not kept"}.

## Files

{made}
"""
