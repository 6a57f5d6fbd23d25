"""finetune: LoRA and QLoRA of a language model on your own pairs, with the proof."""

from onecard.tasks.base import Command, PlanPreset, Task

REQUIRES = ("torch", "transformers", "peft", "trl", "datasets", "datasketch")

TASK = Task(
    name="finetune",
    summary="LoRA and QLoRA of a language model on your own pairs, with the proof whether it is "
    "better",
    commands={
        "train": Command(
            "train:train",
            "tune, score before and after, export, score again",
            "configs:TrainConfig",
            "dataset",
            requires=REQUIRES,
        ),
        "check": Command(
            "check:check",
            "validate the data alone: what is wrong with it",
            "configs:CheckConfig",
            "dataset",
            requires=("transformers", "datasketch"),
            recorded=False,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score a run's adapter against its base on other pairs",
            "configs:EvaluateConfig",
            "run_id",
            requires=REQUIRES,
        ),
        "export": Command(
            "export:export",
            "merge a run's adapter and make GGUF files, each scored",
            "configs:ExportConfig",
            "run_id",
            requires=REQUIRES,
        ),
        "draft": Command(
            "draft:draft",
            "draft synthetic pairs from a folder of notes with a local model, for you to correct",
            "configs:DraftConfig",
            "notes",
        ),
    },
    plans={
        "qlora": PlanPreset(
            "QLoRA fine-tuning on 4-bit weights",
            "configs:PlanConfig",
            {
                "load_in_4bit": True,
                "bf16": True,
                "gradient_checkpointing": True,
                "max_seq_length": 2048,
            },
            "llama-3.1-8b",
        ),
        "lora": PlanPreset(
            "LoRA fine-tuning on 16-bit weights",
            "configs:PlanConfig",
            {"bf16": True, "gradient_checkpointing": True, "max_seq_length": 2048},
            "llama-3.2-3b",
        ),
        "full": PlanPreset(
            "full fine-tuning (planned only)",
            "configs:PlanConfig",
            {
                "use_peft": False,
                "bf16": True,
                "gradient_checkpointing": True,
                "max_seq_length": 2048,
                "gradient_accumulation_steps": 1,
                "optim": "adamw_torch",
                "loss": "upcast",
                "attn_implementation": "sdpa",
            },
            "qwen2.5-0.5b",
        ),
    },
    aliases={"make-data": "draft"},
    packages=(
        "torch",
        "transformers",
        "peft",
        "trl",
        "bitsandbytes",
        "datasets",
        "datasketch",
        "accelerate",
        "tokenizers",
        "safetensors",
        "sentencepiece",
        "xllamacpp",
    ),
)
