"""diffusion: pictures from text, and a LoRA of a style or a subject."""

from onecard.tasks.base import Command, PlanPreset, Task

GENERATE = ("accelerate", "diffusers", "transformers", "peft", "torch", "pillow", "numpy")
READ = ("numpy", "opencv-python-headless", "pillow", "torch")
TRAIN = (*READ, "accelerate", "diffusers", "transformers", "peft", "timm", "torchvision")

TASK = Task(
    name="diffusion",
    summary="pictures from text, and a LoRA of your own style, chosen by measurement",
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
            requires=READ,
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
            requires=TRAIN,
        ),
    },
    plans={
        "diffusion": PlanPreset("pictures generated", "configs:PlanGenerateConfig", example="sdxl"),
        "diffusion-lora": PlanPreset(
            "a LoRA of a style", "configs:PlanTrainConfig", example="sdxl"
        ),
        "diffusion-full": PlanPreset(
            "the whole denoiser trained", "configs:PlanTrainConfig", {"method": "full"}, "sd-1.5"
        ),
    },
    packages=("bitsandbytes", "safetensors", *TRAIN),
)
