"""classify: a classifier of your own pictures. Plan only, so far."""

from onecard.tasks.base import PlanPreset, Task

TASK = Task(
    name="classify",
    summary="a classifier of your own pictures (plan only, so far)",
    commands={},
    plans={
        "classify": PlanPreset(
            "a classifier: ResNet, ViT, ConvNeXt",
            "configs:TrainConfig",
            example="resnet50",
        ),
        "classify-predict": PlanPreset(
            "the same, answering only", "configs:PredictConfig", example="resnet50"
        ),
    },
    packages=("torch", "torchvision"),
)
