"""diffusion: pictures from text, and a LoRA of a style. Planned today; training comes later."""

from onecard.tasks.base import Command, PlanPreset, Task

GENERATE = ("diffusers", "transformers", "peft", "torch", "pillow", "numpy")
TRAIN = ("diffusers", "transformers", "peft", "torch", "opencv-python-headless", "pillow")

TASK = Task(
    name="diffusion",
    summary="pictures from text, and a LoRA of your own style (plan only, so far)",
    commands={
        "generate": Command(
            "generate:generate",
            "make pictures from a prompt, from a picture or inside a mask",
            "configs:GenerateConfig",
            "prompt",
            requires=GENERATE,
        ),
        "again": Command(
            "again:again",
            "make the picture of a PNG once more, and say whether it is equal",
            "configs:AgainConfig",
            "picture",
            requires=GENERATE,
        ),
        "check": Command(
            "check:check",
            "look at pictures and captions: faults, duplicates, sizes, a contact sheet",
            "configs:CheckConfig",
            "data",
            requires=("numpy", "opencv-python-headless", "pillow", "torch"),
        ),
        "train": Command(
            "train:train",
            "learn a style or a subject as a LoRA, its checkpoints compared by measurement",
            "configs:TrainConfig",
            "data",
            requires=TRAIN,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "compare the checkpoints of a training by their pictures, and recommend one",
            "configs:EvaluateConfig",
            "run_id",
            requires=(*TRAIN, "timm"),
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
