"""Runs a vision model's files without torch, and turns its numbers into objects and classes.

A session is called with images_BCHW and gives the arrays that picture_model describes.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from onecard.datasets.images.records import Detection
from onecard.errors import DataError, EngineError, MissingExtra, NotFound
from onecard.inference.nms import CANDIDATES, LIMIT, candidates, instance_outlines, nms
from onecard.inference.picture_io import Placement, prepare
from onecard.inference.picture_model import ModelCard

Run = Callable[[np.ndarray], tuple[np.ndarray, ...]]
ONNX, ONNX_INT8, ONNX_NMS = "model.onnx", "model_int8.onnx", "model_nms.onnx"
OPENVINO = "model_openvino"
TENSORRT = "model.engine"
NMS_COLUMNS = 7
"""Of with_nms's detections: number in the batch, x0 y0 x1 y1, score, class."""
CONFIDENCE, IOU = 0.25, 0.7
"""Where the card names no threshold."""


def _file(folder: Path, name: str, form: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise NotFound(
            f"{folder} holds no {name}",
            why=f"the model was not exported to {form}",
            fix=f"export it: --formats {form}",
        )
    return path


class OnnxSession:
    """model.onnx on the CPU, or on `providers`; `n_threads` 0 takes all cores.

    Raises NotFound without the file, DataError for a broken one.
    """

    def __init__(
        self,
        folder: Path,
        card: ModelCard,
        *,
        name: str = ONNX,
        n_threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        path = _file(folder, name, "onnx-int8" if name == ONNX_INT8 else "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # waiting threads burn the cores that decode the next pictures
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # from bytes: a file of weights that the graph names elsewhere is then never opened
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=list(providers)
            )
        except Exception as fault:  # onnxruntime has a class of its own for each failure
            raise DataError(
                f"{path} is no ONNX model that runs here",
                why=f"{type(fault).__name__}: {fault}"[:300],
                fix="export the model again",
            ) from None
        self.card = card
        self._input = self._session.get_inputs()[0].name

    def run(self, images_BCHW: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return tuple(self._session.run(None, {self._input: images_BCHW}))
        except Exception as fault:  # as above
            raise EngineError(
                "onnxruntime stopped",
                why=f"{type(fault).__name__}: {fault}"[:300],
                fix="use a smaller --batch, or export the model again",
            ) from None


class OpenVinoSession:
    """model_openvino/model.xml on an Intel CPU, or on `device`; `n_threads` 0 takes all cores.

    Raises MissingExtra without openvino, NotFound without the file, DataError for a broken one.
    """

    def __init__(
        self, folder: Path, card: ModelCard, *, n_threads: int = 0, device: str = "CPU"
    ) -> None:
        try:
            import openvino  # an optional engine
        except ImportError:
            raise missing("openvino") from None
        path = _file(folder / OPENVINO, "model.xml", "openvino")
        core = openvino.Core()
        # fp32 arithmetic where the processor would choose bf16: the same boxes everywhere
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"} if device == "CPU" else {}
        if n_threads:
            settings["INFERENCE_NUM_THREADS"] = n_threads
        try:
            self._model = core.compile_model(core.read_model(path), device, settings)
        except RuntimeError as fault:
            raise DataError(
                f"{path} is no OpenVINO model that runs here",
                why=str(fault)[:300],
                fix="export the model again",
            ) from None
        self.card = card

    def run(self, images_BCHW: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            outputs = self._model([images_BCHW])
        except RuntimeError as fault:
            raise EngineError(
                "OpenVINO stopped", why=str(fault)[:300], fix="export the model again"
            ) from None
        return tuple(np.array(outputs[i]) for i in range(len(self._model.outputs)))


class TensorRtSession:
    """model.engine on the CUDA device that it was built on.

    Raises MissingExtra without tensorrt or torch, EngineError without a CUDA driver, NotFound
    without the file, DataError for an engine of another version or card.
    """

    def __init__(self, folder: Path, card: ModelCard) -> None:
        self._torch, tensorrt = cuda_engine()
        path = _file(folder, TENSORRT, "tensorrt")
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise DataError(
                f"{path} does not run here",
                why="a TensorRT engine fits only the version and card that it was built with",
                fix="export it on this machine: --formats tensorrt",
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [
            name
            for name in names
            if self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        ]
        self._input, self._outputs = inputs[0], [name for name in names if name not in inputs]
        self.card = card

    def run(self, images_BCHW: np.ndarray) -> tuple[np.ndarray, ...]:
        torch = self._torch
        images = torch.from_numpy(np.ascontiguousarray(images_BCHW)).cuda()
        self._context.set_input_shape(self._input, images_BCHW.shape)
        self._context.set_tensor_address(self._input, images.data_ptr())
        results = []
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            results.append(torch.empty(shape, dtype=torch.float32, device="cuda"))
            self._context.set_tensor_address(name, results[-1].data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise EngineError(
                "TensorRT stopped",
                why=f"it did not run a batch of {len(images_BCHW)}",
                fix="use a smaller --batch: an engine has a largest one",
            )
        stream.synchronize()
        return tuple(result.cpu().numpy() for result in results)


def missing(package: str) -> MissingExtra:
    """The refusal of a form whose engine is not installed."""
    return MissingExtra(
        f"{package} is not installed",
        why=f"this form of the model runs in {package}",
        fix=f"pip install {package}, or use the form onnx",
    )


def cuda_engine() -> tuple[Any, Any]:
    """(torch, tensorrt). Raises MissingExtra without them, EngineError without a CUDA driver."""
    try:
        import tensorrt  # optional, and 4 GB
    except ImportError:
        raise missing("tensorrt") from None
    try:
        import torch  # its buffers hold what goes in and out
    except ImportError:
        raise missing("torch") from None
    if not torch.cuda.is_available():
        raise EngineError(
            "TensorRT finds no NVIDIA card",
            why="there is no CUDA driver, or it shows no device",
            fix="run it on a machine with one, or use the form onnx or openvino",
        )
    return torch, tensorrt


class TorchSession:
    """A network of the contract, in torch on `device`."""

    def __init__(self, module: Any, *, device: str = "cpu") -> None:
        import torch  # the other forms run without it

        self._torch, self._device = torch, device
        self._module = module.to(device).eval()

    def run(self, images_BCHW: np.ndarray) -> tuple[np.ndarray, ...]:
        with self._torch.inference_mode():
            images = self._torch.from_numpy(np.ascontiguousarray(images_BCHW)).to(self._device)
            outputs = self._module(images)
        if not isinstance(outputs, tuple | list):
            outputs = (outputs,)
        return tuple(output.float().cpu().numpy() for output in outputs)


class Predictor:
    """What a network finds in pictures, the same for torch and every exported file.

    `confidence` and `iou` take the place of the card's thresholds; `limit` objects a picture.
    """

    def __init__(
        self,
        card: ModelCard,
        run: Run,
        *,
        batch: int = 8,
        confidence: float | None = None,
        iou: float | None = None,
        limit: int = LIMIT,
    ) -> None:
        self.card, self._run, self._batch, self._limit = card, run, max(1, batch), limit
        chosen = card.thresholds.get("confidence", CONFIDENCE)
        self.confidence = chosen if confidence is None else confidence
        self.iou = card.thresholds.get("iou", IOU) if iou is None else iou

    def _outputs(
        self, pictures: Sequence[np.ndarray]
    ) -> Iterator[tuple[tuple[np.ndarray, ...], Placement]]:
        """The outputs of each picture and its placement, batch by batch."""
        for start in range(0, len(pictures), self._batch):
            inputs = [prepare(rgb, self.card) for rgb in pictures[start : start + self._batch]]
            arrays = self._run(np.stack([image for image, _ in inputs]))
            for i, (_, placement) in enumerate(inputs):
                if arrays[0].ndim == 2 and arrays[0].shape[1] == NMS_COLUMNS and self.card.nms:
                    rows = arrays[0]  # of the whole batch: with_nms's form
                    yield (rows[rows[:, 0] == i],), placement
                else:
                    yield tuple(array[i] for array in arrays), placement

    def classify(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """probabilities_NC."""
        rows = [outputs[0] for outputs, _ in self._outputs(pictures)]
        if not rows:
            return np.zeros((0, len(self.card.classes)), dtype=np.float32)
        return np.stack(rows)

    def detect(self, pictures: Sequence[np.ndarray]) -> list[list[Detection]]:
        """The objects of each picture, the surest first; with outlines where the network gives
        instances."""
        return [self._objects(outputs, where) for outputs, where in self._outputs(pictures)]

    def segment(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray] | list[list[Detection]]:
        """The likeliest class of each pixel, classes_HW, at each picture's size; for a network of
        instances the objects."""
        if self.card.instances:
            return self.detect(pictures)
        return [where.classes_to_picture(outputs[0]) for outputs, where in self._outputs(pictures)]

    def maps(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(classes_HW, probability_HW) of each picture: the likeliest class of each pixel and how
        sure it is."""
        return [
            (where.classes_to_picture(outputs[0]), where.map_to_picture(outputs[0].max(0)))
            for outputs, where in self._outputs(pictures)
        ]

    def _objects(self, outputs: tuple[np.ndarray, ...], where: Placement) -> list[Detection]:
        if len(outputs) == 1:  # thinned out in the graph, as one column of scores
            (table,) = outputs
            boxes_N4, flat, classes = table[:, 1:5], table[:, 5], table[:, 6].astype(int)
            scores_NC = np.full((len(table), len(self.card.classes)), -1.0, dtype=np.float32)
            scores_NC[np.arange(len(table)), classes] = flat
        else:
            boxes_N4, scores_NC = outputs[:2]
        at_once = CANDIDATES if self.card.nms else self._limit
        rows, labels, scores = candidates(scores_NC, self.confidence, at_once)
        finite = np.isfinite(boxes_N4[rows]).all(1)
        rows, labels, scores = rows[finite], labels[finite], scores[finite]
        if self.card.nms:
            kept = nms(boxes_N4[rows], scores, labels, self.iou, self._limit)
            rows, labels, scores = rows[kept], labels[kept], scores[kept]
        boxes = where.to_picture(boxes_N4[rows])
        objects = []
        for row, label, score, box in zip(rows, labels, scores, boxes, strict=True):
            if box[2] <= box[0] or box[3] <= box[1]:
                continue  # it lies in the padding
            polygons: tuple[tuple[float, ...], ...] = ()
            if self.card.instances:
                polygons = instance_outlines(outputs[2][row], outputs[3], box, where)
            sure = float(min(max(score, 0.0), 1.0))
            x0, y0, x1, y1 = (float(v) for v in box)
            objects.append(Detection(int(label), sure, x0, y0, x1, y1, polygons))
        return objects
