"""The truth check of the tapes: the real classes of ultralytics, torchvision, diffusers and
transformers on fake tensors, one pass forward and back, every storage counted.

Heavy: imports torch; each family's library only when it is asked for. Knows no formula.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from onecard import ultralytics_env
from onecard.errors import DataError
from onecard.memory.architectures.whisper import Whisper
from onecard.memory.estimators import speech, vision
from onecard.memory.fake_tensor import Counter
from onecard.memory.simulator import Tape, Tensor

NOTE = "one pass forward and back of the real class in fp32, weights not counted"
"""What `check` traces."""


def passed_bytes(build: Callable[[], Any], call: Callable[[Any], Any], *, grad: bool = True) -> int:
    """Peak bytes of one pass beyond the weights that lie there before."""
    with torch.device("meta"):  # initializers look at values, which fakes have not
        net = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        give_storage(net)
        net.train(grad)
        counter = Counter()
        for tensor in [*net.parameters(), *net.buffers()]:
            counter.see(tensor)
        before = counter.now
        counter.peak = before
        with counter, torch.set_grad_enabled(grad):
            out = call(net)
            if grad:
                loss = sum(part.sum() for part in _tensors(out) if part.requires_grad)
                del out
                loss.backward()  # type: ignore[union-attr]
        return counter.peak - before


def give_storage(net: Any) -> None:
    """Each weight once, however many modules hold it."""
    parameters: dict[int, torch.nn.Parameter] = {}
    for module in net.modules():
        for key, value in list(module._parameters.items()):
            if value is not None:
                module._parameters[key] = parameters.setdefault(
                    id(value),
                    torch.nn.Parameter(
                        torch.empty(value.shape, dtype=value.dtype),
                        requires_grad=value.requires_grad,
                    ),
                )
        for key, value in list(module._buffers.items()):
            if value is not None:
                module._buffers[key] = torch.empty(value.shape, dtype=value.dtype)


def _tensors(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        return [tensor for part in outputs.values() for tensor in _tensors(part)]
    if isinstance(outputs, list | tuple):
        return [tensor for part in outputs for tensor in _tensors(part)]
    return []


def detector(name: str, B: int, height: int, width: int) -> int:
    """ultralytics' class by its yaml: yolov8n, yolo11s, yolov8n-seg."""
    ultralytics_env.quiet()
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    model_class = SegmentationModel if name.endswith("-seg") else DetectionModel
    with torch.device("cpu"):  # it measures its strides by a pass
        real = model_class(f"{name}.yaml", verbose=False)
    return passed_bytes(lambda: real, lambda net: net(torch.empty(B, 3, height, width)))


def classifier(name: str, B: int, height: int, width: int) -> int:
    """torchvision's class: resnet50, vit-base, convnext-tiny. Raises DataError for another."""
    import torchvision.models as models

    builder = {"vit-base": "vit_b_16", "vit-large": "vit_l_16", "vit-huge": "vit_h_14"}.get(
        name, name.replace("-", "_")
    )
    if not hasattr(models, builder):
        raise DataError(
            f"torchvision has no {name}",
            why="a trace runs its real class",
            fix="plan it without --trace",
        )
    return passed_bytes(
        lambda: getattr(models, builder)(weights=None),
        lambda net: net(torch.empty(B, 3, height, width)),
    )


def segmenter(name: str, B: int, height: int, width: int) -> int:
    """torchvision's DeepLabV3; ultralytics' for a YOLO. Raises DataError for another."""
    if name.startswith("yolo"):
        return detector(name, B, height, width)
    if not name.startswith("deeplabv3"):
        raise DataError(
            f"{name} has no class here",
            why="a trace runs a library's real class",
            fix="plan it without --trace",
        )
    import torchvision.models.segmentation as models

    return passed_bytes(
        lambda: getattr(models, name.replace("-r", "_resnet"))(
            weights=None, weights_backbone=None, num_classes=21
        ),
        lambda net: net(torch.empty(B, 3, height, width)),
    )


def whisper(w: Whisper, B: int, T: int) -> int:
    """transformers' WhisperForConditionalGeneration, all weights trained, with its loss."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=w.V,
        d_model=w.D,
        encoder_layers=w.encoder,
        decoder_layers=w.decoder,
        encoder_attention_heads=w.H,
        decoder_attention_heads=w.H,
        encoder_ffn_dim=4 * w.D,
        decoder_ffn_dim=4 * w.D,
        num_mel_bins=w.mels,
        use_cache=False,
    )  # attention is sdpa by itself
    return passed_bytes(
        lambda: WhisperForConditionalGeneration(config),
        lambda net: (
            net(torch.empty(B, w.mels, 3000), labels=torch.ones(B, T, dtype=torch.long)).loss
        ),
    )


def check(tracer: str, config: Any) -> tuple[int, int]:
    """(traced, counted by the simulator): peak bytes of one pass forward and back in fp32 without
    the trainer's loss, weights not counted.

    `tracer`: detect, segment, classify or speech. Raises DataError for what has no real
    class here.
    """
    if tracer == "speech":
        return check_speech(config)
    height, width = config.height or config.imgsz, config.imgsz
    real = {"detect": detector, "segment": segmenter, "classify": classifier}[tracer]
    net = vision.find(config.model, config.num_classes)
    if tracer == "detect" and not net.name.startswith(("yolov8", "yolo11")):
        raise DataError(
            f"{config.model} has no class here",
            why="a trace runs a library's real class: ultralytics' yolov8 and yolo11",
            fix="plan it without --trace",
        )
    return real(net.name, config.batch, height, width), passed(
        lambda t: net.run(t, t.tensor(config.batch, 3, height, width))
    )


def check_speech(config: Any) -> tuple[int, int]:
    """The same for Whisper, all weights trained, with its loss."""
    w = speech.find(config.model)[1]
    batch = getattr(config, "per_device_train_batch_size", 0) or config.batch_size
    return check_whisper(w, batch, speech.TOKENS)


def check_whisper(w: Whisper, batch: int, tokens: int) -> tuple[int, int]:
    """(traced, simulated) for texts of so many tokens."""
    recipe = speech.Training("full", batch, tokens, amp=False, optimizer="sgd", foreach=False)
    return whisper(w, batch, tokens), speech.train(w, recipe, device=False)[-1].bytes


def passed(run: Callable[[Tape], list[Tensor]]) -> int:
    """What the tape counts for the same pass."""
    t = Tape(grad=True, device=False)
    out = run(t)
    loss = t.op((1,), out)
    del out
    t.backward(loss)
    return t.peak
