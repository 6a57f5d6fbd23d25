"""A GGUF file to fewer bits, tensor by tensor, with the quantizers of the embedded llama.cpp. Knows
no model store.

Which tensor gets which type follows llama.cpp's mixtures (src/llama-quant.cpp): in an M mixture the
value projections and half of the down projections are kept two steps finer, the output head at
Q6_K, vectors in fp32. Rows whose width is no multiple of 256 cannot take a K type and get the
legacy type of the next size.
"""

import ctypes
import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from onecard import fsio
from onecard.errors import DataError, not_found
from onecard.memory.architectures.gguf import read_header
from onecard.reporting import Reporter

Type = gguf.GGMLQuantizationType
MIXTURES = {  # name -> (file type in llama.h, type of most tensors, type of the finer ones)
    "f16": (1, Type.F16, Type.F16),
    "q4_0": (2, Type.Q4_0, Type.Q4_0),
    "q8_0": (7, Type.Q8_0, Type.Q8_0),
    "q2_k": (10, Type.Q2_K, Type.Q4_K),
    "q3_k_m": (12, Type.Q3_K, Type.Q5_K),
    "q4_k_s": (14, Type.Q4_K, Type.Q5_K),
    "q4_k_m": (15, Type.Q4_K, Type.Q6_K),
    "q5_k_m": (17, Type.Q5_K, Type.Q6_K),
    "q6_k": (18, Type.Q6_K, Type.Q6_K),
}
LEGACY = {  # K type -> what a row takes whose width is no multiple of 256
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}
FLOATS: dict[Type, Any] = {Type.F32: np.float32, Type.F16: np.float16}
OUTER = ("output.weight", "token_embd.weight")


def quantize(source: Path, target: Path, quant: str, reporter: Reporter) -> None:
    """Write `target` whole or not at all.

    Raises NotFound for an unknown quantization, DataError for a broken file, or where source and
    target are one file.
    """
    if quant not in MIXTURES:
        raise not_found("quantization", quant, MIXTURES)
    read_header(source)  # refuses a malicious header before the library reads it
    if source.resolve() == target.resolve():
        raise DataError(
            f"{target} would be written over itself",
            why="source and target are one file",
            fix="--out another.gguf",
        )
    reader = gguf.GGUFReader(source)
    with fsio.atomic_write(target) as draft:
        writer = gguf.GGUFWriter(draft, str(reader.fields["general.architecture"].contents()))
        _copy_keys(reader, writer, MIXTURES[quant][0])
        types = [_type_of(tensor, quant, _n_layers(reader)) for tensor in reader.tensors]
        for tensor, kind in zip(reader.tensors, types, strict=True):
            shape = [int(n) for n in reversed(tensor.shape)]
            dtype: np.dtype[Any] = np.dtype(FLOATS.get(kind, np.uint8))
            if kind not in FLOATS:
                shape = list(gguf.quant_shape_to_byte_shape(shape, kind))
            n_bytes = int(np.prod(shape)) * dtype.itemsize
            writer.add_tensor_info(tensor.name, shape, dtype, n_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with reporter.progress(f"to {quant}", len(types)) as bar:
            for tensor, kind in zip(reader.tensors, types, strict=True):
                writer.write_tensor_data(_convert(tensor, kind))
                bar.step(note=tensor.name)
        writer.close()


def _n_layers(reader: gguf.GGUFReader) -> int:
    names = {
        tensor.name.split(".")[1] for tensor in reader.tensors if tensor.name.startswith("blk.")
    }
    return len(names)


def _type_of(tensor: gguf.ReaderTensor, quant: str, n_layers: int) -> Type:
    if len(tensor.shape) < 2 or not tensor.name.endswith("weight") or "_norm" in tensor.name:
        return Type.F32
    _, kind, finer = MIXTURES[quant]
    if tensor.name in OUTER and quant not in ("f16", "q4_0", "q8_0"):
        kind = Type.Q6_K
    elif ".attn_v." in tensor.name or ".ffn_down." in tensor.name:
        layer = int(tensor.name.split(".")[1])
        # llama.cpp's use_more_bits: the first and last eighth of the layers, and each third between
        first, last = n_layers // 8, 7 * n_layers // 8
        if layer < first or layer >= last or (layer - first) % 3 == 2:
            kind = finer
    return LEGACY.get(kind, kind) if int(tensor.shape[0]) % 256 else kind


def _copy_keys(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, file_type: int) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in (
            "general.architecture",
            "general.file_type",
            "general.quantization_version",
        ):
            continue
        writer.add_key_value(
            field.name,
            field.contents(),
            field.types[0],
            field.types[-1] if len(field.types) > 1 else None,
        )
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _convert(tensor: gguf.ReaderTensor, kind: Type) -> np.ndarray:
    if tensor.tensor_type == kind:
        return np.asarray(tensor.data)
    values = np.ascontiguousarray(
        gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32
    )
    if kind in FLOATS:
        return values.astype(FLOATS[kind])
    return _quantize_rows(values, kind)


def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "quantizing needs the embedded engine",
            why="its library is not installed",
            fix="pip install xllamacpp",
        )
    library = ctypes.CDLL(str(next(Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library


def _quantize_rows(values: np.ndarray, kind: Type) -> np.ndarray:
    """fp32 (..., width) to bytes (..., bytes of a row), a share of the rows on each core."""
    width = values.shape[-1]
    rows = values.reshape(-1, width)
    out = np.empty((len(rows), gguf.quant_shape_to_byte_shape([width], kind)[0]), dtype=np.uint8)
    library = _library()
    library.ggml_quantize_init(int(kind))
    cores = os.cpu_count() or 1
    bounds = np.linspace(0, len(rows), cores + 1).astype(int)

    def quantize_share(core: int) -> None:
        start, stop = int(bounds[core]), int(bounds[core + 1])
        if stop > start:
            library.ggml_quantize_chunk(
                int(kind),
                rows[start:].ctypes.data,
                out[start:].ctypes.data,
                0,
                stop - start,
                width,
                None,
            )

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(quantize_share, range(cores)))
    return out.reshape(*values.shape[:-1], -1)
