"""tinylm: a language model of a few million weights from scratch, to learn from and to measure."""

from onecard.tasks.base import Command, Task
from onecard.tasks.tinylm.configs import Settings
from onecard.tasks.tinylm.memory import plan, smaller

NEEDS = ("torch", "tokenizers", "safetensors")
TRAINING = tuple(
    name
    for name in Settings.model_fields
    if name
    not in (
        "run_id",
        "prompt",
        "max_new_tokens",
        "num_samples",
        "temperature",
        "top_k",
        "top_p",
        "positions",
        "seeds",
    )
)

NOT_ABLATED = (
    "position",
    "profile",
    "sample",
    "sample_tokens",
    "keep_best",
    "quants",
    "minutes",
    "compile",
    "save_steps",
    "eval_steps",
    "logging_steps",
)

TASK = Task(
    name="tinylm",
    says="a language model of a few million weights from scratch, to learn from and to measure",
    settings=Settings,
    plan=plan,
    commands={
        "train": Command(
            "train:train",
            "learn from a text, score over all that is held out, write files for chat",
            "dataset",
            needs=NEEDS,
            fields=TRAINING,
        ),
        "generate": Command(
            "generate:generate",
            "write on from a prompt",
            "run_id",
            needs=NEEDS,
            records=False,
            fields=(
                "run_id",
                "prompt",
                "max_new_tokens",
                "num_samples",
                "temperature",
                "top_k",
                "top_p",
                "seed",
            ),
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "loss, perplexity, bits a character, pace with and without cache, reading beyond the "
            "training length",
            "run_id",
            needs=NEEDS,
            fields=("run_id", "dataset", "split", "val_share", "seed", "report_to"),
        ),
        "export": Command(
            "export:export",
            "safetensors for transformers and GGUF for chat",
            "run_id",
            needs=NEEDS,
            fields=("run_id", "quants", "output_dir"),
        ),
        "ablate": Command(
            "ablate:ablate",
            "learned, sinusoidal, RoPE and ALiBi positions against each other at equal weights and "
            "compute",
            "dataset",
            needs=NEEDS,
            fields=(*(name for name in TRAINING if name not in NOT_ABLATED), "positions", "seeds"),
        ),
    },
    smaller=smaller,
)
