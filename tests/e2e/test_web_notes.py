"""Notes through the page: folders indexed, a question answered with citations, the passage behind
each highlighted in its document, thumbs that become a question set."""

import json
from io import BytesIO

import made_pdfs
import pytest
from conftest import HTTPX_LIKE
from playwright.sync_api import expect
from pypdf import PdfWriter

from onecard.web import note_questions, passages

SLOW = 60_000


@pytest.fixture(scope="module")
def folder(workbench):
    root = workbench.files / "notes"
    for name, text in HTTPX_LIKE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_folder_is_indexed_asked_and_cited(workbench, page, folder):
    page.goto(f"{workbench.url}/notes")
    page.get_by_role("button", name="Index folders").click()
    page.get_by_label("folder", exact=True).fill(str(folder))
    page.get_by_role("button", name="Index", exact=True).click()
    expect(page.get_by_text("Indexed: 4 files")).to_be_visible(timeout=SLOW)

    page.locator("#style").select_option("quote")
    page.locator("#question").fill("How does the retry delay grow?")
    page.locator("#question").press("Enter")
    citation = page.locator(".citations button").first
    expect(citation).to_be_visible(timeout=SLOW)
    expect(page.locator(".answer-text")).to_contain_text("doubles after each failure")

    citation.click()
    hit = page.locator("#document .block.hit").first
    expect(hit).to_be_visible()
    expect(page.locator("#document h2").first).to_have_text("timeouts.md")
    expect(page.locator("#document .hit", has_text="retry delay doubles")).to_be_visible()

    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_text("Kept in the question set.")).to_be_visible()
    page.reload()
    expect(page.locator(".answer-text")).to_contain_text("doubles after each failure")

    rows = workbench.api.get("/notes").json()["indexes"]
    index = next(row["index"] for row in rows if row["folders"] == [str(folder)])
    questions = workbench.api.get("/notes/questions", params={"index": index}).json()
    row = questions["rows"][0]
    assert row["evidence"][0]["path"].endswith("timeouts.md")
    job = workbench.api.post(
        "/jobs",
        json={
            "task": "rag",
            "command": "evaluate",
            "values": {"questions": questions["path"], "index": index, "answers": False},
        },
    ).json()
    row = workbench.wait(job["id"])
    assert row["status"] == "done", row
    metrics = workbench.api.get(f"/runs/{row['run']}").json()["metrics"]
    assert metrics["recall@5"]["value"] == 1


def test_code_is_shown_with_its_lines(workbench, folder):
    path = folder / "src" / "client.py"
    passage = workbench.api.get(
        "/passage", params={"path": str(path), "line": 12, "last_line": 14}
    ).json()
    assert passage["kind"] == "lines"
    assert passage["lines"][11].startswith("def parse_retry_after")


def two_pages(*texts):
    """A PDF with a line on each page."""
    writer = PdfWriter()
    for text in texts:
        writer.append(BytesIO(made_pdfs.page([(72, 700, 12, text)])))
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_pdf_page_is_shown_with_the_passage_marked(workbench, tmp_path):
    path = workbench.files / "manual.pdf"
    path.write_bytes(two_pages("First page", "The valve opens at 3 bar."))
    passage = workbench.api.get(
        "/passage", params={"path": str(path), "page": 2, "quote": "The valve opens at 3 bar."}
    ).json()
    assert (passage["kind"], passage["pages"], passage["page"]) == ("pdf", 2, 2)
    left, top, width, height = passage["boxes"][0]
    assert 0 <= left < left + width <= 1
    assert 0 <= top < top + height <= 1
    picture = workbench.api.get("/passage/page.png", params={"path": str(path), "page": 2})
    assert picture.content.startswith(b"\x89PNG")


def test_a_broken_pdf_costs_itself_only(workbench):
    path = workbench.files / "broken.pdf"
    path.write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 50)
    reply = workbench.api.get("/passage", params={"path": str(path), "page": 1})
    assert reply.status_code == 400
    assert set(reply.json()["error"]) == {"what", "why", "fix"}


@pytest.mark.parametrize("ending", ["md", "txt", "py", "html", "docx", "csv"])
def test_empty_and_binary_documents_are_refused_or_shown(own_home, tmp_path, ending):
    from onecard.errors import OneCardError

    for content in (b"", b"\x00\x01\xff" * 100, "中文\n".encode("big5")):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(content)
        try:
            assert passages.passage(path, 1, 1)["kind"] in ("lines", "markdown", "blocks")
        except OneCardError as fault:
            assert fault.fix


def test_markdown_marks_the_block_of_the_passage(tmp_path):
    path = tmp_path / "a.md"
    path.write_text(
        "---\ntitle: x\n---\n# One\n\ntext\n\n## Two\n\n- a\n- b\n\n```\ncode\n```\nend\n"
    )
    blocks = passages.passage(path, 10, 11)["blocks"]
    assert [block["html"].strip()[:4] for block in blocks if block["hit"]] == ["<ul>"]
    everything = [n for block in blocks for n in range(block["first"], block["last"] + 1)]
    assert len(everything) == len(set(everything))


def test_one_question_has_one_row(own_home):
    for thumb, answer in (("up", "one"), ("down", "two")):
        rows = note_questions.keep("x", {"question": "Why?", "thumb": thumb, "answer": answer})
    assert [(row["thumb"], row["answer"]) for row in rows] == [("down", "two")]
    note_questions.path_of("x").write_text(json.dumps(rows[0]) + '\n{"question": ')
    assert len(note_questions.rows("x")) == 1


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/", "..", "a/b", "中文", "x" * 500, "\u202e"]
)
def test_a_question_set_stays_in_its_folder(own_home, name):
    assert note_questions.path_of(name).parent == own_home / "question-sets"
