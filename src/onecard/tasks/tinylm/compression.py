"""What general compressors reach on the held-out text, beside the model's bits a character. Knows
no model.

Each begins with nothing and reads the held-out text alone, as the model reads each block of it.
"""

import bz2
import lzma
import zlib
from typing import Any

import numpy as np

from onecard.tasks.tinylm import tokenization
from onecard.tasks.tinylm.tokenization import END_OF_TEXT
from onecard.units import size

MAX_TOKENS = 4_000_000
"""Of the held-out text, read from its beginning: xz takes a second for a million characters."""
CHUNK_TOKENS = 1 << 18
GZIP_FORMAT = 31
"""zlib's number for a gzip file with the largest window."""


def compress(tokens: np.ndarray, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Compressor -> its bytes and bits a character, and the characters they hold, on the text of
    these tokens; END_OF_TEXT is one byte."""
    bytes_of = token_bytes(tokenizer)
    chars_of = tokenization.chars_per_token(tokenizer)
    compressors: dict[str, Any] = {
        "gzip": zlib.compressobj(9, zlib.DEFLATED, GZIP_FORMAT),
        "bz2": bz2.BZ2Compressor(9),
        "xz": lzma.LZMACompressor(preset=9),
    }
    n_bytes = dict.fromkeys(compressors, 0)
    n_chars = 0
    tokens = tokens[:MAX_TOKENS]
    for start in range(0, len(tokens), CHUNK_TOKENS):
        part = tokens[start : start + CHUNK_TOKENS].astype(np.int64)
        n_chars += int(chars_of[part].sum())
        text = b"".join([bytes_of[i] for i in part.tolist()])
        for name, compressor in compressors.items():
            n_bytes[name] += len(compressor.compress(text))
    for name, compressor in compressors.items():
        n_bytes[name] += len(compressor.flush())
    return {
        name: {"bytes": n, "chars": n_chars, "bits_per_char": 8 * n / max(n_chars, 1)}
        for name, n in n_bytes.items()
    }


def token_bytes(tokenizer: Any) -> list[bytes]:
    """The UTF-8 bytes of each token."""
    byte_of = {symbol: byte for byte, symbol in enumerate(tokenization.byte_symbols())}
    table = [b""] * tokenizer.get_vocab_size()
    for token, number in tokenizer.get_vocab().items():
        if token == END_OF_TEXT:
            table[number] = b"\0"
        elif all(symbol in byte_of for symbol in token):
            table[number] = bytes(byte_of[symbol] for symbol in token)
        else:  # of a tokenizer of another kind
            table[number] = token.encode()
    return table


def render(rows: dict[str, dict[str, float]]) -> str:
    cells = [
        f"{name} {row['bits_per_char']:.4g} ({size(int(row['bytes']))})"
        for name, row in rows.items()
    ]
    n_chars = next(iter(rows.values()))["chars"]
    return (
        f"compressors on {n_chars:,} characters of the held-out text alone, in bits a character: "
        f"{', '.join(cells)}"
    )
