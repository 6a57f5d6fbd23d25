"""segment: a segmenter of your own pictures. Plan only, so far."""

from onecard.tasks.base import PlanPreset, Task

TASK = Task(
    name="segment",
    summary="a segmenter of your own pictures (plan only, so far)",
    commands={},
    plans={
        "segment": PlanPreset(
            "a segmenter: YOLO, U-Net, DeepLab",
            "configs:TrainConfig",
            example="yolov8n-seg",
        ),
        "segment-predict": PlanPreset(
            "the same, answering only", "configs:PredictConfig", example="yolov8n-seg"
        ),
    },
    packages=("ultralytics", "torch", "torchvision"),
)
