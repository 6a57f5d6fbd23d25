"""vlm: questions about pictures, and a light QLoRA. Planned today; the rest comes later."""

from onecard.tasks.base import PlanPreset, Task

TASK = Task(
    name="vlm",
    summary="ask a vision-language model about pictures (plan only, so far)",
    commands={},
    plans={
        "vlm": PlanPreset(
            "a model that answers about pictures", "configs:PlanConfig", example="qwen2.5-vl-3b"
        ),
        "vlm-qlora": PlanPreset(
            "QLoRA of a vision-language model",
            "configs:TrainPlanConfig",
            {"load_in_4bit": True},
            "qwen2.5-vl-3b",
        ),
        "vlm-lora": PlanPreset(
            "LoRA of a vision-language model", "configs:TrainPlanConfig", example="qwen2.5-vl-3b"
        ),
    },
    packages=("transformers", "peft", "torch", "torchvision"),
)
