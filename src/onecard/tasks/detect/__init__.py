"""detect: a detector of your own objects in pictures."""

from onecard.tasks.base import Command, PlanPreset, Task

READ = ("numpy", "opencv-python-headless", "pillow", "lxml")
USE = (*READ, "torch", "torchvision")
TRAIN = (*USE, "transformers", "pycocotools", "scipy", "albumentations")

TASK = Task(
    name="detect",
    summary="a detector of your own objects in pictures",
    commands={
        "check": Command(
            "check:check",
            "look at labelled pictures: counts, faults, duplicates, leaks, contact sheets",
            "configs:CheckConfig",
            "data",
            requires=READ,
        ),
        "train": Command(
            "train:train",
            "learn from pictures with boxes, scored before and after",
            "configs:TrainConfig",
            "data",
            requires=TRAIN,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score a trained model, or an export of it, on labelled pictures",
            "configs:EvaluateConfig",
            "data",
            requires=USE,
        ),
        "predict": Command(
            "predict:predict",
            "find objects in pictures, folders, videos or from a webcam",
            "configs:PredictConfig",
            "source",
            requires=(*USE, "av"),
        ),
        "prelabel": Command(
            "prelabel:prelabel",
            "write labels for unlabelled pictures to correct, least sure first",
            "configs:PrelabelConfig",
            "source",
            requires=(*USE, "av"),
        ),
        "export": Command(
            "export:export",
            "ONNX, int8, OpenVINO or TensorRT, each measured in its own precision",
            "configs:ExportConfig",
            "run_id",
            requires=(*USE, "onnx", "onnxruntime"),
        ),
        "serve": Command(
            "serve:serve",
            "answer over HTTP, with a small page",
            "configs:ServeConfig",
            "run_id",
            requires=(*USE, "python-multipart"),
            recorded=False,
        ),
    },
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
    packages=(
        "ultralytics",
        "torch",
        "torchvision",
        "transformers",
        "timm",
        "albumentations",
        "pycocotools",
        "opencv-python-headless",
        "pillow",
        "lxml",
        "onnx",
        "onnxruntime",
        "openvino",
        "av",
        "scipy",
        "python-multipart",
        "numpy",
    ),
)
