"""A vision model's ONNX file to OpenVINO, for Intel processors and graphics."""

import json
from dataclasses import asdict
from pathlib import Path

from onecard import fsio
from onecard.errors import DataError, NotFound
from onecard.inference.picture_model import read_card
from onecard.inference.picture_sessions import ONNX, OPENVINO, missing


def to_openvino(folder: Path, *, half: bool = True) -> Path:
    """Write folder/model_openvino/model.xml and .bin from folder/model.onnx; `half` stores the
    weights in fp16, arithmetic stays what the processor prefers.

    `Core.read_model` reads what `openvino.convert_model` would convert, without the latter's
    telemetry. Raises MissingExtra without openvino, NotFound without model.onnx, DataError for one
    that OpenVINO does not take.
    """
    try:
        import openvino  # an optional engine
    except ImportError:
        raise missing("openvino") from None
    source = folder / ONNX
    if not source.is_file():
        raise NotFound(
            f"{folder} holds no {ONNX}",
            why="OpenVINO's form is made from it",
            fix="export to onnx first",
        )
    card = read_card(folder)
    target = folder / OPENVINO
    with fsio.atomic_folder(target) as draft:
        try:
            model = openvino.Core().read_model(source)
            model.set_rt_info(json.dumps(asdict(card), ensure_ascii=False), "onecard")
            openvino.save_model(model, draft / "model.xml", compress_to_fp16=half)
        except RuntimeError as fault:
            raise DataError(
                f"OpenVINO does not take {source}",
                why=str(fault)[:300],
                fix="use the form onnx",
            ) from None
    return target / "model.xml"
