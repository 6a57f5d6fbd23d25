"""A page of a PDF as a picture, with where a text stands on it.

`python -m onecard.datasets.pdf_view FILE PAGE` draws it in
a process of its own with limits: a file that breaks PDFium ends this process and nothing else.
"""

import json
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.errors import DataError

MAX_SECONDS = 20
MAX_MEMORY = 3 << 30
"""Address space of the child: PDFium, NumPy and one page."""
MAX_PROBES = 60
"""Pieces of a passage that are looked for on a page."""
HEADER = 4096
"""Longest first line of the child's answer, plus the boxes."""


@dataclass(frozen=True)
class PageView:
    png: bytes
    n_pages: int
    boxes: tuple[tuple[float, float, float, float], ...]
    """left, top, width, height of the text's pieces, as shares of the page."""


def view(path: Path, number: int, text: str = "") -> PageView:
    """Page `number` from 1 with the boxes of `text`. Raises DataError."""
    words = [sys.executable, "-m", "onecard.datasets.pdf_view", str(path), str(number)]
    try:
        child = subprocess.run(words, input=text.encode(), capture_output=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        raise _refusal(path, number, f"it took longer than {MAX_SECONDS} s") from None
    head, _, png = child.stdout.partition(b"\n")
    try:
        facts = json.loads(head)
    except ValueError:
        reason = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        why = reason[0] if reason else f"PDFium ended with {child.returncode}"
        raise _refusal(path, number, why[:300]) from None
    return PageView(png, facts["pages"], tuple(tuple(box) for box in facts["boxes"]))


def _refusal(path: Path, number: int, why: str) -> DataError:
    return DataError(
        f"page {number} of {path.name} cannot be shown", why=why, fix="open the file itself"
    )


def main() -> None:
    """The child: one line of JSON, then the PNG."""
    # libraries first: the limit is for what the file asks for
    import cv2
    import pypdfium2

    from onecard.datasets.images import pdf_pages  # loads NumPy, which the parent does without

    path, number = Path(sys.argv[1]), int(sys.argv[2])
    text = sys.stdin.buffer.read(200_000).decode("utf-8", "replace")
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    document = pypdfium2.PdfDocument(path)
    n_pages = len(document)
    number = min(max(number, 1), n_pages)
    boxes = _boxes(document[number - 1], text) if text.strip() else []
    pixels = pdf_pages.page(path, number - 1)
    ok, png = cv2.imencode(".png", pixels[..., ::-1])
    if not ok:
        sys.exit("the page cannot be written as PNG")
    sys.stdout.buffer.write(json.dumps({"pages": n_pages, "boxes": boxes}).encode() + b"\n")
    sys.stdout.buffer.write(png.tobytes())


def _boxes(page: Any, text: str) -> list[list[float]]:
    """Where the pieces of a text stand: its lines, and where one is broken otherwise on the page,
    runs of five words."""
    content = page.get_textpage()
    width, height = page.get_size()
    boxes: list[list[float]] = []
    for probe in _probes(text):
        searcher = content.search(probe, match_case=False, match_whole_word=False)
        while match := searcher.get_next():
            for left, bottom, right, top in _rectangles(content, *match):
                boxes.append(
                    [
                        left / width,
                        1 - top / height,
                        (right - left) / width,
                        (top - bottom) / height,
                    ]
                )
            if len(boxes) > 400:
                return boxes
    return boxes


def _rectangles(content: Any, start: int, count: int) -> list[Any]:
    n = content.count_rects(start, count)
    return [content.get_rect(i) for i in range(n)]


def _probes(text: str) -> list[str]:
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    long = [line for line in lines if len(line) >= 12]
    probes: list[str] = []
    for line in long or lines:
        words = line.split(" ")
        if len(words) <= 6:
            probes.append(line)
        else:
            probes += [" ".join(words[i : i + 5]) for i in range(0, len(words) - 4, 5)]
    return [probe for probe in probes if len(probe) > 3][:MAX_PROBES]


if __name__ == "__main__":
    main()
