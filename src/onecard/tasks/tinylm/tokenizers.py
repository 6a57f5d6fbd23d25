"""Characters or byte-level BPE, both as one Hugging Face tokenizer, so that transformers and
llama.cpp read what was trained with. Knows no files.

A character of several bytes is one token too: its bytes are joined by merges that stand nowhere
else.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

END = "<|endoftext|>"
"""Stands between documents; it is the first token of every vocabulary."""


def byte_letters() -> list[str]:
    """The letter that stands for each byte 0..255 (GPT-2's table): printable ones for themselves,
    the rest from U+0100 on."""
    plain = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def characters(letters: Iterable[str]) -> Tokenizer:
    """One token for each of these characters, in the order of their code points, behind the end
    mark."""
    table = byte_letters()
    vocab, merges = {END: 0}, []
    for letter in sorted(letters):
        seen = ""
        for byte in letter.encode("utf-8", "replace"):
            piece = table[byte]
            vocab.setdefault(piece, len(vocab))
            if seen:
                if (seen, piece) not in merges:
                    merges.append((seen, piece))
                vocab.setdefault(seen + piece, len(vocab))
            seen += piece
    return _dressed(Tokenizer(BPE(vocab=vocab, merges=merges)), code=False)


def learn(texts: Iterator[str], vocab_size: int, *, code: bool) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016) from texts; every text can be written with it."""
    tokenizer = _dressed(Tokenizer(BPE()), code=code)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=sorted(byte_letters()),
            show_progress=False,
        ),
    )
    return tokenizer


def _dressed(tokenizer: Tokenizer, *, code: bool) -> Tokenizer:
    """Cut as GPT-2 does; for code digits stand alone, as in StarCoder: indentation becomes tokens
    of its own in both."""
    cut = [pre_tokenizers.Digits(individual_digits=True)] if code else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def is_code(tokenizer: Tokenizer) -> bool:
    return "Digits" in _cutting(json.loads(tokenizer.to_str()))


def _cutting(held: dict[str, Any]) -> list[str]:
    """The kinds of steps by which a text is cut before merges."""
    before = held.get("pre_tokenizer") or {}
    return [part.get("type", "") for part in before.get("pretokenizers") or [before]]


def foreign(tokenizer: Tokenizer) -> str:
    """Why llama.cpp would cut a text otherwise than this tokenizer; empty for ours and for GPT-2's."""
    held = json.loads(tokenizer.to_str())
    if held["model"].get("type") != "BPE":
        return f"it is {held['model'].get('type')}, not byte-level BPE"
    parts = _cutting(held)
    if parts not in (["ByteLevel"], ["Digits", "ByteLevel"]) or held.get("normalizer"):
        return f"it cuts texts by {', '.join(parts)}, which is not GPT-2's or StarCoder's way"
    return "" if tokenizer.token_to_id(END) is not None else f"it has no {END}"


def alphabet(tokenizer: Tokenizer) -> dict[str, int] | None:
    """character -> token, where the vocabulary is one of characters; else None."""
    back = {letter: byte for byte, letter in enumerate(byte_letters())}
    made: dict[str, int] = {}
    for word, number in tokenizer.get_vocab().items():
        if word == END:
            continue
        if any(letter not in back for letter in word):
            return None
        try:
            text = bytes(back[letter] for letter in word).decode()
        except UnicodeDecodeError:
            continue  # a part of a character
        if len(text) > 1:
            return None
        made[text] = number
    return made


def encoder(tokenizer: Tokenizer) -> Callable[[str], tuple[np.ndarray, int]]:
    """A function from a text to its tokens and the number of characters it could not write.

    Characters are looked up at once: 50 times as fast as merging.
    """
    letters = alphabet(tokenizer)
    if letters is None:

        def merged(text: str) -> tuple[np.ndarray, int]:
            cuts = list(_lines(text))
            ids = [item.ids for item in tokenizer.encode_batch_fast(cuts, add_special_tokens=False)]
            return np.concatenate(
                [np.asarray(row, dtype=np.int64) for row in ids]
            ) if ids else np.empty(0, np.int64), 0

        return merged
    table = np.full(0x110000, -1, dtype=np.int32)
    for letter, number in letters.items():
        table[ord(letter)] = number
    end = tokenizer.token_to_id(END)

    def looked_up(text: str) -> tuple[np.ndarray, int]:
        rows, unknown = [], 0
        for i, part in enumerate(text.split(END)):
            ids = table[np.frombuffer(part.encode("utf-32-le", "replace"), dtype=np.uint32)]
            unknown += int((ids < 0).sum())
            rows += [np.array([end], np.int32)] if i else []
            rows.append(ids[ids >= 0])
        return np.concatenate(rows), unknown

    return looked_up


def safe_cut(text: str) -> int:
    """The last place before a line break that a word follows at once: GPT-2's cutting makes a token
    of that one break, so that no token crosses the place. The whole length where there is none."""
    at = len(text)
    while (at := text.rfind("\n", 0, at)) > 0:
        if at + 1 < len(text) and not text[at + 1].isspace():
            return at
    return len(text)


def _lines(text: str, size: int = 20_000) -> Iterator[str]:
    """The same text in parts of about `size` characters, for the threads of the library."""
    while len(text) > size:
        cut = safe_cut(text[:size])
        yield text[:cut]
        text = text[cut:]
    if text:
        yield text


def char_counts(tokenizer: Tokenizer) -> np.ndarray:
    """(V): characters that begin in each token, so that sums over any run of tokens are those of
    its text; a byte 10xxxxxx begins none."""
    back = {letter: byte for byte, letter in enumerate(byte_letters())}
    counts = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for word, number in tokenizer.get_vocab().items():
        if word != END:
            counts[number] = sum(
                letter not in back or back[letter] & 0xC0 != 0x80 for letter in word
            )
    return counts
