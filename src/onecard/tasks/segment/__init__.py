"""segment: a segmenter of your own pictures: a class for every pixel, or outlines of objects."""

from onecard.tasks.base import Command, PlanPreset, Task

READ = ("numpy", "opencv-python-headless", "pillow", "lxml")
USE = (*READ, "torch", "torchvision")
TRAIN = (*USE, "timm", "segmentation-models-pytorch", "pycocotools", "albumentations")

TASK = Task(
    name="segment",
    summary="a segmenter of your own pictures: a class for every pixel, or outlines of objects",
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
            "learn from pictures with masks or outlines, scored before and after",
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
            "tell the class of each pixel in pictures, folders, videos or from a webcam",
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
        "segment": PlanPreset(
            "a segmenter: U-Net, DeepLabV3, SegFormer, YOLO-seg",
            "configs:PlanTrainConfig",
            example="yolov8n-seg",
        ),
        "segment-predict": PlanPreset(
            "the same, answering only", "configs:PlanPredictConfig", example="yolov8n-seg"
        ),
    },
    packages=(
        "ultralytics",
        "torch",
        "torchvision",
        "timm",
        "segmentation-models-pytorch",
        "albumentations",
        "pycocotools",
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
