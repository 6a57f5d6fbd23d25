"""Convert and quantize models of the store: `onecard models convert` and `quantize`."""

import re
from pathlib import Path

from onecard.errors import DataError
from onecard.export import gguf
from onecard.export import quantize as quantizer
from onecard.hub import download, names
from onecard.reporting import Reporter, Result
from onecard.runs.record import fingerprint
from onecard.units import size


def convert(name: str, out: str, outtype: str, reporter: Reporter) -> Result:
    """A folder of safetensors to one GGUF file.

    Raises NotFound, DataError with the converter's last lines.
    """
    path = download.pull(names.find(name), reporter)
    target = Path(out)
    if not out:
        target = names.model_dir(path.name) / f"{path.name}-{outtype.upper()}.gguf"
    gguf.to_gguf(path, target, outtype, reporter)
    data = {"path": str(target), "sha256": fingerprint(target)}
    return Result(data, f"wrote {target} ({size(target.stat().st_size)})")


def quantize(name: str, out: str, quant: str, reporter: Reporter) -> Result:
    """A GGUF file in fewer bits. Raises DataError, NotFound."""
    path = download.pull(names.find(name), reporter)
    if path.suffix != ".gguf" and path.is_dir():
        raise DataError(
            f"{name} is not a GGUF file",
            why="only GGUF files are quantized",
            fix=f"onecard models convert {name}",
        )
    stem = names.QUANT.sub("", path.stem).rstrip(".-_")
    target = Path(out) if out else names.model_dir(stem) / f"{stem}-{quant.upper()}.gguf"
    quantizer.quantize(path, target, quant, reporter)
    before, after = path.stat().st_size, target.stat().st_size
    data = {"path": str(target), "sha256": fingerprint(target), "bytes": after}
    text = f"wrote {target} ({size(before)} -> {size(after)})"
    narrow = names.QUANT.search(path.stem)
    if narrow and not re.fullmatch(r"b?f(16|32)", narrow[0].strip(".-_").lower()):
        text += (
            f"\nnote: {path.name} was quantized before: its error stays and a second is added; "
            "quantize from f16 for the best file"
        )
    return Result(data, text)
