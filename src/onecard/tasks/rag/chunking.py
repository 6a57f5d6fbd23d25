"""Chunking: the blocks of a document to passages of a size that an embedder reads well."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onecard.datasets.blocks import Block

SMALL_TOKENS = 40
"""A block with fewer tokens joins its neighbour: alone it says too little to be found."""
HEADING_MARK = "## "
SLACK = 1.25
"""A block of up to this many times the limit is not cut: a cut would leave a stump."""
# one mark and the spaces after it: a run of dots or spaces is read once
SENTENCE_END = re.compile(r"[.!?]\s+|[。！？；]+")


@dataclass(frozen=True)
class Passage:
    text: str
    line: int
    last_line: int
    page: int
    heading: tuple[str, ...]


def estimate_tokens(text: str) -> int:
    """XLM-R tokens, estimated: 0.7 for a CJK character, one for 3.6 others.

    Measured on the README and on DRCD.

    >>> estimate_tokens("a" * 36), estimate_tokens("北京" * 10)
    (10, 14)
    """
    cjk = 0
    if not text.isascii():
        cjk = sum("\u3040" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7af" for char in text)
    return round(cjk * 0.7 + (len(text) - cjk) / 3.6)


def chunk_blocks(blocks: Sequence[Block], limit: int, overlap: int) -> list[Passage]:
    """Passages of at most about `limit` tokens; the parts of a cut block share `overlap` tokens.

    Neighbouring blocks are joined, long ones are cut; blocks of different pages are never joined.
    """
    passages: list[Passage] = []
    group: list[Block] = []
    size = 0
    for block in (part for whole in blocks for part in _cut(whole, limit, overlap)):
        tokens = estimate_tokens(block.text)
        if group and not _may_join(group[-1], size, block, tokens, limit):
            passages.append(_passage(group))
            group, size = [], 0
        group.append(block)
        size += tokens
    return [*passages, _passage(group)] if group else passages


def _may_join(last: Block, size: int, block: Block, tokens: int, limit: int) -> bool:
    """Whether a block may follow `last` in a passage that has `size` tokens so far."""
    if size + tokens > limit or block.page != last.page:
        return False
    return block.heading == last.heading or size < SMALL_TOKENS or tokens < SMALL_TOKENS


def _passage(group: list[Block]) -> Passage:
    """Blocks as one passage; a later block under another heading is preceded by that heading, with
    a mark by which a quotation finds its own one."""
    parts = [group[0].text]
    for previous, block in itertools.pairwise(group):
        heading = block.heading != previous.heading and block.heading
        parts.append(f"{HEADING_MARK}{block.heading[-1]}\n{block.text}" if heading else block.text)
    first, last = group[0], group[-1]
    return Passage("\n\n".join(parts), first.line, last.last_line, first.page, first.heading)


def _cut(block: Block, limit: int, overlap: int) -> Iterator[Block]:
    """A long block in parts that end with a line or a sentence and share `overlap` tokens."""
    if estimate_tokens(block.text) <= limit * SLACK:
        yield block
        return
    lines: list[tuple[int, str]] = []
    for i, line in enumerate(block.text.split("\n")):
        number = min(block.line + i, block.last_line)
        lines += [(number, piece) for piece in _sentences(line, limit)]
    part: list[tuple[int, str]] = []
    size = 0
    for number, piece in lines:
        tokens = estimate_tokens(piece) + 1
        if part and size + tokens > limit:
            yield replace(block, text=_joined(part), line=part[0][0], last_line=part[-1][0])
            part = _tail(part, overlap)
            size = sum(estimate_tokens(text) + 1 for _, text in part)
        part.append((number, piece))
        size += tokens
    if part:
        yield replace(block, text=_joined(part), line=part[0][0], last_line=part[-1][0])


def _tail(lines: list[tuple[int, str]], overlap: int) -> list[tuple[int, str]]:
    """The last lines of a part, at most `overlap` tokens, never all of it."""
    tail: list[tuple[int, str]] = []
    for number, piece in reversed(lines[1:]):
        overlap -= estimate_tokens(piece) + 1
        if overlap < 0:
            break
        tail.insert(0, (number, piece))
    return tail


def _joined(lines: list[tuple[int, str]]) -> str:
    """Text of (line number, piece) pairs: pieces of one line are joined again."""
    text, last = "", lines[0][0]
    for number, piece in lines:
        text += piece if not text or number == last else "\n" + piece
        last = number
    return text


def _sentences(line: str, limit: int) -> list[str]:
    """A short line stays whole, else it is cut after sentences, and a long sentence by length."""
    if estimate_tokens(line) <= limit // 2:
        return [line]
    cuts = [0, *(match.end() for match in SENTENCE_END.finditer(line)), len(line)]
    pieces = [line[a:b] for a, b in itertools.pairwise(cuts) if a < b]
    return [part for piece in pieces for part in _by_length(piece, limit * 2)]


def _by_length(piece: str, step: int) -> Iterator[str]:
    """Parts of at most `step` characters, cut after a space where there is one."""
    start = 0
    while len(piece) - start > step:
        end = piece.rfind(" ", start + step // 2, start + step) + 1 or start + step
        yield piece[start:end]
        start = end
    yield piece[start:]
