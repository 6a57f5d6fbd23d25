"""A document's blocks to passages of a size that an embedder reads well.

Knows blocks, no files and no index.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onecard.datasets.blocks import Block

SMALL = 40
"""Blocks under this many tokens join a neighbour: alone they say too little to be found."""
SLACK = 1.25
"""A section that is longer than the limit by less than this is kept whole: better than a stump
behind it."""


@dataclass(frozen=True)
class Passage:
    text: str
    line: int
    last_line: int
    page: int
    heading: tuple[str, ...]


def estimate_tokens(text: str) -> int:
    """XLM-R tokens, estimated: 0.7 for each CJK character, one for 3.6 others (measured on the
    README and on DRCD).

    >>> estimate_tokens("a" * 36), estimate_tokens("北京" * 10)
    (10, 14)
    """
    cjk = (
        sum("\u3040" <= letter <= "\u9fff" or "\uac00" <= letter <= "\ud7af" for letter in text)
        if not text.isascii()
        else 0
    )
    return round(cjk * 0.7 + (len(text) - cjk) / 3.6)


def passages(blocks: Sequence[Block], limit: int, overlap: int) -> list[Passage]:
    """Neighbouring blocks are joined up to `limit` tokens, long ones are cut; pages are never
    joined."""
    out: list[Passage] = []
    held: list[Block] = []
    size = 0
    for block in (piece for whole in blocks for piece in _cut(whole, limit, overlap)):
        tokens = estimate_tokens(block.text)
        if held and not _join(held, size, block, tokens, limit):
            out.append(_passage(held))
            held, size = [], 0
        held.append(block)
        size += tokens
    return [*out, _passage(held)] if held else out


def _join(held: list[Block], size: int, block: Block, tokens: int, limit: int) -> bool:
    if size + tokens > limit or block.page != held[-1].page:
        return False
    return block.heading == held[-1].heading or size < SMALL or tokens < SMALL


def _passage(held: list[Block]) -> Passage:
    """Where a later block stands under another heading, its own name goes in front of it."""
    parts = []
    for i, block in enumerate(held):
        new = i and block.heading != held[i - 1].heading and block.heading
        parts.append(f"{block.heading[-1]}\n{block.text}" if new else block.text)
    return Passage(
        "\n\n".join(parts), held[0].line, held[-1].last_line, held[0].page, held[0].heading
    )


def _cut(block: Block, limit: int, overlap: int) -> Iterator[Block]:
    """A block that is too long, in parts that end with a line or a sentence and share `overlap`
    tokens."""
    if estimate_tokens(block.text) <= limit * SLACK:
        yield block
        return
    lines: list[tuple[int, str]] = []
    for i, line in enumerate(block.text.split("\n")):
        number = min(block.line + i, block.last_line)
        lines += [(number, piece) for piece in _sentences(line, limit)]
    held: list[tuple[int, str]] = []
    size = 0
    for number, piece in lines:
        tokens = estimate_tokens(piece) + 1
        if held and size + tokens > limit:
            yield replace(block, text=_joined(held), line=held[0][0], last_line=held[-1][0])
            held = _tail(held, overlap)
            size = sum(estimate_tokens(text) + 1 for _, text in held)
        held.append((number, piece))
        size += tokens
    if held:
        yield replace(block, text=_joined(held), line=held[0][0], last_line=held[-1][0])


def _tail(held: list[tuple[int, str]], overlap: int) -> list[tuple[int, str]]:
    kept: list[tuple[int, str]] = []
    for number, piece in reversed(held[1:]):
        overlap -= estimate_tokens(piece) + 1
        if overlap < 0:
            break
        kept.insert(0, (number, piece))
    return kept


def _joined(held: list[tuple[int, str]]) -> str:
    """Sentences of one line go back together; lines stay lines."""
    out, last = "", held[0][0]
    for number, piece in held:
        out += piece if not out or number == last else "\n" + piece
        last = number
    return out


def _sentences(line: str, limit: int) -> list[str]:
    """A line that fits stays whole; else it is cut after sentences, and a sentence of no end by
    length."""
    if estimate_tokens(line) <= limit // 2:
        return [line]
    pieces = re.findall(r".+?(?:[.!?]+\s+|[。！？；]+|$)", line)
    return [part for piece in pieces for part in _by_length(piece, limit * 2)]


def _by_length(piece: str, step: int) -> Iterator[str]:
    """Parts of at most `step` characters, cut behind a space where there is one."""
    while len(piece) > step:
        at = piece.rfind(" ", step // 2, step) + 1 or step
        yield piece[:at]
        piece = piece[at:]
    yield piece
