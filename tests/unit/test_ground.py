"""Files, readers, runs, model names and server guards, without models."""

import json
import zipfile
from dataclasses import dataclass, field

import pytest
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette

from onecard import fsio, paths
from onecard.datasets import documents, rows, source_code
from onecard.datasets.files import walk
from onecard.errors import DataError, EngineError, NotFound, SettingsError
from onecard.hub import names
from onecard.reporting import Reporter
from onecard.runs import compare, report, store
from onecard.serving import app, guards, openai_schemas


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    fsio.write_text(path, "old")
    with pytest.raises(RuntimeError), fsio.atomic_write(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_below_a_file_cannot_be_written(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("")
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


def test_rows_of_a_table_name_file_and_line(tmp_path):
    sheet = tmp_path / "t.csv"
    sheet.write_text("q,a\nx,1\ny,\n")
    with pytest.raises(DataError, match=r"t\.csv:3 lacks a"):
        rows.table(sheet, need=["a"])


def test_a_missing_file_of_rows_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        rows.jsonl(tmp_path / "none")


def test_a_rows_own_check_names_the_line(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"r\.jsonl:3 is not valid") as fault:
        rows.jsonl(path, check=lambda row: "too large" if row["a"] > 1 else "")
    assert fault.value.why == "too large"


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
    assert "text shown here" in read.blocks[0].text
    assert "# not a heading\n\nx = 1" in read.blocks[1].text


def test_code_by_syntax_tree():
    source = (
        "import os\n\n\n# about it\n@wraps\ndef first(a):\n    return a\n\n\nclass Big:\n"
        + "".join(f"    def m{i}(self):\n        return {i}\n\n        # end\n" for i in range(20))
    )
    blocks = source_code.blocks(source, "python")
    headings = [b.heading for b in blocks]
    assert ("first",) in headings
    assert ("Big", "m3") in headings
    assert next(b for b in blocks if b.heading == ("first",)).line == 4


@pytest.mark.parametrize(
    ("grammar", "text", "name"),
    [
        ("javascript", "export function go(x) { return x }\n", "go"),
        ("rust", "fn go(x: i32) -> i32 { x }\n", "go"),
        ("go", "package a\n\nfunc Go() {}\n", "Go"),
        ("c", "int go(int x) { return x; }\n", "go"),
        ("java", "class Go { int x() { return 1; } }\n", "Go"),
    ],
)
def test_a_definition_has_its_name_in_every_language(grammar, text, name):
    assert (name,) in [b.heading[-1:] for b in source_code.blocks(text, grammar)]


def test_a_broken_word_file_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.docx", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(DataError, match=r"broken \.docx file"):
        documents.read(tmp_path / "bad.docx")


def test_html_without_navigation_and_scripts(tmp_path):
    (tmp_path / "p.html").write_text(
        "<title>T</title><nav>menu</nav><h1>A</h1><p>said <b>so</b></p><script>no()</script>"
    )
    read = documents.read(tmp_path / "p.html")
    assert read.title == "T"
    assert [(b.heading, b.text) for b in read.blocks] == [(("A",), "said so")]


def test_a_notebook_by_cell(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Head\n", "words"]},
        {"cell_type": "code", "source": "x = 1", "outputs": []},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    blocks = documents.read(tmp_path / "n.ipynb").blocks
    assert [(b.text, b.heading, b.line) for b in blocks] == [
        ("words", ("Head",), 1),
        ("x = 1", ("Head",), 2),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "name,age\nAnn,3\n", [("name: Ann\nage: 3", 2)]),
        ("t.tsv", "name\tage\nAnn\t\n", [("name: Ann", 2)]),
        ("t.jsonl", '{"a": 1}\n\nnot json\n', [("a: 1", 1), ("not json", 3)]),
    ],
)
def test_rows_as_fields_and_values(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    blocks = documents.read(tmp_path / name).blocks
    assert [(b.text, b.line) for b in blocks] == expected


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
    refusal = guards.Guard(None, host, token)._refusal("/v1/models", headers)
    assert (refusal[0] if refusal else None) == fault


def test_loopback_needs_no_token_and_all_others_get_one():
    assert guards.token_for("127.0.0.1", "") == ""
    first, second = (guards.token_for("0.0.0.0", "") for _ in range(2))
    assert len(first) > 20
    assert first != second


def test_a_short_token_is_refused():
    with pytest.raises(SettingsError):
        guards.token_for("0.0.0.0", "short")


def test_a_port_in_use_is_refused():
    with guards.bind("127.0.0.1", 0) as first, pytest.raises(EngineError, match="cannot listen"):
        guards.bind("127.0.0.1", first.getsockname()[1])


@dataclass
class ServerSettings:
    host: str = "127.0.0.1"
    port: int = 0
    token: SecretStr = field(default_factory=lambda: SecretStr(""))
    allow_origin: tuple = ()
    timeout_s: int = 0


SECRET = "a-secret-of-enough-letters"


def test_a_server_demands_the_token_of_the_config():
    with app.listen(ServerSettings(token=SecretStr(SECRET))) as server:
        assert server.token == SECRET
        assert server.url == f"http://127.0.0.1:{server.listener.getsockname()[1]}"
        assert server.listener.getsockname()[1] > 0
    assert server.listener.fileno() == -1  # closed with the block


class Lines(Reporter):
    def __init__(self):
        self.lines = []

    def line(self, text=""):
        self.lines.append(text)


@pytest.mark.parametrize(("token", "ending"), [(SECRET, f"  token: {SECRET}"), ("", "")])
def test_a_server_announces_itself_and_runs_behind_the_guard(monkeypatch, token, ending):
    reporter, served = Lines(), {}

    def run(self, sockets):
        served.update(guard=self.config.app, sockets=sockets)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    with app.listen(ServerSettings(token=SecretStr(token))) as server:
        server.run(Starlette(), "my API", reporter, open_paths=("/",))
    assert reporter.lines == ["my API" + ending]
    assert served["sockets"] == [server.listener]
    assert (served["guard"].token, served["guard"].open_paths) == (token, ("/",))


def test_a_finished_completion_as_events():
    text = openai_schemas.completion_events(
        {"id": "1", "model": "m"}, {"content": "é"}, "stop", {"citations": []}
    )
    *events, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    head = {"id": "1", "model": "m", "object": "chat.completion.chunk"}
    choice = {"index": 0, "delta": {"content": "é"}, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert [json.loads(event) for event in events] == [
        {**head, "choices": [choice]},
        {**head, "choices": [end], "citations": []},
    ]


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
    assert "mrr fell" in compare.regressions(worse, [good])[0]
    assert compare.regressions(good, [worse]) == []
    assert compare.regressions(other, [worse, good]) == []


def test_a_run_is_found_by_a_part_of_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("ONECARD_RUNS", str(tmp_path))
    first = run_folder(tmp_path, "20260101-000000-rag-aaaa", [1.0])
    run_folder(tmp_path, "20260102-000000-rag-bbbb", [1.0])
    last = run_folder(tmp_path, "20260103-000000-rag-cccc", [1.0])
    assert store.find("aaaa").id == first.id
    assert store.find("last").id == last.id
    with pytest.raises(NotFound, match="3 runs"):
        store.find("rag")
    with pytest.raises(NotFound):
        store.find("zzz")


def test_a_run_of_version_0_1_reads_and_compares(tmp_path):
    """It has the verdict "not shown" in its texts; a comparison is computed anew."""
    old = run_folder(tmp_path, "20260101-000000-rag-aaaa", [1.0, 0.0] * 8)
    scores = json.loads((old.folder / "scores.json").read_text())
    verdict = "winner: not shown (hybrid and dense differ by +0.001 nDCG@10, p=0.90)"
    (old.folder / "scores.json").write_text(json.dumps({**scores, "verdicts": [verdict]}))
    new = run_folder(tmp_path, "20260102-000000-rag-bbbb", [0.0, 1.0] * 8)
    result = compare.compare(store.RunRecord(old.folder), new)
    assert result.data["metrics"]["mrr"]["test"]["verdict"] == "inconclusive"
    report.write(store.RunRecord(old.folder))
    assert verdict in (old.folder / "README.md").read_text()
