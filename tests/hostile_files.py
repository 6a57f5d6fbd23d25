"""Files that broke readers, by kind: hostile lines, broken copies, bombs. Generated with a seed."""

import io
import json
import zipfile
from email.message import EmailMessage

import openpyxl

LINES = {
    "hashes": lambda n: "#" * n,
    "heading spaces": lambda n: "# " + " " * n + "x",
    "heading hashes": lambda n: "# x" + " #" * (n // 2) + "y",
    "heading braces": lambda n: "# x" + "{" * n,
    "heading id": lambda n: "# x " + "{a" * (n // 2) + " y",
    "open wikilinks": lambda n: "[[" * (n // 2),
    "open wikilink texts": lambda n: "[[a|" * (n // 4),
    "wikilink anchors": lambda n: "[[a#" * (n // 4),
    "closed late": lambda n: "[" * n + "]" * n,
    "fences": lambda n: "```\n~~~\n" * (n // 8),
    "open fence": lambda n: "`" * n,
    "dots": lambda n: "." * n,
    "dots and a letter": lambda n: "." * n + "a",
    "marks without spaces": lambda n: "a.b!c?" * (n // 6),
    "spaces": lambda n: " " * n + "x",
    "spaces after a dot": lambda n: ". " + " " * n + "x",
    "letters": lambda n: "a" * n,
    "words": lambda n: "ab " * (n // 3),
    "chinese": lambda n: "水" * n,
    "chinese stops": lambda n: "。" * n,
    "underscores": lambda n: "_" * n,
    "open tags": lambda n: "<div>" * (n // 5),
    "open table cells": lambda n: "<table><tr><td>" * (n // 15),
    "attributes": lambda n: "<a " + "x=y " * (n // 4) + ">z",
    "open attributes": lambda n: "<a x='" * (n // 6),
    "lesser": lambda n: "<" * n,
    "comments": lambda n: "<!--" * (n // 4),
    "marked sections": lambda n: "<![foo bar" * (n // 10),
    "entities": lambda n: "&amp" * (n // 4),
    "declarations": lambda n: "<?xml " * (n // 6),
    "quotes": lambda n: '"' * n,
    "quoted commas": lambda n: '"a,' * (n // 3),
    "commas": lambda n: "," * n,
    "tabs and bars": lambda n: "\t|" * (n // 2),
    "semicolons": lambda n: "a;b\n" * (n // 4),
    "backslashes": lambda n: "\\" * n,
    "escapes": lambda n: "\\u00fc" * (n // 6),
    "half escapes": lambda n: "\\\\\\u0" * (n // 5),
    "brackets": lambda n: "[" * n,
    "braces": lambda n: '{"a":' * (n // 5),
    "yaml": lambda n: "---\n" + "a: &b [*b]\n" * (n // 11) + "---\n",
    "yaml depth": lambda n: "---\n" + "[" * n + "\n---\n",
    "yaml keys": lambda n: "---\n? " * (n // 6),
    "rules": lambda n: "---\n" * (n // 4),
    "rtf groups": lambda n: "{\\rtf1 " + "{\\b " * (n // 4),
    "rtf words": lambda n: "{\\rtf1 " + "\\'e4" * (n // 4) + "}",
    "mail headers": lambda n: "From: <" + "a@" * (n // 2) + "\n\nx",
    "encoded words": lambda n: "Subject: " + "=?utf-8?q?=" * (n // 11) + "\n\nx",
    "line ends": lambda n: "\n" * n + "x",
    "carriage returns": lambda n: "\r" * n + "x",
}
"""Name -> a text of about n characters."""

BOMB = "---\n" + "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
BOMB += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
SMALL = {
    "alias bomb": BOMB + "---\n\nrope knots\n",
    "merge bomb": "---\na: &a {x: 1}\n"
    + "".join(f"b{i}: &b{i} {{<<: [{','.join([f'*b{i - 1}'] * 9)}]}}\n" for i in range(1, 9))
    + "---\nrope\n",
    "circle": "---\ntitle: &t [*t]\n---\nladder\n",
    "date": "---\ncreated: 2025-13-45\n---\ngutter\n",
    "date keys": "---\na: {2025-01-02: {2024-02-03: 1}}\n---\nnails\n",
    "infinite": "---\na: .nan\nb: .inf\nc: 0x" + "f" * 6000 + "\n---\nx\n",
    "surrogate": '---\ntitle: "a \\ud83d b"\n---\n# c\nhook\n',
    "stars": "int " + "*" * 5000 + "a() { return 0; }\n",
    "namespaces": "namespace a {\n" * 1500 + "}\n" * 1500,
    "yaml flow": "a: " + "[" * 3000,
    "yaml blocks": "".join(" " * i + "- a:\n" for i in range(400)),
    "html": "<![foo bar<p>words",
    "cells": '{"cells": [{"cell_type": "markdown", "source": ["# a \\ud83c"]}]}',
    "no source": '{"cells": [{"cell_type": "markdown"}, 3, null]}',
    "nulls": "\0" * 50,
    "rtf": "{\\rtf1\\ansi\\bin9999999 a}",
    "entities": '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "cccccccccc">'
    + "".join(f'<!ENTITY b{i} "{"&b" + str(i - 1 or "") + ";"}{"&b;" * 9}">' for i in range(1, 9))
    + "]><a>&b8;</a>",
    "outside": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
}

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
ODF = 'xmlns:text="urn:t" xmlns:table="urn:b" xmlns:office="urn:o"'


def zipped(members):
    """A zip of name -> text or bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def docx(body="<w:p><w:r><w:t>words</w:t></w:r></w:p>", **parts):
    styles = f'<w:styles {W}><w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
    return zipped(
        {
            "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": styles + "</w:styles>",
            **{f"word/{name}.xml": f"<w:hdr {W}>{text}</w:hdr>" for name, text in parts.items()},
        }
    )


def pptx(*slides):
    texts = slides or ("<a:p><a:r><a:t>words</a:t></a:r></a:p>",)
    return zipped(
        {f"ppt/slides/slide{i}.xml": f"<s {A}>{text}</s>" for i, text in enumerate(texts, 1)}
    )


def odt(body="<text:p>words</text:p>"):
    return zipped({"content.xml": f"<office:document {ODF}>{body}</office:document>"})


def xlsx(*rows):
    book = openpyxl.Workbook()
    for row in rows or [["name", "price"], ["oak", 3.5]]:
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def epub(*chapters):
    pages = chapters or ("<h1>One</h1><p>words</p>",)
    items = "".join(f'<item id="c{i}" href="c%20{i}.xhtml"/>' for i in range(len(pages)))
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(pages)))
    package = f"<package><metadata><title>Book</title></metadata>{items}{spine}</package>"
    rootfile = '<container><rootfile full-path="o/p.opf"/></container>'
    return zipped(
        {"META-INF/container.xml": rootfile, "o/p.opf": package}
        | {f"o/c {i}.xhtml": f"<html><body>{p}</body></html>" for i, p in enumerate(pages)}
    )


def pdf(text="words"):
    stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode("latin-1", "replace")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for i, each in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (i, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n"
        b"%%%%EOF" % (len(places) + 1, table, len(places) + 1, len(data))
    )


def eml(text="words", html="", attachment=b"", name=""):
    message = EmailMessage()
    message["Subject"], message["From"] = "Delivery", "a@example.org"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    if attachment:
        message.add_attachment(
            attachment, maintype="application", subtype="octet-stream", filename=name
        )
    return bytes(message)


WHOLE = {
    ".docx": docx,
    ".pptx": pptx,
    ".odt": odt,
    ".ods": odt,
    ".odp": odt,
    ".xlsx": xlsx,
    ".epub": epub,
    ".pdf": pdf,
    ".eml": eml,
    ".ipynb": lambda: json.dumps({"cells": [{"cell_type": "code", "source": ["a"]}]}).encode(),
    ".rtf": lambda: rb"{\rtf1\ansi words}",
}
"""Ending -> a whole file of that kind."""
INSIDE = {
    ".docx": "<w:p><w:r><w:t>words</w:t></w:r></w:p>" * 3,
    ".pptx": "<a:p><a:r><a:t>words</a:t></a:r></a:p>" * 3,
    ".odt": "<text:p>words<text:span>and</text:span> more</text:p>" * 3,
    ".epub": "<h1>words</h1><p>more</p>" * 3,
    ".pdf": "words (and) more",
    ".eml": "words\n\nand more",
}
"""Ending -> what lies inside its whole file."""
TEXT_ENDINGS = (
    *(".md", ".txt", ".html", ".xml", ".csv", ".tsv", ".jsonl", ".json", ".rst", ".log", ".tex"),
    *(".py", ".js", ".ts", ".c", ".cpp", ".cs", ".java", ".go", ".rs", ".rb", ".php", ".swift"),
    *(".kt", ".scala", ".lua", ".sh", ".sql", ".r", ".jl", ".toml", ".yaml", ".css", ".zig"),
    *(".dart", ".ex", ".hs", ".tsx", ".org", ".adoc", ".mdx", ".htm", ".xhtml", ".ndjson"),
)
ENDINGS = (*WHOLE, *TEXT_ENDINGS)
ENCODINGS = ("utf-8", "utf-16", "utf-32", "cp1252", "shift_jis", "gb18030", "koi8-r", "utf-8-sig")


def write(dice, folder, number):
    """One file below the folder, by the dice."""
    ending = ENDINGS[number % len(ENDINGS)]
    path = folder / f"{number}{ending}"
    path.write_bytes(content(dice, ending))
    return path


def content(dice, ending):
    shape = dice.randrange(8)
    if shape == 0:
        return dice.randbytes(dice.randrange(1, 20_000))
    if shape == 1 and ending in WHOLE:
        return bomb(dice, ending)
    if shape == 5 and ending in INSIDE:
        line = LINES[dice.choice(sorted(LINES))](int(10 ** dice.uniform(1, 5)))
        escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace("\0", "")
        inner = INSIDE[ending].replace("words", dice.choice((escaped, line, "words")))
        return WHOLE[ending](broken(dice, inner.encode()).decode("utf-8", "replace"))
    if shape in (1, 2, 3) and ending in WHOLE:
        return broken(dice, WHOLE[ending]())
    if shape == 4:
        data = dice.choice(sorted(SMALL.values())).encode()
        return broken(dice, data) if dice.random() < 0.5 else data
    names = dice.sample(sorted(LINES), dice.randrange(1, 4))
    text = "\n".join(LINES[name](int(10 ** dice.uniform(1, 5.3))) for name in names)
    if ending == ".ipynb" and dice.random() < 0.5:
        text = json.dumps({"cells": [{"cell_type": "markdown", "source": text}]})
    if ending in (".jsonl", ".json") and dice.random() < 0.5:
        text = "\n".join([json.dumps({"text": text}), "[" * 100_000])
    data = text.encode(dice.choice(ENCODINGS), "replace")
    return broken(dice, data) if dice.random() < 0.3 else data


def broken(dice, data):
    """A copy with wrong bytes, cut, or with a part repeated."""
    data = bytearray(data)
    for _ in range(dice.randrange(1, 12)):
        if not data:
            break
        place = dice.randrange(len(data))
        change = dice.randrange(4)
        if change == 0:
            data[place] = dice.randrange(256)
        elif change == 1:
            data[place : place + dice.randrange(1, 40)] = b""
        elif change == 2:
            part = data[place : place + dice.randrange(1, 60)]
            data[place:place] = part * dice.randrange(1, 200)
        else:
            data[place:place] = dice.randbytes(dice.randrange(1, 8))
        if not data:
            return b"x"
    return bytes(data)


def bomb(dice, ending):
    """What unpacks to hundreds of MB, or nests without end."""
    n = dice.choice((2_000, 30_000))
    zeros = b" " * (300 << 20) if dice.random() < 0.05 else b" " * (80 << 20)
    if ending == ".docx":
        deep = "<w:tbl><w:tr><w:tc>" * n
        return dice.choice((docx(deep), zipped({"word/document.xml": zeros})))
    if ending == ".pptx":
        return dice.choice((pptx("<a:p>" * n), zipped({"ppt/slides/slide1.xml": zeros})))
    if ending in (".odt", ".ods", ".odp"):
        return dice.choice((odt("<text:p>" * n), zipped({"content.xml": zeros})))
    if ending == ".xlsx":
        return zipped({"xl/workbook.xml": zeros, "[Content_Types].xml": "<a/>"})
    if ending == ".epub":
        return epub("<div>" * n, *["<p>x"] * 200)
    if ending == ".pdf":
        return pdf("(" * n).replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]")
    if ending == ".eml":
        return b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n" * n
    return LINES["braces"](n).encode()
