"""tinylm: a language model of a few million weights from scratch."""

from onecard.tasks.base import Command, PlanPreset, Task

REQUIRES = ("torch", "tokenizers", "safetensors")

TASK = Task(
    name="tinylm",
    summary="a language model of a few million weights from scratch, to learn from and to measure",
    commands={
        "train": Command(
            "train:train",
            "learn from a text, score everything that is held out, write files for chat",
            "configs:TrainConfig",
            "dataset",
            requires=REQUIRES,
        ),
        "generate": Command(
            "generate:generate",
            "continue a prompt",
            "configs:GenerateConfig",
            "run_id",
            requires=REQUIRES,
            recorded=False,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "loss, perplexity, bits per character, speed with and without cache, reading beyond "
            "the training length",
            "configs:EvaluateConfig",
            "run_id",
            requires=REQUIRES,
        ),
        "export": Command(
            "export:export",
            "safetensors for transformers and GGUF for chat",
            "configs:ExportConfig",
            "run_id",
            requires=REQUIRES,
        ),
        "ablate": Command(
            "ablate:ablate",
            "learned, sinusoidal, RoPE and ALiBi positions against each other at equal weights and "
            "compute",
            "configs:AblateConfig",
            "dataset",
            requires=REQUIRES,
        ),
    },
    plans={
        "tinylm": PlanPreset("a tiny language model from scratch", "configs:TrainConfig"),
    },
    packages=("torch", "tokenizers", "safetensors", "xllamacpp"),
)
