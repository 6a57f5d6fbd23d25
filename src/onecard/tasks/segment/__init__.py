"""segment: a segmenter of your own pictures: a class for every pixel, or outlines of objects."""

from onecard.tasks.base import PICTURE_PACKAGES, PlanPreset, Task, picture_commands

TASK = Task(
    name="segment",
    summary="a segmenter of your own pictures: a class for every pixel, or outlines of objects",
    commands=picture_commands(
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
    packages=("ultralytics", "segmentation-models-pytorch", "pycocotools", *PICTURE_PACKAGES),
)
