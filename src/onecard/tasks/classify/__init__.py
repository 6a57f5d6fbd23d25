"""classify: a classifier of your own pictures."""

from onecard.tasks.base import PICTURE_PACKAGES, PlanPreset, Task, picture_commands

TASK = Task(
    name="classify",
    summary="a classifier of your own pictures",
    commands=picture_commands("learn from pictures with a class each", "tell the class"),
    plans={
        "classify": PlanPreset(
            "a classifier: ResNet, ViT, ConvNeXt, EfficientNet",
            "configs:PlanTrainConfig",
            example="resnet50",
        ),
        "classify-predict": PlanPreset(
            "the same, answering only", "configs:PlanPredictConfig", example="resnet50"
        ),
    },
    packages=PICTURE_PACKAGES,
)
