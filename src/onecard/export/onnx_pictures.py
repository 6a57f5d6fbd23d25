"""A vision network to ONNX: full or half precision, 8 bits, or with the suppression inside.

torch's TorchScript exporter writes the graph (opset 17). The newer one (`dynamo=True`) needs
onnxscript; on CNNs, timm's ViTs, transformers' RT-DETR and D-FINE and ultralytics' networks the
older one gives graphs with a free batch size whose outputs agree to 1e-5.
"""

import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from onecard import fsio
from onecard.errors import DataError, SettingsError
from onecard.inference.nms import LIMIT
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import CONFIDENCE, IOU, ONNX, ONNX_INT8, ONNX_NMS, Run

OPSET = 17
INPUT = "images"
CARD_KEY = "onecard"
TRACED_BATCH = 2
"""Not 1, which some networks write into the graph as a constant."""
QUANTIZED = ["Conv", "Gemm", "MatMul"]
"""The rest stays in full precision: a box coordinate of 600 and a score of .01 in one tensor have
no common scale."""


def output_names(card: ModelCard) -> list[str]:
    """As picture_model lists them.

    >>> output_names(ModelCard("detect", "x", ("a",), 64, 64))
    ['boxes', 'scores']
    """
    if card.instances:
        return ["boxes", "scores", "coefficients", "prototypes"]
    return {"detect": ["boxes", "scores"]}.get(card.task, ["probabilities"])


def to_onnx(module: torch.nn.Module, card: ModelCard, folder: Path, half: bool = False) -> Path:
    """Write folder/model.onnx, whole or not at all, with the card and the class names inside; the
    batch size is free. `half` computes in fp16, with inputs and outputs in fp32.

    Raises DataError for a network that cannot be traced or whose graph is broken.
    """
    path, modes = folder / ONNX, {part: part.training for part in module.modules()}
    weight = next(iter(module.parameters()), torch.zeros(1))
    shape = (TRACED_BATCH, 3, card.height, card.width)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(weight.device)
    names = output_names(card)
    with fsio.atomic_write(path) as draft:
        try:
            module.eval()
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is old, and of constants in the trace
                torch.onnx.export(
                    module,
                    (images,),
                    str(draft),
                    input_names=[INPUT],
                    output_names=names,
                    dynamic_axes={name: {0: "batch"} for name in [INPUT, *names]},
                    opset_version=OPSET,
                    dynamo=False,
                )
            model = onnx.load(draft)
            if half:
                model = _halved(model)
            _describe(model, card)
            onnx.checker.check_model(model)
            onnx.save(model, draft)
        except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError) as fault:
            raise DataError(
                f"{card.model} cannot be exported to ONNX",
                why=f"{type(fault).__name__}: {fault}"[:300],
                fix="use the form torch, or another network",
            ) from fault
        finally:
            for part, training in modes.items():  # a frozen part keeps its own
                part.training = training
    return path


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Arithmetic in fp16 between casts; the converter leaves the casts at the end of the graph."""
    half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    OnnxModel(half).topological_sort()  # in place
    return half


def _describe(model: onnx.ModelProto, card: ModelCard) -> None:
    helper.set_model_props(
        model,
        {
            CARD_KEY: json.dumps(asdict(card), ensure_ascii=False),
            "names": json.dumps(list(card.classes), ensure_ascii=False),
        },
    )
    model.producer_name = "onecard"
    model.doc_string = f"{card.task} {card.model}"


def read_onnx_card(path: Path) -> ModelCard:
    """The card inside an exported file. Raises DataError where there is none."""
    try:
        model = onnx.load(path, load_external_data=False)
        props = {prop.key: prop.value for prop in model.metadata_props}
        row = json.loads(props[CARD_KEY])
        return ModelCard(**{**row, "classes": tuple(row["classes"])})
    except Exception as fault:  # protobuf's classes differ by its build
        raise DataError(
            f"{path} was not exported by onecard",
            why=f"{type(fault).__name__}: {fault}"[:200],
            fix="export the model again",
        ) from None


def difference(one: Run, other: Run, images_BCHW: np.ndarray) -> float:
    """The largest absolute difference of two forms' outputs on a batch; inf where their shapes
    differ. Networks with queries may give equal ones in another order."""
    pairs = list(zip(one(images_BCHW), other(images_BCHW), strict=False))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max((float(np.abs(a - b).max(initial=0.0)) for a, b in pairs), default=0.0)


class _Batches:
    """onnxruntime's calibration reader."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)
        self.n = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        self.n += len(batch)
        return {INPUT: np.asarray(batch, dtype=np.float32)}


def quantize_int8(folder: Path, calibration: Iterable[np.ndarray]) -> Path:
    """Write folder/model_int8.onnx from folder/model.onnx: weights in 7 of 8 bits by channel,
    activations in 8 bits within the range that they take on the calibration's images_BCHW.

    Raises DataError without model.onnx, for one in half precision, or without images.
    """
    source, path = folder / ONNX, folder / ONNX_INT8
    card = read_onnx_card(source)
    reader = _Batches(calibration)
    with fsio.atomic_write(path) as draft, tempfile.TemporaryDirectory() as scratch:
        ready = Path(scratch) / "ready.onnx"
        try:
            quant_pre_process(source, ready, skip_symbolic_shape=True)
            graph = onnx.load(ready)
            if any(t.data_type == TensorProto.FLOAT16 for t in graph.graph.initializer):
                raise ValueError("its weights are in half precision")
            quantization.quantize_static(
                ready,
                draft,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                nodes_to_exclude=_exact_nodes(graph),
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                # 7 bits: without VNNI (before Zen 4 and Cascade Lake) sums of 8-bit products
                # saturate, and a file that was right on one machine would be wrong on another
                reduce_range=True,
            )
            model = onnx.load(draft)
            _describe(model, card)
            onnx.save(model, draft)
        except Exception as fault:  # from three libraries, with no class in common
            why = f"{type(fault).__name__}: {fault}"[:300]
            raise DataError(
                f"{source} cannot be brought to 8 bits",
                why=why if reader.n else f"no picture was read; {why}",
                fix="export it in full precision, and give pictures to calibrate with",
            ) from fault
    return path


def _exact_nodes(model: onnx.ModelProto) -> list[str]:
    """Convolutions with one output channel of a 1 x 1 kernel: in YOLO's head they weigh the bins
    0..15 of a distribution, which 8 bits would bend by up to 6 %."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and shapes.get(node.input[1], [0])[0] == 1
    ]


def with_nms(onnx_path: Path) -> Path:
    """Write model_nms.onnx beside a detector's model.onnx: it gives `detections` M x 7 of the whole
    batch (number in the batch, x0 y0 x1 y1 in pixels of the input, score, class), thinned out at
    the card's thresholds.

    Raises DataError for another file, SettingsError for a network that needs no suppression.
    """
    card = read_onnx_card(onnx_path)
    if not card.nms or card.instances:
        raise SettingsError(
            f"{card.model} takes no suppression in its graph",
            why="its outputs are masks, or each object is given once",
            fix="use model.onnx as it is",
        )
    model = onnx.load(onnx_path)
    nodes, constants = _suppression(card)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    del model.graph.output[:]
    rows = helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["found", 7])
    model.graph.output.append(rows)
    onnx.checker.check_model(model)
    path = onnx_path.with_name(ONNX_NMS)
    with fsio.atomic_write(path) as draft:
        onnx.save(model, draft)
    return path


def _suppression(card: ModelCard) -> tuple[list[Any], list[Any]]:
    """Nodes and constants from `boxes` and `scores` to `detections`."""

    def constant(name: str, values: Any, kind: int) -> Any:
        array = np.array(values)
        return helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())

    confidence = card.thresholds.get("confidence", CONFIDENCE)
    constants = [
        constant("nms_limit", [LIMIT], TensorProto.INT64),
        constant("nms_iou", [card.thresholds.get("iou", IOU)], TensorProto.FLOAT),
        constant("nms_confidence", [confidence], TensorProto.FLOAT),
        constant("nms_0", [0], TensorProto.INT64),
        constant("nms_1", [1], TensorProto.INT64),
        constant("nms_0_2", [0, 2], TensorProto.INT64),
        constant("nms_column", [-1, 1], TensorProto.INT64),
    ]
    limits = ["nms_limit", "nms_iou", "nms_confidence"]
    to_float = {"to": TensorProto.FLOAT}
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Transpose", ["scores"], "nms_scores", {"perm": [0, 2, 1]}),
        ("NonMaxSuppression", ["boxes", "nms_scores", *limits], "nms_kept", {}),
        ("Gather", ["nms_kept", "nms_0_2"], "nms_places", {"axis": 1}),
        ("GatherND", ["boxes", "nms_places"], "nms_boxes", {}),
        ("GatherND", ["nms_scores", "nms_kept"], "nms_flat", {}),
        ("Reshape", ["nms_flat", "nms_column"], "nms_sure", {}),
        ("Gather", ["nms_kept", "nms_0"], "nms_batch", {"axis": 1}),
        ("Cast", ["nms_batch"], "nms_batch_f", to_float),
        ("Gather", ["nms_kept", "nms_1"], "nms_class", {"axis": 1}),
        ("Cast", ["nms_class"], "nms_class_f", to_float),
    ]
    nodes = [
        helper.make_node(kind, inputs, [output], name=output, **settings)
        for kind, inputs, output, settings in steps
    ]
    parts = ["nms_batch_f", "nms_boxes", "nms_sure", "nms_class_f"]
    nodes.append(helper.make_node("Concat", parts, ["detections"], name="detections", axis=1))
    return nodes, constants
