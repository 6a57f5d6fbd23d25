"""A vision model's ONNX file to a TensorRT engine. Needs an NVIDIA card, its driver and the package
tensorrt; an engine runs only on the card and version that it was built with."""

from pathlib import Path

from onecard import fsio
from onecard.errors import DataError, NotFound
from onecard.inference.picture_model import read_card
from onecard.inference.picture_sessions import ONNX, TENSORRT, cuda_engine

WORKSPACE_BYTES = 1 << 30


def to_tensorrt(folder: Path, *, half: bool = True, largest_batch: int = 16) -> Path:
    """Write folder/model.engine from folder/model.onnx for batches of 1 to `largest_batch`.

    Raises MissingExtra without tensorrt or torch, EngineError without a CUDA driver, NotFound
    without model.onnx, DataError for a graph that TensorRT does not take.
    """
    _, tensorrt = cuda_engine()
    source, path = folder / ONNX, folder / TENSORRT
    if not source.is_file():
        raise NotFound(
            f"{folder} holds no {ONNX}",
            why="TensorRT's engine is built from it",
            fix="export to onnx first",
        )
    card = read_card(folder)
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, tensorrt.Logger(tensorrt.Logger.ERROR))
    if not parser.parse(source.read_bytes()):
        faults = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise DataError(
            f"TensorRT does not take {source}",
            why="; ".join(faults)[:300] or "it names no reason",
            fix="use the form onnx",
        )
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if half and hasattr(tensorrt.BuilderFlag, "FP16"):
        settings.set_flag(tensorrt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    shapes = [(n, 3, card.height, card.width) for n in (1, min(4, largest_batch), largest_batch)]
    profile.set_shape(network.get_input(0).name, *shapes)
    settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise DataError(
            f"TensorRT builds no engine from {source}",
            why="its log names the layer",
            fix="use the form onnx",
        )
    with fsio.atomic_write(path) as draft:
        draft.write_bytes(bytes(engine))
    return path
