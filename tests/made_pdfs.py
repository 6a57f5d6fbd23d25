"""PDF pages in columns and tables, with sentences that are known; drawn from a seed."""

import random
import textwrap
from io import BytesIO

from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, StreamObject

NOUNS = [
    "orchard", "cellar", "ledger", "kiln", "harbour", "weir", "chapel", "lantern", "granary",
    "viaduct", "quarry", "loom",
]  # fmt: skip
DEEDS = ["was mended with", "stands behind", "was sold for", "holds the plans of", "lies north of"]
THINGS = ["copper nails", "the old mill", "forty crowns", "a river ferry", "two stone lions"]


def sentences(source, n):
    return [
        f"The {source.choice(NOUNS)} of {source.choice(NOUNS).title()} {source.choice(DEEDS)} "
        f"{source.choice(THINGS)} and bears the number {1000 + 37 * i + source.randint(0, 36)}."
        for i in range(n)
    ]


def page(lines):
    """A PDF of one page; a line is (x, y, size, text) in points, in the order of the file."""
    writer = PdfWriter()
    sheet = writer.add_blank_page(595, 842)
    font = DictionaryObject()
    for name, value in (("Type", "Font"), ("Subtype", "Type1"), ("BaseFont", "Helvetica")):
        font[NameObject(f"/{name}")] = NameObject(f"/{value}")
    fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
    sheet[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    stream = StreamObject()
    stream.set_data(
        "\n".join(
            f"BT /F1 {size} Tf 1 0 0 1 {x} {y} Tm ({text}) Tj ET" for x, y, size, text in lines
        ).encode("latin-1")
    )
    sheet[NameObject("/Contents")] = writer._add_object(stream)
    file = BytesIO()
    writer.write(file)
    return file.getvalue()


def columns(seed):
    """(PDF, sentences in it): two or three columns, in the order of rows or of columns, with a
    title over all, columns of other lengths and of lines that do or do not stand at one height."""
    source = random.Random(seed)
    n_columns = source.choice((2, 2, 2, 3))
    size = source.choice((8, 9, 10))
    room = (595 - 100) / n_columns
    n_chars = int((room - source.choice((14, 20, 30))) / (0.5 * size))
    told, columns_of_lines = [], []
    for i in range(n_columns):
        own = sentences(source, source.randint(6, 12) if i < n_columns - 1 else 5)
        told += own
        shift = source.choice((0, 0, size / 2))
        lines = textwrap.wrap(" ".join(own), n_chars)
        columns_of_lines.append(
            [
                (50 + i * room, 740 - shift - 1.3 * size * n, size, text)
                for n, text in enumerate(lines)
            ]
        )
    lines = [line for column in columns_of_lines for line in column]
    if source.random() < 0.7:
        lines.sort(key=lambda line: (-line[1], line[0]))
    title = "Report of the county on its buildings and what is known of them in this year of grace"
    return page([(50, 790, 12, title), *lines]), told


def tabular(seed):
    """(PDF, rows in it): a table, whose rows must stay whole."""
    source = random.Random(seed)
    n_columns = source.choice((2, 3, 4))
    rows = [
        [source.choice(NOUNS)]
        + [str(source.randint(1, 999)) for _ in range(n_columns - 2)]
        + [source.choice((source.choice(NOUNS), f"{source.choice(DEEDS)} {source.choice(THINGS)}"))]
        for _ in range(source.randint(5, 14))
    ]
    lines = [
        (50 + x * 480 / n_columns, 760 - 15 * y, 10, cell)
        for y, row in enumerate(rows)
        for x, cell in enumerate(row)
    ]
    return page(lines), [" ".join(row) for row in rows]
