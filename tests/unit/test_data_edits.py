"""Rows changed and rejected in a copy; pictures taken out of a data set and put back."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.datasets import row_edits
from onecard.datasets.images import rejects
from onecard.errors import OneCardError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.dictionaries(st.text(min_size=1, max_size=6), JSON, min_size=1), min_size=1),
    data=st.data(),
)
def test_what_is_not_edited_stays_to_the_letter(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = path.read_bytes()
    out = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    target, counts = row_edits.edited_copy(path, dict.fromkeys(out))
    kept = [json.loads(line) for line in target.read_text().split("\n") if line]
    assert kept == [row for i, row in enumerate(rows) if i not in out]
    assert counts == {"kept": len(kept), "changed": 0, "rejected": len(out)}
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[1]", "no json", '"x"', "{", "[" * 5000])
def test_an_edit_that_is_no_object_is_refused_and_writes_nothing(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(OneCardError):
        row_edits.edited_copy(path, {0: text})
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_copies_never_overwrite_each_other(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\na,b\nc,d\n")
    names = [row_edits.edited_copy(path, {1: None})[0].name for _ in range(3)]
    assert names == ["rows.edited.jsonl", "rows.edited-2.jsonl", "rows.edited-3.jsonl"]
    again, _ = row_edits.edited_copy(tmp_path / names[0], {})
    assert again.name == "rows.edited-4.jsonl"


def test_a_page_of_rows_tells_places_and_faults(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "one"}\nbroken\n{"a": "two"}\n')
    page = row_edits.page(path, 1, 1)
    assert page["total"] == 3
    assert page["rows"][0]["place"] == "rows.jsonl:2"
    assert "not JSON" in page["rows"][0]["fault"]
    assert [row["number"] for row in row_edits.page(path, query="TWO")["rows"]] == [2]


@pytest.fixture
def pictures(tmp_path):
    """Three pictures as YOLO lays them out, and one beside its caption."""
    for name in ("a", "b", "c"):
        for kind, ending in (("images", "jpg"), ("labels", "txt")):
            folder = tmp_path / kind / "train"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.{ending}").write_bytes(b"x")
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "one.png").write_bytes(b"x")
    (tmp_path / "style" / "one.txt").write_bytes(b"x")
    return tmp_path


def tree(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "name, n_files", [("images/train/b.jpg", 2), ("style/one.png", 2), ("images/train/a.jpg", 2)]
)
def test_a_rejected_picture_goes_with_its_labels_and_comes_back(pictures, name, n_files):
    before = tree(pictures)
    assert len(rejects.reject(pictures, name)) == n_files
    assert name not in rejects.listing(pictures, 0, 99)["names"]
    assert rejects.listing(pictures, 0, 99, rejected=True)["names"] == [name]
    rejects.restore(pictures, name)
    assert tree(pictures) == before


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "/etc/passwd", "images", "images/train/a.txt", "", "no.jpg", ".rejected/x.jpg"],
)
def test_only_a_picture_of_the_set_is_rejected(pictures, name):
    before = tree(pictures)
    with pytest.raises(OneCardError):
        rejects.reject(pictures, name)
    assert tree(pictures) == before


def test_a_picture_that_would_be_overwritten_stays(pictures):
    rejects.reject(pictures, "images/train/a.jpg")
    (pictures / "images" / "train" / "a.jpg").write_bytes(b"another")
    with pytest.raises(OneCardError):
        rejects.restore(pictures, "images/train/a.jpg")
    assert (pictures / "images" / "train" / "a.jpg").read_bytes() == b"another"
