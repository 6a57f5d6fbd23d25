"""vlm extract and vlm describe over a real server that decodes each picture and answers by its
colour: receipts, scans, broken files, answers that are no JSON, stops and resumes."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onecard.errors import DataError, EngineError, NotFound, SettingsError
from onecard.memory import devices
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.runs.record import Run
from onecard.tasks.vlm import describe, extract
from onecard.tasks.vlm.configs import DescribeConfig, ExtractConfig
from tests.made_receipts import receipt, scan
from tests.picture_server import PictureServer, Words

FIELDS = {
    "red": {"vendor": "Bakery Huber", "total": "3.20"},
    "green": {"vendor": "Gardener Sommer", "total": "85.00"},
    "blue": {"vendor": "Zebra Insurance", "total": None},
    "yellow": {"vendor": "Nails & Co", "total": "40"},
    "violet": {"vendor": "Lumi Ferry", "total": "17.50"},
}
NESTED = {
    "type": "object",
    "properties": {
        "vendor": {"type": "string"},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "price": {"type": "number"}},
                "required": ["name", "price"],
            },
        },
        "paid": {"type": "boolean"},
    },
    "required": ["vendor", "items"],
}


def as_json(asked):
    return json.dumps(FIELDS[asked.colour])


@pytest.fixture
def server():
    with PictureServer(as_json) as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    """Two receipts in folders of their own with one name, and a scan of two pages."""
    for year, colour in (("2023", "red"), ("2024", "yellow")):
        (tmp_path / "papers" / year).mkdir(parents=True)
        receipt(colour, ["RECEIPT", f"year {year}"]).save(tmp_path / "papers" / year / "till.png")
    (tmp_path / "papers" / "scans").mkdir()
    scan(tmp_path / "papers" / "scans" / "scan.pdf", ["green", "blue"])
    return tmp_path / "papers"


class Told(Reporter):
    def __init__(self):
        self.lines = []

    def line(self, text=""):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(text)


def a_run(reporter=None):
    return Run(None, reporter or Reporter(), Plan((), devices.find("cpu")))


def extracted(folder, server, reporter=None, **settings):
    """Rows of `vlm extract` into `out` beside the folder."""
    values = {"images": (str(folder),), "output_dir": str(folder.parent / "out"), **settings}
    if "schema_file" not in settings:
        values.setdefault("fields", ("vendor", "total"))
    config = ExtractConfig(base_url=server.url, **values)
    return extract.extract(config, a_run(reporter)).data["rows"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(folder):
    path = folder.parent / "out" / "fields.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# Documents


def test_fields_of_receipts_and_scans(folder, server):
    rows = extracted(folder, server)
    assert [(row["name"], row["page"], row["fields"]) for row in rows] == [
        ("till.png", 0, FIELDS["red"]),
        ("till.png", 0, FIELDS["yellow"]),
        ("scan.pdf page 1", 1, FIELDS["green"]),
        ("scan.pdf page 2", 2, FIELDS["blue"]),
    ]
    assert all(row["schema_faults"] == [] and len(row["sha256"]) == 64 for row in rows)
    assert lines_of(folder.parent / "out" / "fields.jsonl") == rows
    assert table(folder) == [
        ["document", "page", "vendor", "total"],
        [f"{folder}/2023/till.png", "0", "Bakery Huber", "3.20"],
        [f"{folder}/2024/till.png", "0", "Nails & Co", "40"],
        ["scan.pdf page 1", "1", "Gardener Sommer", "85.00"],
        ["scan.pdf page 2", "2", "Zebra Insurance", ""],
    ]
    schema = server.asked[0].body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["vendor", "total"] and not schema["additionalProperties"]
    assert "null" in server.asked[0].text


def test_names_of_fields_may_be_cut_by_commas(folder, server):
    extracted(folder / "2023", server, fields=("vendor, total", "total", " "))
    schema = server.asked[0].body["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["vendor", "total"]


def test_nested_fields_by_a_schema(folder, server, tmp_path):
    value = {
        "vendor": "Huber",
        "items": [{"name": "rye", "price": 3.2}, {"name": "roll", "price": -0.5}],
        "paid": True,
    }
    server.answer = lambda asked: json.dumps(value)
    (tmp_path / "schema.json").write_text(json.dumps(NESTED))
    rows = extracted(folder / "2023", server, schema_file=str(tmp_path / "schema.json"))
    assert rows[0]["fields"] == value and rows[0]["schema_faults"] == []
    assert server.asked[0].body["response_format"]["json_schema"]["schema"] == NESTED
    head, cells = table(folder / "2023")
    assert dict(zip(head, cells, strict=True)) == {
        "document": "till.png",
        "page": "0",
        "vendor": "Huber",
        "items[0].name": "rye",
        "items[0].price": "3.2",
        "items[1].name": "roll",
        "items[1].price": "-0.5",
        "paid": "true",
    }


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"fields": ()}, "no fields"),
        ({"fields": (" ", ",")}, "no fields"),
        ({"fields": ("a",), "schema_file": "schema.json"}, "both given"),
        ({"fields": (), "schema_file": "none.json"}, "is no JSON schema"),
        ({"images": ()}, "there are no pictures"),
        ({"images": ("nowhere",)}, "there is no picture"),
    ],
)
def test_a_mistake_is_told_before_the_model_is_asked(folder, server, settings, fault):
    with pytest.raises((SettingsError, DataError, NotFound), match=fault):
        extracted(folder, server, **settings)
    assert server.asked == [] and not (folder.parent / "out" / "fields.jsonl").exists()


# Answers


BROKEN = '{"vendor": "Huber", "items": [{"vendor": "rye", "total": "1"}, {"vendor": "ro'
ANSWERS = [
    # (answer, fields or None, part of the first schema fault or of the error)
    ('Sure!\n```json\n{"vendor": "A", "total": "1"}\n```\nAnything else?', ("A", "1"), ""),
    ('[JSON] {"vendor": "A", "total": "1"} as asked.', ("A", "1"), ""),
    ('{"vendor": "use ```json {} ```", "total": "1"}', ("use ```json {} ```", "1"), ""),
    ('{"vendor": "A"}', ("A", None), "total is missing"),
    ('{"vendor": 3, "total": "1"}', (3, "1"), "vendor: 3 is no string"),
    ("I cannot read this.", None, "the answer holds no JSON"),
    ("", None, "the answer holds no JSON"),
    ('{"vendor": NaN, "total": "1"}', None, "the answer holds no JSON"),
    ("[" * 5000, None, "the answer holds no JSON"),
    (BROKEN, None, "the answer holds no JSON"),
    (BROKEN + '"}, total: 3}', None, "the answer holds no JSON"),
    (Words(BROKEN, "length"), None, "the answer was cut off"),
    (Words('[{"vendor": "A", "total": "1"}, {"ve', "length"), None, "the answer was cut off"),
]


@pytest.mark.parametrize(("answer", "fields", "fault"), ANSWERS, ids=range(len(ANSWERS)))
def test_what_an_answer_holds(folder, server, answer, fields, fault):
    """What is inside of a broken answer never stands for the whole."""
    server.answer = lambda asked: answer if asked.colour == "red" else as_json(asked)
    row = extracted(folder, server)[0]
    if fields is None:
        assert fault in row["error"] and "fields" not in row
        assert table(folder)[1][2:] == ["", "", row["error"]]
        return
    assert (row["fields"]["vendor"], row["fields"].get("total")) == fields
    assert [fault in each for each in row["schema_faults"]] == [True] * bool(fault)


def test_a_list_that_is_asked_for(folder, server, tmp_path):
    schema = {"type": "array", "items": {"type": "object"}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    server.answer = lambda asked: 'A list {of two}: [{"sum": 1}, {"sum": 2}]'
    rows = extracted(folder / "2023", server, schema_file=str(tmp_path / "schema.json"))
    assert rows[0]["fields"] == [{"sum": 1}, {"sum": 2}] and rows[0]["schema_faults"] == []
    assert table(folder / "2023")[0] == ["document", "page", "[0].sum", "[1].sum"]


def test_a_deep_answer_is_one_cell(folder, server):
    deep = {"vendor": "x", "total": "1"}
    for _ in range(60):
        deep = {"a": deep}
    server.answer = lambda asked: json.dumps(deep)
    assert extracted(folder / "2023", server)[0]["fields"] == deep
    head, cells = table(folder / "2023")
    assert head[2].count(".") == 19 and json.loads(cells[2])["a"]


def test_letters_that_no_file_can_hold(folder, server):
    """Half surrogates, as in an answer's \\ud83d and in a file's name."""
    (folder / "2024" / "till.png").rename(folder / "2024" / "caf\udce9.png")
    server.answer = lambda asked: '{"vendor": "caf\\ud83d", "total": "\\u0000"}'
    rows = extracted(folder, server)
    assert rows[1]["name"] == "caf\udce9.png" and rows[0]["fields"]["vendor"] == "caf\ud83d"
    assert lines_of(folder.parent / "out" / "fields.jsonl") == rows
    extracted(folder, server, resume=True)
    assert len(server.asked) == 4


def test_a_document_runs_no_formula_in_a_spreadsheet(folder, server):
    """Neither by a value nor by the name of a field or of the file."""
    attacks = ['=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", " =1+1", "＝1"]
    value = {f"={i}": text for i, text in enumerate(attacks)} | {"total": "-12.50", "n": -3}
    server.answer = lambda asked: json.dumps(value)
    (folder / "2023" / "till.png").rename(folder / "2023" / "=cmd.png")
    rows = extracted(folder / "2023", server)
    assert rows[0]["fields"] == value
    head, cells = table(folder / "2023")
    assert cells[0] == "'=cmd.png" and cells[-2:] == ["-12.50", "-3"]
    assert head[2:9] == [f"'={i}" for i in range(7)]
    assert cells[2:9] == [f"'{text}" for text in attacks]


# Files


def test_broken_files_take_no_other_with_them(folder, server):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nonsense")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    told = Told()
    rows = extracted(folder, server, told)
    errors = {row["name"]: row["error"] for row in rows if "error" in row}
    assert set(errors) == {"broken.png", "broken.pdf", "empty.jpg"}
    assert len(rows) == 7 and len(server.asked) == 4
    assert any("broken.pdf" in line for line in told.lines)


def test_nothing_that_can_be_read_is_an_error(folder, server):
    (folder / "2023" / "till.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="no document could be read"):
        extracted(folder / "2023", server)
    assert lines_of(folder / "out" / "fields.jsonl")[0]["error"]


def test_one_refused_picture_takes_no_other_with_it(folder, server):
    """Also where the same ones are refused again and again."""
    server.answer = lambda asked: (
        as_json(asked) if asked.colour == "blue" else Words("it chokes", status=500)
    )
    for resume in (False, True):
        rows = extracted(folder, server, resume=resume)
        assert ["it chokes" in row.get("why", "") for row in rows] == [True, True, True, False]
    server.answer = as_json
    assert all("fields" in row for row in extracted(folder, server, resume=True))


def test_a_server_that_goes_down_loses_nothing(folder, server):
    for i in range(6):
        receipt("violet", [f"ferry {i}"]).save(folder / f"{i}.png")
    server.down_after = 4
    with pytest.raises(EngineError) as fault:
        extracted(folder, server)
    assert "--resume" in fault.value.fix
    server.down_after = None
    rows = extracted(folder, server, resume=True)
    assert len(rows) == len(server.asked) == 10 and all("fields" in row for row in rows)


# Stops and resumes


def test_a_killed_command_goes_on(folder, server):
    for i in range(8):
        receipt("violet", [f"ferry {i}"]).save(folder / f"{i}.png")
    server.delay_s = 0.3
    words = ["vlm", "extract", str(folder), "--fields", "vendor", "--fields", "total"]
    words += ["--base_url", server.url, "--output_dir", str(folder.parent / "out")]
    child = subprocess.Popen([sys.executable, "-m", "onecard", *words], stderr=subprocess.DEVNULL)
    while len(server.asked) < 4 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    path = folder.parent / "out" / "fields.jsonl"
    n_complete = len(lines_of(path))
    assert 3 <= n_complete < 12
    with path.open("ab") as file:
        file.write(b'{"file": "' + str(folder).encode())  # a line that was cut off
    with pytest.raises(SettingsError, match="exists"):
        extracted(folder, server)
    server.asked.clear()
    server.delay_s = 0.0
    rows = extracted(folder, server, resume=True)
    assert len(server.asked) == 12 - n_complete and all("fields" in row for row in rows)
    assert lines_of(path) == rows and len(rows) == 12


def test_a_second_kill_loses_no_line(folder, server, monkeypatch):
    """A line that was cut off is never joined with the next one."""
    extracted(folder / "2023", server)
    path = folder / "out" / "fields.jsonl"
    with path.open("ab") as file:
        file.write(b'{"file": "cut')

    def stop(path, rows):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extract.document_answers, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            extracted(folder, server, output_dir=str(folder / "out"), resume=True)
    server.asked.clear()
    rows = extracted(folder, server, output_dir=str(folder / "out"), resume=True)
    assert server.asked == [] and len(rows) == 4


def test_a_changed_picture_is_asked_about_again(folder, server):
    extracted(folder, server)
    receipt("violet", ["ferry"]).save(folder / "2023" / "till.png")
    server.asked.clear()
    rows = extracted(folder, server, resume=True)
    assert [asked.colour for asked in server.asked] == ["violet"]
    assert rows[0]["fields"] == FIELDS["violet"] and len(rows) == 4


def test_a_folder_is_added_to_the_answers_of_another(folder, server):
    extracted(folder / "2023", server, output_dir=str(folder.parent / "out"))
    rows = extracted(folder / "2024", server, output_dir=str(folder.parent / "out"), resume=True)
    assert [row["fields"]["vendor"] for row in rows] == ["Bakery Huber", "Nails & Co"]
    assert len(table(folder)) == 3 and len(server.asked) == 2


def test_another_question_is_not_mixed_in(folder, server):
    extracted(folder, server)
    path = folder.parent / "out" / "fields.jsonl"
    before = path.read_bytes()
    for other in ({"fields": ("date",)}, {"question": "Which shop?"}, {"system": "Be brief."}):
        with pytest.raises(SettingsError, match="another question"):
            extracted(folder, server, resume=True, **other)
    assert path.read_bytes() == before
    with PictureServer(as_json) as elsewhere:  # the same model at another address
        assert len(extracted(folder, elsewhere, resume=True)) == 4
        assert elsewhere.asked == []


# Descriptions


def test_descriptions_of_pictures_and_pages(onecard, folder, server):
    server.answer = lambda asked: (
        " \n" if asked.colour == "blue" else Words(f"A {asked.colour} paper.", "length")
    )
    (folder / "broken.png").write_bytes(b"nonsense")
    out = folder.parent / "out"
    done = onecard(
        *("vlm", "describe", folder, "--base_url", server.url, "--output_dir", out),
        *("--question", "What is it?"),
    )
    assert done.code == 0, done.err
    assert "3 of 5 described" in done.out and "--descriptions" in done.out
    assert "the answer is empty" in done.err and "3 answers were cut off" in done.err
    rows = lines_of(out / "descriptions.jsonl")
    texts = {(Path(row["file"]).name, row["page"]): row.get("text") for row in rows}
    assert texts == {
        ("till.png", 0): "A yellow paper.",
        ("scan.pdf", 1): "A green paper.",
        ("scan.pdf", 2): None,
        ("broken.png", 0): None,
    }
    assert {asked.text for asked in server.asked} == {"What is it?"}
    assert all("response_format" not in asked.body for asked in server.asked)


def test_an_answer_that_was_cut_off_is_asked_for_again_with_more_room(folder, server):
    server.answer = lambda asked: (
        Words("A", "length") if asked.body["max_tokens"] < 100 else f"A {asked.colour} paper."
    )
    values = {"base_url": server.url, "output_dir": str(folder.parent / "out")}
    config = DescribeConfig(images=(str(folder / "2023"),), max_tokens=50, **values)
    describe.describe(config, a_run())
    for max_tokens, n, text in ((50, 1, "A"), (200, 2, "A red paper."), (400, 2, "A red paper.")):
        more = config.model_copy(update={"resume": True, "max_tokens": max_tokens})
        (row,) = describe.describe(more, a_run()).data["rows"]
        assert (row["text"], len(server.asked)) == (text, n)


def test_an_empty_description_is_asked_for_again(folder, server):
    server.answer = lambda asked: "" if asked.colour == "red" else "A paper."
    values = {"base_url": server.url, "output_dir": str(folder.parent / "out")}
    config = DescribeConfig(images=(str(folder),), **values)
    describe.describe(config, a_run())
    server.answer = lambda asked: "A red paper."
    rows = describe.describe(config.model_copy(update={"resume": True}), a_run()).data["rows"]
    assert [row["text"] for row in rows] == ["A red paper.", "A paper.", "A paper.", "A paper."]
