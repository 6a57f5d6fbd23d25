"""CSV and TSV: each row as lines of `column: value`, with the separator that the file uses."""

import csv
import io
import itertools
from pathlib import Path

from onecard.datasets.blocks import Block, Document
from onecard.datasets.encoding import decode
from onecard.datasets.rows import broken_csv

SEPARATORS = ",;\t|"
SAMPLE_ROWS = 50
MAX_CELL = 1 << 20


def read(path: Path, data: bytes) -> Document:
    text, encoding = decode(data, path)
    first, _, rest = text.partition("\n")
    skipped = 0
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's own mark
        separator, text, skipped = first.strip()[4], rest, 1
    else:
        separator = "\t" if path.suffix.lower() == ".tsv" else find_separator(text)
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    blocks = []
    header: list[str] = []
    last = 0
    try:
        for row in reader:
            line, last = last + 1, reader.line_num
            if not header:
                header = [cell.strip() for cell in row] if any(row) else []
                only = Block(" | ".join(filter(None, header)), 1, last)
                continue
            cells = [
                f"{name}: {cell.strip()}" if name else cell.strip()
                for name, cell in itertools.zip_longest(header, row, fillvalue="")
                if cell.strip()
            ]
            if cells:
                blocks.append(Block("\n".join(cells), line + skipped, last + skipped))
    except csv.Error as fault:
        raise broken_csv(path, reader.line_num, fault) from None
    return Document(path.stem, "rows", blocks or ([only] if header else []), encoding)


def find_separator(text: str) -> str:
    """The separator that gives the most columns, the same number in the most rows.

    >>> find_separator("a;b\\n1,5;2\\n3,25;4\\n"), find_separator("a,b\\n1;2,3\\n")
    (';', ',')
    """
    best, best_score = ",", 0.0
    for separator in SEPARATORS:
        rows = []
        try:
            reader = csv.reader(io.StringIO(text[:200_000], newline=""), delimiter=separator)
            rows = [len(row) for row in itertools.islice(reader, SAMPLE_ROWS) if row]
        except csv.Error:
            continue
        if not rows:
            continue
        n_columns = max(set(rows), key=rows.count)
        share = rows.count(n_columns) / len(rows)
        # the header is never a decimal: its number of columns counts too
        score = (n_columns > 1) * share * (2 if rows[0] == n_columns else 1) + n_columns / 1000
        if n_columns > 1 and score > best_score:
            best, best_score = separator, score
    return best
