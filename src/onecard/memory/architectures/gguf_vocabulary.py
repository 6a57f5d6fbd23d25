"""Words of a GGUF file's vocabulary that steer a model, without reading the other ones.

Format: ggml/docs/gguf.md; the types of words are enum llama_token_type in llama.h.
"""

import mmap
import struct
from pathlib import Path

from onecard.errors import DataError
from onecard.memory.architectures.gguf import ARRAY, LENGTH, MAX_KEYS, SCALARS, STRING, Reader

WORDS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
CONTROL, USER_DEFINED = 3, 4
"""Both are cut out of a text before anything else, whoever wrote it."""
INT32 = 5


def steering_words(path: Path) -> tuple[str, ...]:
    """Control and user-defined tokens; none where the file has no types. Raises DataError."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _words(Reader(data, path))
    except (OSError, ValueError) as fault:  # mmap refuses an empty file with a ValueError
        raise DataError(
            f"{path} does not open as a model", why=str(fault), fix="download or convert it again"
        ) from None


def _words(reader: Reader) -> tuple[str, ...]:
    reader.at = LENGTH.size + LENGTH.size  # letters and version, number of tensors
    n_keys = min(reader.take("<Q"), MAX_KEYS)
    places: dict[str, int] = {}
    for _ in range(n_keys):
        name, kind = reader.string(), reader.take("<I")
        if kind == ARRAY:
            places[name] = reader.at
        reader.value(kind, keep=False)
        if WORDS in places and TYPES in places:
            break
    if WORDS not in places or TYPES not in places:
        return ()
    reader.at = places[TYPES]
    inner, count = reader.take("<I"), reader.take("<Q")
    if inner != INT32:
        return ()
    types = struct.unpack_from(f"<{count}{SCALARS[INT32][1:]}", reader.data, reader.at)
    reader.at = places[WORDS]
    inner, n_words = reader.take("<I"), reader.take("<Q")
    if inner != STRING:
        return ()
    words = []
    for kind in types[:n_words]:
        if kind in (CONTROL, USER_DEFINED):
            words.append(reader.string())
        else:
            reader.at += 8 + LENGTH.unpack_from(reader.data, reader.at)[0]
    return tuple(words)
