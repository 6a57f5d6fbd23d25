"""The detectors that are trained without ultralytics: names, first weights, sizes. Light."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Permissive:
    """One detector."""

    kind: Literal["d-fine", "rt-detr", "fcos"]
    license: str
    repo: str = ""
    """With weights trained on COCO."""
    backbone: str = ""
    """Of timm, with weights trained on ImageNet; empty for the one of its own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of transformers' config, where they differ from its defaults."""
    channels: int = 96
    """fcos: of the pyramid."""


HGNET_B0 = {
    "model_type": "hgnet_v2",
    "hidden_sizes": [128, 256, 512, 1024],
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1],
    "stage_numb_of_layers": [3, 3, 3, 3],
    "use_learnable_affine_block": True,
}
NANO = {
    "encoder_ffn_dim": 512,
    "d_model": 128,
    "encoder_hidden_dim": 128,
    "decoder_ffn_dim": 512,
    "depth_mult": 0.5,
    "decoder_layers": 3,
    "hidden_expansion": 0.34,
}
"""D-FINE's smallest size, as transformers' conversion script (get_d_fine_config) has it."""
MODELS: dict[str, Permissive] = {
    "d-fine-n": Permissive(
        "d-fine",
        "Apache-2.0",
        "ustc-community/dfine-nano-coco",
        options={
            **NANO,
            "backbone_config": {**HGNET_B0, "out_features": ["stage3", "stage4"]},
            "num_feature_levels": 2,
            "encode_proj_layers": [1],
            "encoder_in_channels": [512, 1024],
            "decoder_n_points": [6, 6],
            "decoder_in_channels": [128, 128],
            "feat_strides": [16, 32],
        },
    ),
    "d-fine-s": Permissive(
        "d-fine",
        "Apache-2.0",
        "ustc-community/dfine-small-coco",
        options={
            "backbone_config": {**HGNET_B0, "out_features": ["stage2", "stage3", "stage4"]},
            "decoder_layers": 3,
            "hidden_expansion": 0.5,
            "depth_mult": 0.34,
            "encoder_in_channels": [256, 512, 1024],
        },
    ),
    "d-fine-lite0": Permissive(
        "d-fine",
        "Apache-2.0",
        backbone="tf_efficientnet_lite0",
        options={
            **NANO,
            "encoder_in_channels": [40, 112, 320],
            "decoder_n_points": [3, 6, 3],
            "decoder_in_channels": [128, 128, 128],
        },
    ),
    "rt-detr-r18": Permissive(
        "rt-detr",
        "Apache-2.0",
        "PekingU/rtdetr_r18vd",
        options={
            "backbone_config": {
                "model_type": "rt_detr_resnet",
                "depths": [2, 2, 2, 2],
                "hidden_sizes": [64, 128, 256, 512],
                "layer_type": "basic",
                "out_features": ["stage2", "stage3", "stage4"],
            },
            "encoder_in_channels": [128, 256, 512],
            "hidden_expansion": 0.5,
            "decoder_layers": 3,
        },
    ),
    "rt-detr-r50": Permissive("rt-detr", "Apache-2.0", "PekingU/rtdetr_r50vd"),
    "fcos-lite0": Permissive("fcos", "BSD-3-Clause", backbone="tf_efficientnet_lite0"),
    "fcos-resnet18": Permissive("fcos", "BSD-3-Clause", backbone="resnet18"),
}
"""Name -> detector. d-fine-lite0 and fcos-lite0 start from weights that a Python package carries,
so that they learn from few pictures without a connection too."""
