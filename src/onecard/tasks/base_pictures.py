"""What the tasks on pictures say alike: their commands. Light."""

from onecard.tasks.base import Command

READ = ("numpy", "opencv-python-headless", "pillow", "lxml")
USE = (*READ, "torch", "torchvision")
TRAIN = (*USE, "timm", "albumentations")
PACKAGES = (*TRAIN, "onnx", "onnxruntime", "openvino", "av", "python-multipart")


def commands(trains: str, predicts: str, requires: tuple[str, ...] = ()) -> dict[str, Command]:
    """`trains`: what a training learns from; `predicts`: what the model tells of a picture;
    `requires`: distributions of a training beyond TRAIN."""
    return {
        "check": Command(
            "check:check",
            "look at labelled pictures: counts, faults, duplicates, leaks, contact sheets",
            "configs:CheckConfig",
            "data",
            requires=READ,
        ),
        "train": Command(
            "train:train",
            f"{trains}, scored before and after",
            "configs:TrainConfig",
            "data",
            requires=(*TRAIN, *requires),
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
            f"{predicts} in pictures, folders, videos or from a webcam",
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
    }
