"""A GGUF file's header: shapes, types and sizes of its tensors, without reading a weight. Knows the
format, not the models.

Format: ggml/docs/gguf.md (version 2 and 3, little endian). Every count is checked against the file
before it is believed,
so a hostile header costs bounded time and memory.
"""

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.errors import DataError

MAX_KEYS, MAX_TENSORS, MAX_DIMS, MAX_STRING, MAX_ARRAY = 4096, 65536, 4, 1 << 24, 1 << 22
MAX_KEPT = 4096
"""Values of one list that are kept: one a layer. Longer lists (vocabularies, importance) are kept
as their length."""
MAX_TEXTS = 1 << 21
"""Texts in all lists of a header: the largest vocabularies hold 0.3 million words and as many
merges."""
REPACKED = ("q4_0", "q4_k", "q2_k", "iq4_nl")
SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
BLOCKS = {  # ggml type -> (name, values a block, bytes a block), from ggml.c's type traits
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 36),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
}


FILE_TYPES = {  # general.file_type, enum llama_ftype in llama.h
    **{0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k"},
    **{11: "q3_k_s", 12: "q3_k_m", 13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s"},
    **{17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k_s", 22: "iq3_xs"},
    **{23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m", 28: "iq2_s"},
    **{29: "iq2_m", 30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4"},
}


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int


@dataclass(frozen=True)
class Header:
    """What the file says of itself; arrays of the vocabulary are kept as their length only."""

    keys: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    data_bytes: int

    @property
    def architecture(self) -> str:
        return str(self.keys.get("general.architecture", ""))

    @property
    def has_chat_template(self) -> bool:
        return "tokenizer.chat_template" in self.keys

    def number(self, name: str, default: int = 0) -> int:
        """`<architecture>.<name>` as a count; the largest where the key is a list, one value a
        layer; the default for what is no count."""
        values = self.each(name)
        return max(values, default=default)

    def each(self, name: str) -> list[int]:
        """`<architecture>.<name>` as counts, one a layer or a single one; empty without the key.

        Raises ValueError for negative, broken or absurd ones.
        """
        value = self.keys.get(f"{self.architecture}.{name}")
        if value is None or isinstance(value, str):
            return []
        return [_count(one, name) for one in (value if isinstance(value, list) else [value])]

    @property
    def type(self) -> str:
        """The mixture's name by the file's own words, else the type that most bytes have."""
        file_type = self.keys.get("general.file_type")
        if isinstance(file_type, int) and file_type in FILE_TYPES:
            return FILE_TYPES[file_type]
        weights: dict[str, int] = {}
        for tensor in self.tensors:
            weights[tensor.type] = weights.get(tensor.type, 0) + tensor.bytes
        return max(weights, key=lambda name: weights[name], default="")

    @property
    def repacked_bytes(self) -> int:
        """Bytes of the matrices that llama.cpp on a CPU lays out anew beside the file's (ggml's
        CPU_REPACK buffer: these types, rows in eights, not the table)."""
        return sum(
            t.bytes
            for t in self.tensors
            if t.type in REPACKED
            and len(t.shape) == 2
            and t.shape[1] % 8 == 0
            and t.name.startswith("blk.")
        )

    def layer_bytes(self) -> list[int]:
        """Bytes of the tensors of each block, in order."""
        sizes: dict[int, int] = {}
        for tensor in self.tensors:
            parts = tensor.name.split(".")
            if parts[0] == "blk" and len(parts) > 1 and parts[1].isdigit():
                sizes[int(parts[1])] = sizes.get(int(parts[1]), 0) + tensor.bytes
        return [sizes[i] for i in sorted(sizes)]


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int | float) or value != value or not 0 <= value <= 1 << 32:
        raise ValueError(f"{name} is {value!r}, which is no count")
    return int(value)


def read_header(path: Path) -> Header:
    """Raises DataError for a file that is no GGUF, is cut short or lies about its sizes."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return Reader(data, path).header()
    except (OSError, ValueError) as fault:  # mmap refuses an empty file with a ValueError
        raise DataError(
            f"{path} does not open as a model", why=str(fault), fix="download or convert it again"
        ) from None


SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def shard_names(name: str, header: "Header") -> list[str]:
    """Names of all parts of a file that was split; the file alone for a whole one."""
    match = SHARD.search(name)
    count = header.keys.get("split.count", 1)
    if not match or not isinstance(count, int) or not 1 < count <= 1000:
        return [name]
    return [f"{name[: match.start()]}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]


def joined(headers: "list[Header]") -> "Header":
    """One header of all parts: the first one's keys, everyone's tensors."""
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return Header(headers[0].keys, tensors, sum(header.data_bytes for header in headers))


def read_model(path: Path) -> "Header":
    """The header of a file with all its parts. Raises DataError for one that is missing."""
    first = read_header(path)
    names = shard_names(path.name, first)
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        raise DataError(
            f"{path.name} is one of {len(names)} parts",
            why=f"{', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} not beside it",
            fix="download all parts into one folder",
        )
    if len(names) == 1:
        return first
    return joined([read_header(path.with_name(name)) for name in names])


MOST_BYTES = 1 << 27
"""Of a header that is fetched from far away."""


class NeedsMore(Exception):
    """The header goes on after what was fetched."""


class Reader:
    """`whole`: the file's size where only its beginning is at hand."""

    def __init__(self, data: mmap.mmap | bytes, path: Path | str, whole: int = 0) -> None:
        self.data, self.path, self.at, self.end, self.here = (
            data,
            path,
            0,
            whole or len(data),
            len(data),
        )
        self.texts = 0

    def fail(self, why: str) -> DataError:
        return DataError(
            f"{self.path} is not a whole GGUF file", why=why, fix="download or convert it again"
        )

    def need(self, size: int) -> None:
        if self.at + size > self.end:
            raise self.fail(f"it ends at byte {self.end}, inside its header")
        if self.at + size > self.here:
            raise NeedsMore

    def take(self, form: str) -> Any:
        size = struct.calcsize(form)
        self.need(size)
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return value

    def string(self) -> str:
        size = self.take("<Q")
        if size > MAX_STRING or self.at + size > self.end:
            raise self.fail(f"a text of {size} bytes at byte {self.at} reaches past its end")
        self.need(size)
        self.at += size
        return bytes(self.data[self.at - size : self.at]).decode("utf-8", "replace")

    def value(self, kind: int, keep: bool) -> Any:
        if kind in SCALARS:
            return self.take(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise self.fail(f"value type {kind} at byte {self.at} is unknown")
        inner, count = self.take("<I"), self.take("<Q")
        if count > MAX_ARRAY or inner not in (STRING, *SCALARS):
            raise self.fail(f"a list of {count} values of type {inner} at byte {self.at}")
        if inner == STRING:
            return self.skip_texts(count)
        size = struct.calcsize(SCALARS[inner])
        self.need(count * size)
        start, self.at = self.at, self.at + count * size
        if not keep or count > MAX_KEPT:
            return count
        form = f"<{count}{SCALARS[inner][1:]}"
        return list(struct.unpack_from(form, self.data, start))

    def skip_texts(self, count: int) -> int:
        """Passes over a list of texts; its length."""
        self.texts += count
        if self.texts > MAX_TEXTS:
            raise self.fail(f"it holds more than {MAX_TEXTS} texts")
        read, data, at, here = LENGTH.unpack_from, self.data, self.at, self.here
        for _ in range(count):
            if at + 8 > here:
                break
            at += 8 + read(data, at)[0]
        else:
            self.at = at
            self.need(0)
            return count
        self.at = at
        self.need(8)
        return count

    def header(self) -> Header:
        if self.end < 24 or self.data[:4] != b"GGUF":
            raise self.fail("it does not begin with the letters GGUF")
        self.at = 4
        version = self.take("<I")
        if version not in (2, 3):
            raise self.fail(f"format version {version} is unknown (2 and 3 are)")
        n_tensors, n_keys = self.take("<Q"), self.take("<Q")
        if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
            raise self.fail(f"it claims {n_tensors} tensors and {n_keys} keys")
        keys: dict[str, Any] = {}
        for _ in range(n_keys):
            name, kind = self.string(), self.take("<I")
            keys[name] = self.value(kind, keep=not name.startswith("tokenizer."))
        infos = [self.tensor() for _ in range(n_tensors)]
        align = keys.get("general.alignment", 32)
        if not isinstance(align, int) or not 0 < align <= 1 << 16:
            raise self.fail(f"an alignment of {align}")
        start = -(-self.at // align) * align
        for tensor, offset in infos:
            if offset > self.end or start + offset + tensor.bytes > self.end:
                raise self.fail(
                    f"tensor {tensor.name} ends at byte {start + offset + tensor.bytes}, the file "
                    f"at {self.end}"
                )
        return Header(keys, tuple(t for t, _ in infos), sum(t.bytes for t, _ in infos))

    def tensor(self) -> tuple[Tensor, int]:
        name, n_dims = self.string(), self.take("<I")
        if n_dims > MAX_DIMS:
            raise self.fail(f"tensor {name[:60]} has {n_dims} dimensions")
        shape = tuple(self.take("<Q") for _ in range(n_dims)) or (1,)
        kind, offset = self.take("<I"), self.take("<Q")
        if kind not in BLOCKS:
            raise self.fail(f"tensor {name[:60]} has the unknown type {kind}")
        label, values, block_bytes = BLOCKS[kind]
        count = 1
        for extent in shape:
            count *= extent
        size = count // values * block_bytes
        if size > self.end:
            raise self.fail(f"tensor {name[:60]} claims {size} bytes")
        return Tensor(name, shape, label, size), offset
