"""detect: a detector of your own objects in pictures."""

from onecard.tasks.base import PICTURE_PACKAGES, PlanPreset, Task, picture_commands

TASK = Task(
    name="detect",
    summary="a detector of your own objects in pictures",
    commands=picture_commands(
        "learn from pictures with boxes", "find objects", ("transformers", "pycocotools", "scipy")
    ),
    plans={
        "detect": PlanPreset(
            "a detector: YOLO, RTMDet, RT-DETR, D-FINE, RF-DETR, Faster R-CNN, RetinaNet",
            "configs:PlanTrainConfig",
            example="yolov8n",
        ),
        "detect-predict": PlanPreset(
            "the same, answering only", "configs:PlanPredictConfig", example="yolov8n"
        ),
    },
    packages=("ultralytics", "transformers", "pycocotools", "scipy", *PICTURE_PACKAGES),
)
