"""classify: a classifier of your own pictures."""

from onecard.tasks.base import Command, PlanPreset, Task

READ = ("numpy", "opencv-python-headless", "pillow", "lxml")
USE = (*READ, "torch", "torchvision")
TRAIN = (*USE, "timm", "albumentations")

TASK = Task(
    name="classify",
    summary="a classifier of your own pictures",
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
            "learn from pictures with a class each, scored before and after",
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
            "tell the class in pictures, folders, videos or from a webcam",
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
        "classify": PlanPreset(
            "a classifier: ResNet, ViT, ConvNeXt, EfficientNet",
            "configs:PlanTrainConfig",
            example="resnet50",
        ),
        "classify-predict": PlanPreset(
            "the same, answering only", "configs:PlanPredictConfig", example="resnet50"
        ),
    },
    packages=(
        "torch",
        "torchvision",
        "timm",
        "albumentations",
        "opencv-python-headless",
        "pillow",
        "lxml",
        "onnx",
        "onnxruntime",
        "openvino",
        "av",
        "python-multipart",
        "numpy",
    ),
)
