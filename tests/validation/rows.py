"""A table of published measurements: its rows as values, with the words in them read once. Knows no
formula and no row by name.

Columns: those of ../shared/truth/README.md.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onecard.errors import DataError, NotFound
from onecard.memory import formats
from onecard.units import GIB, MIB

UNITS = {"MiB": MIB, "GiB": GIB, "GB": 10**9, "MB": 10**6}
FORMATS = {
    "bf16": "bf16",
    "fp16": "fp16",
    "f16": "f16",
    "fp32": "fp32",
    "16bit": "bf16",
    "fp8": "fp8",
    "int8": "int8",
    "int4": "int4",
    "nf4": "nf4",
    "nf4-dq": "nf4-dq",
    "gptq-int4": "gptq-int4",
    "gptq-int8": "gptq-int8",
    "awq-int4": "awq-int4",
    "awq-4bit-32g": "awq-int4-32g",
    "awq-4bit-128g": "awq-int4",
    "gptq-4bit-32g-actorder": "gptq-int4-32g",
    "gptq-4bit-128g-actorder": "gptq-int4",
    "gptq-4bit-128g": "gptq-int4",
    "bnb nf4/fp4 4-bit": "nf4",
    "load_in_4bit nf4": "nf4",
    "8bit": "int8",
    "4bit": "nf4",
}


class Cannot(Exception):
    """A row that says too little to be planned, or of a model that is not known."""


@dataclass(frozen=True)
class Row:
    """One line of the file."""

    values: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return (self.values.get(name) or "").strip()

    @property
    def said(self) -> str:
        """All that is said in words, lower case."""
        return f"{self['other_config']};{self['attention']};{self['grad_ckpt']}".lower()

    @property
    def tier(self) -> str:
        return str((re.findall(r"tier=([abc])", self.said) or ["?"])[0]).upper()

    def number(self, name: str, default: int = 0) -> int:
        found = re.search(r"\d+", self[name].replace(",", ""))
        return int(found[0]) if found else default

    @property
    def measured_bytes(self) -> int:
        try:
            return round(float(self["measured_value"].replace(",", "")) * UNITS[self["unit"]])
        except (ValueError, KeyError):
            raise Cannot(
                f"the measurement '{self['measured_value']} {self['unit']}' is no size"
            ) from None


def read(path: Path) -> Iterator[Row]:
    """Raises NotFound, DataError."""
    if not path.is_file():
        raise NotFound(
            f"there is no file {path}", why="nothing lies at that path", fix="check the path"
        )
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                Row({k: v for k, v in row.items() if k and isinstance(v, str)})
                for row in csv.DictReader(file)
            ]
    except (csv.Error, UnicodeDecodeError) as fault:
        raise DataError(
            f"{path} is no CSV", why=str(fault), fix="save it as CSV in UTF-8"
        ) from None
    if not rows or "workload" not in rows[0].values:
        raise DataError(
            f"{path} has no rows to plan",
            why="its head line lacks 'workload'",
            fix="give a file with the columns of a truth table",
        )
    yield from rows


def format_of(name: str) -> str:
    """The weights' format as onecard names it. Raises Cannot."""
    bare = name.lower().removeprefix("gguf ").strip().replace("torchao", "").strip()
    if bare in FORMATS:
        return FORMATS[bare]
    if formats.known(bare):
        return bare
    if found := re.match(r"exl2-([\d.]+)b?$", bare):
        return f"exl2-{float(found[1])}"
    if found := re.match(r"(ud-)?(i?q\d_k?_?[a-z0-9]*)", bare):
        kind = (
            found[2].replace("_xl", "_m").replace("_l", "")
            if found[2] not in formats.MIXTURES
            else found[2]
        )
        if kind in formats.MIXTURES and not found[1]:
            return kind
    raise Cannot(
        f"the format '{name}' is not known" if name else "the row names no format of the weights"
    )
