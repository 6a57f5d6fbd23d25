"""D-FINE's tape against transformers' class: parameters of every size, and the allocator's peak of
a forward and a backward pass on the CPU."""

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
from allocator import peak_bytes  # noqa: E402

from onecard.memory.architectures import dfine  # noqa: E402
from onecard.memory.simulator import Tape  # noqa: E402

BACKBONES = {
    "b0": {
        "hidden_sizes": [128, 256, 512, 1024],
        "stem_channels": [3, 16, 16],
        "stage_in_channels": [16, 64, 256, 512],
        "stage_mid_channels": [16, 32, 64, 128],
        "stage_out_channels": [64, 256, 512, 1024],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_numb_of_layers": [3, 3, 3, 3],
    },
    "b2": {
        "hidden_sizes": [192, 384, 768, 1536],
        "stem_channels": [3, 24, 32],
        "stage_in_channels": [32, 96, 384, 768],
        "stage_mid_channels": [32, 64, 128, 256],
        "stage_out_channels": [96, 384, 768, 1536],
        "stage_num_blocks": [1, 1, 3, 1],
        "stage_numb_of_layers": [4, 4, 4, 4],
    },
    "b4": {},
    "b5": {
        "stem_channels": [3, 32, 64],
        "stage_in_channels": [64, 128, 512, 1024],
        "stage_mid_channels": [64, 128, 256, 512],
        "stage_num_blocks": [1, 2, 5, 2],
    },
}
SIZES = {
    "n": (
        "b0",
        {
            "num_feature_levels": 2,
            "encoder_ffn_dim": 512,
            "encode_proj_layers": [1],
            "d_model": 128,
            "encoder_hidden_dim": 128,
            "decoder_ffn_dim": 512,
            "encoder_in_channels": [512, 1024],
            "decoder_n_points": [6, 6],
            "decoder_in_channels": [128, 128],
            "feat_strides": [16, 32],
            "depth_mult": 0.5,
            "decoder_layers": 3,
            "hidden_expansion": 0.34,
        },
    ),
    "s": (
        "b0",
        {
            "decoder_layers": 3,
            "hidden_expansion": 0.5,
            "depth_mult": 0.34,
            "encoder_in_channels": [256, 512, 1024],
        },
    ),
    "m": ("b2", {"decoder_layers": 4, "depth_mult": 0.67, "encoder_in_channels": [384, 768, 1536]}),
    "l": ("b4", {}),
    "x": (
        "b5",
        {
            "encoder_hidden_dim": 384,
            "encoder_ffn_dim": 2048,
            "decoder_in_channels": [384, 384, 384],
        },
    ),
}
"""What transformers' script of conversion sets (get_d_fine_config)."""


def real(size, **more):
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    name, given = SIZES[size]
    backbone = HGNetV2Config(
        **BACKBONES[name],
        out_indices=[3, 4] if size == "n" else [2, 3, 4],
        use_learnable_affine_block=name in ("b0", "b2"),
    )
    return DFineForObjectDetection(
        DFineConfig(
            backbone_config=backbone,
            num_labels=80,
            freeze_backbone_batch_norms=False,
            **{"decoder_n_points": [3, 6, 3], **given, **more},
        )
    ).train()


@pytest.mark.parametrize("size", dfine.SIZES)
def test_parameters(size):
    with torch.device("meta"):
        model = real(size)
    t = Tape()
    dfine.d_fine(t, t.tensor(1, 3, 64, 64), size, 80)
    assert t.params == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.005)


@pytest.mark.parametrize("size", ["n", "s"])
def test_peak(size):
    model, images = real(size, num_denoising=0), torch.randn(2, 3, 320, 320)

    def step():
        made = model(images)
        sum(
            part.sum()
            for part in (
                made.intermediate_logits,
                made.intermediate_reference_points,
                made.intermediate_predicted_corners,
                made.enc_topk_logits,
                made.enc_topk_bboxes,
            )
        ).backward()

    t = Tape(grad=True, device=False)
    maps = dfine.d_fine(t, t.tensor(2, 3, 320, 320), size, 80)
    t.backward(t.op((1,), maps))
    assert t.peak == pytest.approx(peak_bytes(step), rel=0.05) and t.params == pytest.approx(
        sum(p.numel() for p in model.parameters()), rel=0.005
    )
