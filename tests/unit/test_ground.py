"""Files, readers, runs, names, guards: the ground, without models."""

import json
import zipfile

import pytest

from onecard import fsio, paths
from onecard.datasets import documents, rows, source_code
from onecard.datasets.files import walk
from onecard.errors import DataError, EngineError, NotFound, SettingsError
from onecard.hub import names
from onecard.runs import compare, store
from onecard.serving import guards


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    fsio.write_text(path, "old")
    with pytest.raises(RuntimeError), fsio.atomic_write(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(DataError, match="cannot be written"):
        fsio.write_text(path / "below" / "x", "")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd"])
def test_names_from_outside_stay_inside(tmp_path, name):
    with pytest.raises(DataError, match="leads out"):
        paths.safe_join(tmp_path, name)


def test_rows_name_file_and_line(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": 1}\n\n{"b": 2}\n')
    with pytest.raises(DataError, match=r"r\.jsonl:3 lacks a"):
        rows.jsonl(path, need=["a"])
    path.write_text('{"a": 1}\n[1]\n')
    with pytest.raises(DataError, match=r"r\.jsonl:2"):
        rows.jsonl(path)
    sheet = tmp_path / "t.csv"
    sheet.write_text("q,a\nx,1\ny,\n")
    with pytest.raises(DataError, match=r"t\.csv:3 lacks a"):
        rows.table(sheet, need=["a"])
    with pytest.raises(NotFound):
        rows.jsonl(tmp_path / "none")


def test_the_walk_obeys_gitignore_and_circles(tmp_path):
    for name in (
        "a.md",
        "b.log",
        "keep/c.py",
        "skip/d.py",
        ".hidden/e.md",
        "node_modules/f.js",
        "g.bin",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("skip/\n*.log\n")
    (tmp_path / "keep" / "round").symlink_to(tmp_path)
    assert [
        f.path.relative_to(tmp_path).as_posix() for f in walk([tmp_path, tmp_path / "keep"])
    ] == ["a.md", "keep/c.py"]


def test_markdown_by_heading_with_front_matter_links_and_fences(tmp_path):
    path = tmp_path / "n.md"
    path.write_text(
        "---\ntitle: My note\ntags: [a]\n---\n# One\ntext [[Other|shown]] here\n\n```py\n# not a "
        "heading\n\nx = 1\n```\n## Two\nmore\n"
    )
    read = documents.read(path)
    assert (read.title, read.links, read.meta["tags"]) == ("My note", ["Other"], ["a"])
    assert [(b.heading, b.line) for b in read.blocks] == [
        (("One",), 6),
        (("One",), 8),
        (("One", "Two"), 14),
    ]
    assert (
        "text shown here" in read.blocks[0].text
        and "# not a heading\n\nx = 1" in read.blocks[1].text
    )


def test_code_by_syntax_tree():
    source = (
        "import os\n\n\n# about it\n@wraps\ndef first(a):\n    return a\n\n\nclass Big:\n"
        + "".join(f"    def m{i}(self):\n        return {i}\n\n        # end\n" for i in range(20))
    )
    blocks = source_code.blocks(source, "python")
    names = [b.heading for b in blocks]
    assert ("first",) in names and ("Big", "m3") in names
    assert next(b for b in blocks if b.heading == ("first",)).line == 4
    for grammar, text, name in (
        ("javascript", "export function go(x) { return x }\n", "go"),
        ("rust", "fn go(x: i32) -> i32 { x }\n", "go"),
        ("go", "package a\n\nfunc Go() {}\n", "Go"),
        ("c", "int go(int x) { return x; }\n", "go"),
        ("java", "class Go { int x() { return 1; } }\n", "Go"),
    ):
        assert any(b.heading[-1:] == (name,) for b in source_code.blocks(text, grammar)), grammar


def test_other_formats(tmp_path):
    import docx

    word = docx.Document()
    word.add_heading("Plan", 1)
    word.add_paragraph("We begin on Monday.")
    word.save(tmp_path / "w.docx")
    assert documents.read(tmp_path / "w.docx").blocks[0].heading == ("Plan",)
    (tmp_path / "p.html").write_text(
        "<title>T</title><nav>menu</nav><h1>A</h1><p>said <b>so</b></p><script>no()</script>"
    )
    read = documents.read(tmp_path / "p.html")
    assert (
        read.title == "T"
        and [b.text for b in read.blocks] == ["said so"]
        and read.blocks[0].heading == ("A",)
    )
    cells = [
        {"cell_type": "markdown", "source": ["# Head\n", "words"]},
        {"cell_type": "code", "source": "x = 1", "outputs": []},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    assert [b.text for b in documents.read(tmp_path / "n.ipynb").blocks] == ["words", "x = 1"]
    (tmp_path / "t.csv").write_text("name,age\nAnn,3\n")
    assert documents.read(tmp_path / "t.csv").blocks[0].text == "name: Ann\nage: 3"
    with zipfile.ZipFile(tmp_path / "bad.docx", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(DataError, match="broken Word"):
        documents.read(tmp_path / "bad.docx")


@pytest.mark.parametrize(
    ("host", "headers", "token", "fault"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:80"}, "", None),
        ("127.0.0.1", {"host": "localhost"}, "", None),
        ("127.0.0.1", {"host": "[::1]:80"}, "", None),
        ("127.0.0.1", {"host": "rebound.example"}, "", 403),
        ("127.0.0.1", {"host": "127.0.0.1.evil.example"}, "", 403),
        ("127.0.0.1", {}, "", 403),
        ("127.0.0.1", {"host": "127.0.0.1", "origin": "http://127.0.0.1:9"}, "", 403),
        ("127.0.0.1", {"host": "127.0.0.1:9", "origin": "http://127.0.0.1:9"}, "", None),
        ("127.0.0.1", {"host": "127.0.0.1", "origin": "null"}, "", 403),
        ("0.0.0.0", {"host": "box"}, "secretsecretsecret", 401),
        (
            "0.0.0.0",
            {"host": "box", "authorization": "Bearer secretsecretsecret"},
            "secretsecretsecret",
            None,
        ),
        (
            "0.0.0.0",
            {"host": "box", "authorization": "Bearer secretsecretsecreT"},
            "secretsecretsecret",
            401,
        ),
        ("127.0.0.1", {"host": "localhost", "content-length": "99999999"}, "", 413),
        ("127.0.0.1", {"host": "localhost", "content-length": "abc"}, "", 400),
    ],
)
def test_the_guard(host, headers, token, fault):
    got = guards.Guard(None, host, token)._refusal("/v1/models", headers)
    assert (got[0] if got else None) == fault


def test_tokens_beyond_this_machine():
    assert guards.token_for("127.0.0.1", "") == "" and len(guards.token_for("0.0.0.0", "")) > 20
    with pytest.raises(SettingsError):
        guards.token_for("0.0.0.0", "short")
    with guards.bind("127.0.0.1", 0) as held, pytest.raises(EngineError, match="cannot listen"):
        guards.bind("127.0.0.1", held.getsockname()[1])


def test_model_names(tmp_path, monkeypatch):
    monkeypatch.setenv("ONECARD_HOME", str(tmp_path))
    assert (
        names.find("hf:org/name:q4_k_m").repo == "org/name" and not names.find("hf:org/name").here
    )
    for bad in ("hf:../x", "hf:a", "ollama:../../x"):
        with pytest.raises(SettingsError):
            names.find(bad)
    assert (
        names.model_dir("hf:a/b").parent == names.model_dir("../../x").parent == tmp_path / "models"
    )
    with pytest.raises(NotFound):
        names.find("run:nothing")
    blob = tmp_path / "ollama" / "blobs" / "sha256-1"
    manifest = tmp_path / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "m" / "8b"
    for path in (blob, manifest):
        path.parent.mkdir(parents=True)
    blob.write_bytes(b"x")
    manifest.write_text(
        json.dumps(
            {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:1"}]}
        )
    )
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    assert names.find("ollama:m:8b").path == blob and names.find("ollama:other").url.startswith(
        "http://127"
    )


def run_folder(home, name, values, questions="q"):
    folder = home / name
    (folder / "artifacts").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"kind": "rag", "verb": "evaluate"}))
    (folder / "settings.toml").write_text("top_k = 5\n")
    (folder / "status").write_text("done\n")
    (folder / "data.json").write_text(json.dumps({"questions": {"sha256": questions}}))
    (folder / "scores.json").write_text(
        json.dumps({"metrics": {"mrr": {"value": sum(values) / len(values)}}})
    )
    (folder / "artifacts" / "items.jsonl").write_text(
        "".join(
            json.dumps({"id": str(i), "scores": {"mrr": v}}) + "\n" for i, v in enumerate(values)
        )
    )
    return store.RunRecord(folder)


def test_a_fall_beyond_noise_is_told_and_noise_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("ONECARD_RUNS", str(tmp_path))
    good = run_folder(tmp_path, "20260101-000000-rag-aaaa", [1.0] * 30)
    worse = run_folder(tmp_path, "20260102-000000-rag-bbbb", [0.0] * 20 + [1.0] * 10)
    other = run_folder(tmp_path, "20260103-000000-rag-cccc", [0.0] * 30, questions="others")
    assert (
        "mrr fell" in compare.regressions(worse, [good])[0]
        and not compare.regressions(good, [worse])
        and not compare.regressions(other, [worse, good])
    )
    assert store.find("aaaa").id == good.id and store.find("last").id == other.id
    with pytest.raises(NotFound, match="3 runs"):
        store.find("rag")
    with pytest.raises(NotFound):
        store.find("zzz")
