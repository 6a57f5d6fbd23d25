"""Pages in columns are read column by column; rows of tables stay whole."""

from pathlib import Path

import made_pdfs
import pytest

from onecard.datasets.readers import columns, pdf

SEEDS = range(20)


def text_of(data):
    document = pdf.read(Path("a.pdf"), data)
    return " ".join(" ".join(block.text.split()) for block in document.blocks)


def test_sentences_of_pages_in_columns_are_whole():
    whole = told = 0
    for seed in SEEDS:
        data, sentences = made_pdfs.columns(seed)
        text = text_of(data)
        whole += sum(sentence in text for sentence in sentences)
        told += len(sentences)
    assert told > 200
    assert whole / told > 0.97


def test_rows_of_tables_are_whole():
    for seed in SEEDS:
        data, rows = made_pdfs.tabular(seed)
        text = text_of(data)
        assert all(row in text for row in rows)


LEFT = ("The orchard has twelve", "apple trees, planted in", "the autumn of the flood.", "It bears")
RIGHT = ("Honey is taken only in", "July. The hives stand", "at the south wall and", "hold nine")


def test_a_line_over_both_columns_ends_them():
    rows = [f"{a:<30}{b}" for a, b in zip(LEFT, RIGHT, strict=True)]
    title = "A title that runs over the whole of the page's width"
    ordered = columns.reading_order("\n".join([title, *rows, title, *rows]))
    assert ordered.split("\n") == [title, *LEFT, *RIGHT, title, *LEFT, *RIGHT]


@pytest.mark.parametrize(
    "page",
    [
        "",
        "\n".join(LEFT),
        "\n".join(f"{a:<30}{b}" for a, b in zip(LEFT[:3], RIGHT[:3], strict=True)),
        "\n".join(f"key {i:<26}{b}" for i, b in enumerate(RIGHT * 3)),
        "    return x\n" * 40,
    ],
)
def test_other_pages_have_no_columns(page):
    assert columns.reading_order(page) == ""
