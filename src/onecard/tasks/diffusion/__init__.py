"""diffusion: pictures from text, and a LoRA of a style. Planned today; training comes later."""

from onecard.tasks.base import Command, PlanPreset, Task

TASK = Task(
    name="diffusion",
    summary="pictures from text, and a LoRA of your own style (plan only, so far)",
    commands={
        "check": Command(
            "check:check",
            "look at pictures and captions: faults, duplicates, sizes, a contact sheet",
            "configs:CheckConfig",
            "data",
            requires=("numpy", "opencv-python-headless", "pillow", "torch"),
        ),
    },
    plans={
        "diffusion": PlanPreset("pictures generated", "configs:GenerateConfig", example="sdxl"),
        "diffusion-lora": PlanPreset("a LoRA of a style", "configs:TrainConfig", example="sdxl"),
        "diffusion-full": PlanPreset(
            "the whole denoiser trained", "configs:TrainConfig", {"method": "full"}, "sd-1.5"
        ),
    },
    packages=("diffusers", "transformers", "peft", "torch"),
)
