"""RF-DETR's tape against transformers' class: parameters of every size, and the allocator's peak of
a training step with its loss, and of an answer, on the CPU."""

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
from allocator import peak_bytes  # noqa: E402

from onecard.memory.architectures import rfdetr  # noqa: E402
from onecard.memory.estimators import vision  # noqa: E402
from onecard.memory.simulator import Tape  # noqa: E402

BACKBONES = {
    size: {"patch_size": 16, "num_windows": 2, "out_indices": [3, 6, 9, 12]}
    for size in ("nano", "small", "medium", "large")
}
BACKBONES["base"] = {"patch_size": 14, "num_windows": 4, "out_indices": [2, 5, 8, 11]}
SIDES = {"nano": 384, "small": 512, "medium": 576, "large": 704, "base": 518}
"""What transformers' script of conversion sets; the side of the grid that places are learned for.
"""
LAYERS = {"nano": 2, "small": 3, "medium": 4, "large": 4, "base": 3}


def real(size):
    from transformers import RfDetrConfig, RfDetrForObjectDetection

    backbone = {
        "model_type": "rf_detr_dinov2",
        "num_attention_heads": 6,
        "hidden_size": 384,
        "image_size": SIDES[size],
        **BACKBONES[size],
    }
    return RfDetrForObjectDetection(
        RfDetrConfig(
            backbone_config=backbone,
            decoder_layers=LAYERS[size],
            decoder_n_points=2,
            dropout=0.0,
            num_labels=91,
        )
    ).train()


@pytest.mark.parametrize("size", rfdetr.SIZES)
def test_parameters(size):
    with torch.device("meta"):
        model = real(size)
    for t in (Tape(), Tape(grad=True)):
        rfdetr.rf_detr(t, t.tensor(1, 3, 112, 112), size, 91)
        assert t.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("size", "side", "boxes"),
    [("nano", 384, 4), ("nano", 384, 15), ("base", 280, 15), ("nano", 384, 60)],
)
def test_peak(size, side, boxes):
    model, images = real(size), torch.randn(1, 3, side, side)
    labels = [
        {"class_labels": torch.randint(0, 90, (boxes,)), "boxes": torch.rand(boxes, 4) * 0.3 + 0.3}
    ]
    step = vision.step(
        vision.find(f"rf-detr-{size}"),
        vision.Recipe(B=1, height=side, width=side, amp=False, device=False, boxes=boxes),
    )
    planned = next(term.bytes for term in step if term.name == "activations and gradients")
    assert planned == pytest.approx(
        peak_bytes(lambda: model(images, labels=labels).loss.backward()), rel=0.05
    )

    model.eval()
    answer = vision.answer(vision.find(f"rf-detr-{size}"), 1, side, side, wide=4.0)[-1].bytes
    with torch.inference_mode():
        assert answer == pytest.approx(peak_bytes(lambda: model(images)), rel=0.05)
