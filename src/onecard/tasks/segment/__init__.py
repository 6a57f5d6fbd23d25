"""segment: a segmenter of your own pictures: a class for every pixel, or outlines of objects."""

from onecard.tasks.base import PlanPreset, Task
from onecard.tasks.base_pictures import PACKAGES, commands

TASK = Task(
    name="segment",
    summary="a segmenter of your own pictures: a class for every pixel, or outlines of objects",
    commands=commands(
        "learn from pictures with masks or outlines",
        "tell the class of each pixel",
        ("segmentation-models-pytorch", "pycocotools"),
    ),
    plans={
        "segment": PlanPreset(
            "a segmenter: U-Net, DeepLabV3, SegFormer, YOLO-seg",
            "configs:PlanTrainConfig",
            example="yolov8n-seg",
        ),
        "segment-predict": PlanPreset(
            "the same, answering only", "configs:PlanPredictConfig", example="yolov8n-seg"
        ),
    },
    packages=("ultralytics", "segmentation-models-pytorch", "pycocotools", *PACKAGES),
)
