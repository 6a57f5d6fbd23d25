"""classify: a classifier of your own pictures."""

from onecard.tasks.base import PlanPreset, Task
from onecard.tasks.base_pictures import PACKAGES, commands

TASK = Task(
    name="classify",
    summary="a classifier of your own pictures",
    commands=commands("learn from pictures with a class each", "tell the class"),
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
    packages=PACKAGES,
)
