"""Character and byte-level BPE tokenizers in Hugging Face's form, which transformers and llama.cpp
can read. Knows no files.

A character of several bytes is one token too: merges that occur nowhere else join its bytes.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

END_OF_TEXT = "<|endoftext|>"
"""Stands between documents; the first token of every vocabulary."""
Encoder = Callable[[str], tuple[np.ndarray, int]]
"""A text to its token numbers, and how many characters have none."""


def byte_symbols() -> list[str]:
    """The character that stands for each byte 0..255 (GPT-2's table): printable ones for
    themselves, the rest from U+0100 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


# Making tokenizers


def char_tokenizer(characters: Iterable[str]) -> Tokenizer:
    """One token for each of these characters, in the order of their code points, after
    END_OF_TEXT."""
    symbols = byte_symbols()
    vocab, merges = {END_OF_TEXT: 0}, []
    for character in sorted(characters):
        prefix = ""
        for byte in character.encode("utf-8", "replace"):
            symbol = symbols[byte]
            vocab.setdefault(symbol, len(vocab))
            if prefix:
                if (prefix, symbol) not in merges:
                    merges.append((prefix, symbol))
                vocab.setdefault(prefix + symbol, len(vocab))
            prefix += symbol
    return _with_splitting(Tokenizer(BPE(vocab=vocab, merges=merges)), code=False)


def train_bpe(texts: Iterator[str], vocab_size: int, *, code: bool) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016); every text can be written with it."""
    tokenizer = _with_splitting(Tokenizer(BPE()), code=code)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(byte_symbols()),
            show_progress=False,
        ),
    )
    return tokenizer


def _with_splitting(tokenizer: Tokenizer, *, code: bool) -> Tokenizer:
    """Texts are split as GPT-2 splits them; for code each digit alone too, as in StarCoder. Runs of
    spaces become tokens of their own in both."""
    digits = [pre_tokenizers.Digits(individual_digits=True)] if code else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


# What a tokenizer is


def splits_digits(tokenizer: Tokenizer) -> bool:
    return "Digits" in _pre_tokenizers(json.loads(tokenizer.to_str()))


def _pre_tokenizers(values: dict[str, Any]) -> list[str]:
    """Types of the steps that split a text before merges."""
    outer = values.get("pre_tokenizer") or {}
    return [step.get("type", "") for step in outer.get("pretokenizers") or [outer]]


def incompatibility(tokenizer: Tokenizer) -> str:
    """Why llama.cpp would tokenize a text differently; empty for ours and for GPT-2's."""
    values = json.loads(tokenizer.to_str())
    if values["model"].get("type") != "BPE":
        return f"it is {values['model'].get('type')}, not byte-level BPE"
    steps = _pre_tokenizers(values)
    if steps not in (["ByteLevel"], ["Digits", "ByteLevel"]) or values.get("normalizer"):
        return f"it splits texts by {', '.join(steps)}, which is not GPT-2's or StarCoder's way"
    return "" if tokenizer.token_to_id(END_OF_TEXT) is not None else f"it has no {END_OF_TEXT}"


def char_vocabulary(tokenizer: Tokenizer) -> dict[str, int] | None:
    """character -> token, where each token is one character; else None.

    A vocabulary with all 256 bytes is a BPE, which writes every text, however few merges it has:
    some of these bytes occur in no character.
    """
    bytes_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    tokens = tokenizer.get_vocab()
    if tokens.keys() >= bytes_of.keys():
        return None
    vocabulary: dict[str, int] = {}
    for token, number in tokens.items():
        if token == END_OF_TEXT:
            continue
        if any(symbol not in bytes_of for symbol in token):
            return None
        try:
            text = bytes(bytes_of[symbol] for symbol in token).decode()
        except UnicodeDecodeError:
            continue  # a part of a character
        if len(text) > 1:
            return None
        vocabulary[text] = number
    return vocabulary


def chars_per_token(tokenizer: Tokenizer) -> np.ndarray:
    """(V): characters that begin in each token, so that the sum over any run of tokens is the
    length of its text. A byte 10xxxxxx continues a character and begins none."""
    bytes_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    counts = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, number in tokenizer.get_vocab().items():
        if token != END_OF_TEXT:
            counts[number] = sum(
                symbol not in bytes_of or bytes_of[symbol] & 0xC0 != 0x80 for symbol in token
            )
    return counts


# Encoding


def encoder(tokenizer: Tokenizer) -> Encoder:
    """Characters are looked up in a table, which is 50 times as fast as merging."""
    characters = char_vocabulary(tokenizer)
    if characters is None:
        return _bpe_encoder(tokenizer)
    return _char_encoder(characters, tokenizer.token_to_id(END_OF_TEXT))


def _bpe_encoder(tokenizer: Tokenizer) -> Encoder:
    def encode(text: str) -> tuple[np.ndarray, int]:
        parts = list(_split_lines(text))
        encodings = tokenizer.encode_batch_fast(parts, add_special_tokens=False)
        if not encodings:
            return np.empty(0, np.int64), 0
        return np.concatenate([np.asarray(e.ids, dtype=np.int64) for e in encodings]), 0

    return encode


def _char_encoder(characters: dict[str, int], end: int | None) -> Encoder:
    table = np.full(0x110000, -1, dtype=np.int32)
    for character, number in characters.items():
        table[ord(character)] = number

    def encode(text: str) -> tuple[np.ndarray, int]:
        rows, n_unknown = [], 0
        for i, document in enumerate(text.split(END_OF_TEXT)):
            code_points = np.frombuffer(document.encode("utf-32-le", "replace"), dtype=np.uint32)
            ids = table[code_points]
            n_unknown += int((ids < 0).sum())
            if i and end is not None:
                rows.append(np.array([end], np.int32))
            rows.append(ids[ids >= 0])
        return np.concatenate(rows), n_unknown

    return encode


def safe_split(text: str) -> int:
    """The last position before a single line break with a word right after it; the whole length
    where there is none. GPT-2's splitting makes such a break a token of its own, so that no token
    crosses the position."""
    at = len(text)
    while (at := text.rfind("\n", 0, at)) > 0:
        if at + 1 < len(text) and not text[at + 1].isspace():
            return at
    return len(text)


def _split_lines(text: str, size: int = 20_000) -> Iterator[str]:
    """The text in parts of about `size` characters, for the threads of the library."""
    while len(text) > size:
        at = safe_split(text[:size])
        yield text[:at]
        text = text[at:]
    if text:
        yield text
