"""vlm: questions about pictures, and a light QLoRA of a vision-language model, with the proof."""

from onecard.tasks.base import Command, PlanPreset, Task

ANSWER = ("pillow", "opencv-python-headless")
MODEL = ("torch", "torchvision", "transformers", "peft", *ANSWER)

TASK = Task(
    name="vlm",
    summary="ask a vision-language model about pictures, tune it on your own, with the proof that "
    "it looks at them",
    commands={
        "ask": Command(
            "ask:ask",
            "ask a question about pictures",
            "configs:AskConfig",
            "images",
            requires=ANSWER,
            recorded=False,
        ),
        "chat": Command(
            "chat:chat",
            "talk about pictures in the terminal",
            "configs:ChatConfig",
            "images",
            requires=ANSWER,
            recorded=False,
            terminal=True,
        ),
        "serve": Command(
            "serve:serve",
            "answer the OpenAI HTTP API with pictures",
            "configs:ServeConfig",
            requires=ANSWER,
            recorded=False,
            service="vision",
        ),
        "extract": Command(
            "extract:extract",
            "read fields out of receipts, forms and screenshots, as JSON",
            "configs:ExtractConfig",
            "images",
            requires=ANSWER,
        ),
        "describe": Command(
            "describe:describe",
            "describe pictures and pages of PDF files, for rag to index",
            "configs:DescribeConfig",
            "images",
            requires=ANSWER,
        ),
        "check": Command(
            "check:check",
            "validate rows with pictures: faults, leaks, answers that need no picture",
            "configs:CheckConfig",
            "data",
            requires=ANSWER,
            recorded=False,
        ),
        "train": Command(
            "train:train",
            "tune on pictures, questions and answers; score before and after",
            "configs:TrainConfig",
            "data",
            requires=MODEL,
        ),
        "pretrain-projector": Command(
            "pretrain_projector:pretrain_projector",
            "join a vision tower and a language model by a projector",
            "configs:ProjectorConfig",
            "data",
            requires=MODEL,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score a model with and without its pictures, by picture size, or for objects that "
            "are not there",
            "configs:EvaluateConfig",
            "data",
            requires=ANSWER,
        ),
        "export": Command(
            "export:export",
            "merged weights, and GGUF with mmproj, each asked the same questions",
            "configs:ExportConfig",
            "run_id",
            requires=MODEL,
        ),
    },
    plans={
        "vlm": PlanPreset(
            "a model that answers about pictures", "configs:PlanConfig", example="qwen2.5-vl-3b"
        ),
        "vlm-qlora": PlanPreset(
            "QLoRA of a vision-language model",
            "configs:TrainPlanConfig",
            {"load_in_4bit": True, "loss": "onecard"},
            "qwen2.5-vl-3b",
        ),
        "vlm-lora": PlanPreset(
            "LoRA of a vision-language model",
            "configs:TrainPlanConfig",
            {"loss": "onecard"},
            "qwen2.5-vl-3b",
        ),
    },
    packages=(
        "torch",
        "torchvision",
        "transformers",
        "peft",
        "bitsandbytes",
        "accelerate",
        "safetensors",
        "sentencepiece",
        "num2words",
        "pypdfium2",
        "pyarrow",
        "pillow",
        "xllamacpp",
        "openai",
    ),
)
