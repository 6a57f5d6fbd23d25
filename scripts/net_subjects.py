"""Which networks scripts/net_facts.py records, and how their classes are built."""

from collections.abc import Iterator
from typing import Any

from net_facts import Subject

PIXELS = (224, 320, 448)
YOLO = (320, 448, 640)


def ultralytics() -> Iterator[Subject]:
    from ultralytics.nn import tasks

    classes = {
        "": ("detect", tasks.DetectionModel),
        "-seg": ("segment", tasks.SegmentationModel),
        "-pose": ("detect", tasks.PoseModel),
        "-obb": ("detect", tasks.OBBModel),
        "-cls": ("classify", tasks.ClassificationModel),
    }
    every = ("", "-seg", "-pose", "-obb", "-cls")
    wanted = [(f"yolov8{s}-cls", "-cls") for s in "nsmlx"]
    wanted += [(f"yolo11{s}-cls", "-cls") for s in "nsmlx"]
    wanted += [(f"yolo{v}{s}{k}", k) for v in ("26", "12") for s in "nsmlx" for k in every]
    wanted += [(f"yolov9{s}", "") for s in "tsmce"] + [(f"yolov9{s}-seg", "-seg") for s in "ce"]
    wanted += [(f"yolov10{s}", "") for s in "nsmblx"]
    for name, kind in wanted:
        task, model_class = classes[kind]

        def build(name: str = name, model_class: Any = model_class) -> Any:
            import torch

            with torch.device("cpu"):
                return model_class(f"{name}.yaml", verbose=False).to("meta")

        # yolo26-cls: yolo26n-cls and v26 are spoken alike
        twice = 2 if name.startswith(("yolov10", "yolo26")) and kind != "-cls" else 1
        classes_of = {"-cls": 1000, "-pose": 1, "-obb": 80}.get(kind, 80)
        extra: dict[str, Any] = {"classes": classes_of}
        if task != "classify":
            bins = 4 if name.startswith("yolo26") else 64
            beside = {"-seg": 32, "-pose": 51, "-obb": 1}.get(kind, 0)
            extra |= {"match": "aligned", "heads": twice, "maps": bins + beside, "ema": True}
        yield Subject(
            (name,), task, build, PIXELS if task == "classify" else YOLO, "ultralytics", extra=extra
        )


TIMM = {
    "dinov2-s": "vit_small_patch14_dinov2",
    "dinov2-b": "vit_base_patch14_dinov2",
    "dinov2-l": "vit_large_patch14_dinov2",
    "dinov2-g": "vit_giant_patch14_dinov2",
    "dinov3-s": "vit_small_patch16_dinov3",
    "dinov3-s-plus": "vit_small_plus_patch16_dinov3",
    "dinov3-b": "vit_base_patch16_dinov3",
    "dinov3-l": "vit_large_patch16_dinov3",
    "dinov3-h-plus": "vit_huge_plus_patch16_dinov3",
    "dinov3-7b": "vit_7b_patch16_dinov3",
    **{f"efficientnet-b{i}": f"efficientnet_b{i}" for i in range(8)},
    **{f"efficientnet-lite{i}": f"efficientnet_lite{i}" for i in range(5)},
    **{f"efficientnetv2-{s}": f"efficientnetv2_{s}" for s in ("s", "m", "l", "xl")},
    **{
        f"convnextv2-{s}": f"convnextv2_{s}"
        for s in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
    },
    **{f"swin-{s}": f"swin_{s}_patch4_window7_224" for s in ("tiny", "small", "base", "large")},
    **{f"swinv2-{s}": f"swinv2_{s}_window8_256" for s in ("tiny", "small", "base")},
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv3-small": "mobilenetv3_small_100",
    "mobilenetv3-large": "mobilenetv3_large_100",
    "mobilenetv4-small": "mobilenetv4_conv_small",
    "mobilenetv4-medium": "mobilenetv4_conv_medium",
    "mobilenetv4-large": "mobilenetv4_conv_large",
    "densenet121": "densenet121",
    "resnext50-32x4d": "resnext50_32x4d",
    "deit-tiny": "deit_tiny_patch16_224",
    "deit-small": "deit_small_patch16_224",
    "deit-base": "deit_base_patch16_224",
    "siglip-so400m": "vit_so400m_patch14_siglip_224",
}


def timm_classifiers() -> Iterator[Subject]:
    import timm

    for name, model in TIMM.items():
        fixed = "swin" in name
        free = {"dynamic_img_size": True} if model.startswith(("vit", "deit")) else {}
        sides = PIXELS
        if "patch14" in model:
            sides = (224, 336, 448)
        if fixed:
            sides = (256, 256, 256) if "v2" in name else (224, 224, 224)

        def build(model: str = model, free: dict[str, Any] = free) -> Any:
            return timm.create_model(model, pretrained=False, num_classes=1000, **free)

        extra = {"classes": 1000, "scales": True} if fixed else {"classes": 1000}
        yield Subject((name,), "classify", build, sides, f"timm {model}", extra=extra)


SEGFORMER = {  # MixVision transformers' published depths and widths
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}
SWIN = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}


def segmenters() -> Iterator[Subject]:
    import transformers as tf

    for size, (depths, widths, decoder) in SEGFORMER.items():
        config = tf.SegformerConfig(
            depths=list(depths),
            hidden_sizes=list(widths),
            decoder_hidden_size=decoder,
            num_labels=150,
        )
        yield Subject(
            (f"segformer-{size}",),
            "segment",
            lambda config=config: tf.SegformerForSemanticSegmentation(config),
            (256, 384, 512),
            "transformers SegformerForSemanticSegmentation",
            lambda net, x: net(pixel_values=x).logits,
            {"classes": 150},
        )
    for size, (width, depths, heads, window) in SWIN.items():
        backbone = tf.SwinConfig(
            embed_dim=width,
            depths=list(depths),
            num_heads=list(heads),
            window_size=window,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
        config = tf.Mask2FormerConfig(backbone_config=backbone, num_labels=80)
        yield Subject(
            (f"mask2former-swin-{size}",),
            "segment",
            lambda config=config: tf.Mask2FormerForUniversalSegmentation(config),
            (384, 384, 384),
            "transformers Mask2FormerForUniversalSegmentation",
            lambda net, x: net(pixel_values=x).masks_queries_logits,
            {"classes": 80, "scales": True},
        )
    for size, (width, layers, heads, looks) in {
        "b": (768, 12, 12, [2, 5, 8, 11]),
        "l": (1024, 24, 16, [5, 11, 17, 23]),
        "h": (1280, 32, 16, [7, 15, 23, 31]),
    }.items():
        vision = tf.SamVisionConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            global_attn_indexes=looks,
            mlp_dim=4 * width,
        )
        config = tf.SamConfig(vision_config=vision)
        yield Subject(
            (f"sam-vit-{size}",),
            "segment",
            lambda config=config: tf.SamModel(config),
            (1024, 1024, 1024),
            "transformers SamModel",
            _sam,
            {"classes": 1},
        )


def _sam(net: Any, x: Any) -> Any:
    import torch

    return net(pixel_values=x, input_points=torch.zeros(x.shape[0], 1, 1, 2)).pred_masks


def torchvision_segmenters() -> Iterator[Subject]:
    import torchvision.models.segmentation as models

    for name in (
        "deeplabv3_mobilenet_v3_large",
        "fcn_resnet50",
        "fcn_resnet101",
        "lraspp_mobilenet_v3_large",
    ):

        def build(name: str = name) -> Any:
            return getattr(models, name)(weights=None, weights_backbone=None, num_classes=21)

        plain = name.replace("_v3", "v3").replace("_", "-")
        yield Subject(
            (plain,),
            "segment",
            build,
            (256, 384, 512),
            f"torchvision {name}",
            lambda net, x: net(x)["out"],
            {"classes": 21},
        )


class _Finite:
    def all(self) -> bool:
        return True


def _finite(net: Any, x: Any) -> Any:
    """transformers asks whether values are finite and shapes fit, which fakes cannot tell."""
    from unittest.mock import patch

    with (
        patch("torch.isfinite", lambda values: _Finite()),
        patch("torch._check_tensor_all_with", lambda *words: None),
    ):
        return net(x)


SEGMENT_ARCHITECTURES = ("unet", "unetplusplus", "fpn", "deeplabv3plus")
SEGMENT_ENCODERS = ("lite0", "mobilenetv2", "resnet18", "resnet34", "resnet50", "efficientnet-b0")


def onecard_detectors() -> Iterator[Subject]:
    """The detectors of `onecard detect train` that have a backbone of timm."""
    from onecard.reporting import Reporter
    from onecard.tasks.detect import networks, permissive

    for name, facts in permissive.MODELS.items():
        if not facts.backbone:
            continue

        def build(name: str = name) -> Any:
            # built for another size: its places are then made in every pass, whatever its size
            return networks.build(name, 80, 64, 64, pretrained=False, reporter=Reporter())

        dense = {"match": "optimal", "maps": 5}
        extra = dense if facts.kind == "fcos" else {"match": "queries"}
        extra |= {"classes": 80, "ema": True}
        source = f"onecard.tasks.detect {name}"
        yield Subject((name,), "detect", build, (320, 448, 640), source, _finite, extra)


def onecard_segmenters() -> Iterator[Subject]:
    """segmentation-models-pytorch over encoders of timm, as `onecard segment train` builds them."""
    from onecard.reporting import Reporter
    from onecard.tasks.segment import model

    for architecture in SEGMENT_ARCHITECTURES:
        for encoder in SEGMENT_ENCODERS:
            name = f"{architecture}-{encoder}"

            def build(name: str = name) -> Any:
                return model.create(name, 21, pretrained=False, reporter=Reporter())

            extra = {"classes": 21, "ema": True}
            source = f"segmentation-models-pytorch {name}"
            yield Subject((name,), "segment", build, (256, 384, 512), source, extra=extra)


def subjects() -> Iterator[Subject]:
    yield from onecard_detectors()
    yield from onecard_segmenters()
    yield from ultralytics()
    yield from timm_classifiers()
    yield from segmenters()
    yield from torchvision_segmenters()
