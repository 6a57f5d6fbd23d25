"""detect: a detector of your own objects in pictures. Plan only, so far."""

from onecard.tasks.base import PlanPreset, Task

TASK = Task(
    name="detect",
    summary="a detector of your own objects in pictures (plan only, so far)",
    commands={},
    plans={
        "detect": PlanPreset(
            "a detector: YOLO, RTMDet, RT-DETR, D-FINE, RF-DETR, Faster R-CNN, RetinaNet",
            "configs:TrainConfig",
            example="yolov8n",
        ),
        "detect-predict": PlanPreset(
            "the same, answering only", "configs:PredictConfig", example="yolov8n"
        ),
    },
    packages=("ultralytics", "torch", "torchvision", "transformers"),
)
