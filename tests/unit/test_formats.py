"""What readers keep of each format: made files with known words."""

import json
import re
from pathlib import Path

import hostile_files as made
import pytest

from onecard.datasets import documents
from onecard.datasets.readers import read_document
from onecard.errors import DataError


def read(name, data):
    return read_document(Path(name), data if isinstance(data, bytes) else data.encode())


def everything(name, data):
    """Title, headings and texts in one string."""
    document = read(name, data)
    return " ".join([document.title, *(" ".join([*b.heading, b.text]) for b in document.blocks)])


P = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>"
TABLE = "<w:tbl><w:tr>{}</w:tr></w:tbl>"
CELL = "<w:tc>{}</w:tc>"
DOCX = {
    "paragraph": P.format("oak"),
    "content control": f"<w:sdt><w:sdtContent>{P.format('oak')}</w:sdtContent></w:sdt>",
    "control in a line": "<w:p><w:sdt><w:sdtContent><w:r><w:t>oak</w:t></w:r></w:sdtContent>"
    "</w:sdt></w:p>",
    "table": TABLE.format(CELL.format(P.format("oak"))),
    "nested table": TABLE.format(
        CELL.format(P.format("a") + TABLE.format(CELL.format(P.format("oak"))))
    ),
    "text box": f"<w:p><w:r><w:pict><w:txbxContent>{P.format('oak')}</w:txbxContent></w:pict></w:r>"
    "</w:p>",
    "tracked insertion": "<w:p><w:ins><w:r><w:t>oak</w:t></w:r></w:ins></w:p>",
    "hyperlink": "<w:p><w:hyperlink><w:r><w:t>oak</w:t></w:r></w:hyperlink></w:p>",
}


@pytest.mark.parametrize("part", DOCX)
def test_word_keeps_the_text_of(part):
    assert "oak" in everything("a.docx", made.docx(P.format("x") + DOCX[part]))


@pytest.mark.parametrize("part", ["header1", "footer2", "footnotes", "endnotes", "comments"])
def test_word_keeps_the_part(part):
    assert "oak" in everything("a.docx", made.docx(**{part: P.format("oak")}))


def test_word_leaves_out_what_was_deleted_and_the_fallback_of_old_programs():
    deleted = "<w:p><w:del><w:r><w:t>ash</w:t></w:r></w:del><w:r><w:t>oak</w:t></w:r></w:p>"
    twice = f"<w:p><Fallback>{P.format('ash')}</Fallback></w:p>"
    assert "ash" not in everything("a.docx", made.docx(deleted + twice))


def test_word_headings_by_their_style_in_any_language():
    heading = '<w:p><w:pPr><w:pStyle w:val="berschrift1"/></w:pPr><w:r><w:t>Plan</w:t></w:r></w:p>'
    block = read("a.docx", made.docx(heading + P.format("We begin on Monday."))).blocks[0]
    assert (block.heading, block.text, block.line) == (("Plan",), "We begin on Monday.", 2)


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<div>oak</div>", ["oak"]),
        ("<span>Anchor:</span> <b>38 m</b>", ["Anchor: 38 m"]),
        ("<details><summary>Engine</summary>Oil</details>", ["Engine", "Oil"]),
        ("a<p>b</p>c", ["a", "b", "c"]),
        ("<ul><li>a<ul><li>b</ul></ul>", ["a", "b"]),
        ("<table><tr><th>k<th>v<tr><td>a<td>b</table>", ["k | v\na | b"]),
        ("<table><tr><td>a<table><tr><td>b</table>c</table>", ["a b c"]),
        ("<pre>a\n  b</pre>", ["a\n  b"]),
        ("<script>no</script><style>no</style><nav>no</nav>a", ["a"]),
        ("<p>a<![foo bar><p>b", ["a", "b"]),
        ("<img alt='a tree'>", ["a tree"]),
        ("<p>" * 5000 + "a", ["a"]),
    ],
)
def test_html_keeps_all_that_is_shown(html, words):
    assert [block.text for block in read("a.html", html).blocks] == words


def test_slides_by_their_number():
    slide = "<a:p><a:r><a:t>{}</a:t></a:r></a:p>"
    deck = made.pptx(*(slide.format(f"oak {i}") for i in range(12)))
    blocks = read("a.pptx", deck).blocks
    assert [(block.text, block.page) for block in blocks] == [
        (f"oak {i}", i + 1) for i in range(12)
    ]


def test_a_sheet_by_rows_with_its_header():
    data = made.xlsx(["Budget of May"], ["item", "price"], ["oak", 3.5], [], ["ash", 12])
    blocks = read("a.xlsx", data).blocks
    assert [(block.text, block.line) for block in blocks] == [
        ("Budget of May", 1),
        ("item: oak\nprice: 3.5", 3),
        ("item: ash\nprice: 12", 5),
    ]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "a.odt",
            made.odt("<text:h text:outline-level='1'>Plan</text:h><text:p>oak</text:p>"),
            "Plan oak",
        ),
        ("a.odt", made.odt("<text:p>oak <text:span>and</text:span> ash</text:p>"), "oak and ash"),
        ("a.rtf", rb"{\rtf1\ansi\ansicpg1252 Gr\'fc\'dfe\par oak}", "Grüße oak"),
        ("a.xml", "<feed><entry a='1'><title>oak</title>x<b>y</b>z</entry></feed>", "oak"),
        ("a.epub", made.epub("<h1>One</h1><p>oak</p>", "<p>ash</p>"), "Book One oak ash"),
        ("a.log", "pump failed at 3", "pump failed at 3"),
        ("README", "oak", "oak"),
        (
            "a.eml",
            made.eml("oak", "<p>oak</p>", made.docx(P.format("ash")), "b.docx"),
            "oak b.docx ash",
        ),
        ("a.eml", made.eml("oak"), "Delivery From: a@example.org Subject: Delivery oak"),
        ("a.json", json.dumps([{"t": "Grüße"}, {"t": {"u": ["水管"]}}]), "t: Grüße u: 水管"),
        ("a.json", '{\n "a": "Gr\\u00fc\\u00dfe \\ud83d\\ude00"\n}', "Grüße 😀"),
        ("a.jsonl", '{"a": {"b": "Gr\\u00fc\\u00dfe"}}\n', "Grüße"),
        (
            "a.ipynb",
            '{"worksheets": [{"cells": [{"cell_type": "code", "input": ["h = 4"]}]}]}',
            "h = 4",
        ),
    ],
)
def test_words_kept(name, data, words):
    assert " ".join(words.split()) in " ".join(everything(name, data).split())


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables_by_the_separator_they_use(separator):
    rows = [
        ["Kunde", "Ort", "Betrag"],
        ["Nord, Süd", "Kiel", "1.250,50"],
        ["Linde", "Ulm", "980,75"],
    ]
    text = "\n".join(
        separator.join(f'"{cell}"' if separator in cell else cell for cell in row) for row in rows
    )
    texts = [block.text for block in read("a.csv", text).blocks]
    assert texts == [
        "Kunde: Nord, Süd\nOrt: Kiel\nBetrag: 1.250,50",
        "Kunde: Linde\nOrt: Ulm\nBetrag: 980,75",
    ]


def test_a_cell_with_line_breaks_is_one_cell():
    blocks = read("a.csv", 'a,b\r\n1,"two\r\nlines"\r\n3,4\r\n').blocks
    assert [(block.text.split(), block.line, block.last_line) for block in blocks] == [
        (["a:", "1", "b:", "two", "lines"], 2, 3),
        (["a:", "3", "b:", "4"], 4, 4),
    ]


def test_excels_own_mark_of_the_separator():
    assert read("a.csv", "sep=;\na;b\n1;2\n").blocks[0].text == "a: 1\nb: 2"


def test_notes_of_headings_alone_are_text():
    blocks = read("a.md", "# Dentist rings 040-5521\n## Card\n# Bin day\n").blocks
    assert [(block.heading, block.text) for block in blocks] == [
        (("Dentist rings 040-5521",), "Card"),
        ((), "Bin day"),
    ]


def test_front_matter_with_other_line_ends():
    document = read("a.md", "---\r\ntitle: Compost\r\n---\r\n# Heap\r\nturned\r\n")
    assert (document.title, document.blocks[0].text) == ("Compost", "turned")


def test_pages_without_text_are_counted():
    from io import BytesIO  # with pypdf, only here

    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter()
    writer.append(PdfReader(BytesIO(made.pdf("oak"))))
    for _ in range(3):
        writer.add_blank_page(100, 100)
    file = BytesIO()
    writer.write(file)
    document = read("a.pdf", file.getvalue())
    assert document.blocks[0].text == "oak"
    assert re.match(r"pages 2, 3, 4 of 4 hold no text", document.notes[0])


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.odt", "a.epub", "a.xlsx"])
def test_a_bomb_is_not_unpacked(name):
    member = {
        "a.docx": "word/document.xml",
        "a.pptx": "ppt/slides/slide1.xml",
        "a.odt": "content.xml",
        "a.epub": "META-INF/container.xml",
        "a.xlsx": "xl/workbook.xml",
    }[name]
    with pytest.raises(DataError, match="unpacks to too much"):
        read(name, made.zipped({member: b" " * (70 << 20)}))


def test_minified_code_is_left_out():
    with pytest.raises(DataError, match="is minified code"):
        read("a.js", "var a=1;" * 2000)


def test_a_scanned_page_is_read_by_ocr(tmp_path):
    """In the child, with its limits: a picture of a line as the only content of a page."""
    pytest.importorskip("rapidocr_onnxruntime")
    from PIL import Image, ImageDraw, ImageFont  # the extra ocr brings it

    picture = Image.new("RGB", (1200, 400), "white")
    font = ImageFont.load_default(size=60)
    ImageDraw.Draw(picture).text((60, 150), "Boiler serial KX-88213", fill="black", font=font)
    picture.save(tmp_path / "a.pdf")
    with documents.DocumentReader(ocr=True) as reader:
        document = reader.read(tmp_path / "a.pdf")
    assert "KX-88213" in document.blocks[0].text
    assert "read by OCR" in document.notes[0]
