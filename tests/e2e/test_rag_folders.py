"""`rag index` over folders as they are: drives that vanish, other folders, links, hostile files."""

import shutil

import hostile_files
import pytest


@pytest.fixture
def ix(tmp_path):
    return tmp_path / "ix"


@pytest.fixture
def drive(tmp_path, onecard, ix):
    """An indexed folder of two notes."""
    folder = tmp_path / "drive"
    folder.mkdir()
    (folder / "a.md").write_text("# Winch\n\nThe winch was oiled in May by Ilse.\n")
    (folder / "b.md").write_text("# Barn\n\nThe barn roof holds 24 solar panels.\n")
    assert onecard("rag", "index", folder, "--index", ix, "--json").data["files"] == 2
    return folder


@pytest.mark.parametrize("mount_point_stays", [True, False])
def test_an_index_outlives_its_drive(onecard, ix, drive, mount_point_stays):
    shutil.rmtree(drive)
    if mount_point_stays:
        drive.mkdir()
    for words in (["rag", "index", "--index", ix], ["rag", "index", drive, "--index", ix]):
        done = onecard(*words, "--json")
        assert done.code == 0, done.err
        assert (done.data["files"], done.data["removed"]) == (2, 0)
        assert "drive mounted?" in done.data["notes"][0]


def test_a_file_that_was_deleted_leaves_the_index(onecard, ix, drive):
    (drive / "a.md").unlink()
    data = onecard("rag", "index", drive, "--index", ix, "--json").data
    assert (data["files"], data["removed"], data["notes"]) == (1, 1, [])


def test_another_folder_into_an_index_is_refused(onecard, ix, drive, notes):
    done = onecard("rag", "index", notes, "--index", ix)
    assert done.code == 2
    assert "holds 2 files of" in done.err
    assert onecard("rag", "index", drive, "--index", ix, "--json").data["unchanged"] == 2


def test_files_that_leave_with_a_folder_are_told(onecard, ix, drive, notes):
    assert onecard("rag", "index", drive, notes, "--index", ix, "--json").data["files"] == 6
    data = onecard("rag", "index", notes, "--index", ix, "--json").data
    assert (data["files"], data["removed"]) == (4, 2)
    assert data["notes"][0].startswith("2 files leave the index")


def test_a_link_out_of_the_folder_is_followed_only_when_asked(onecard, ix, drive, tmp_path):
    (tmp_path / "secret.md").write_text("# Safe\n\nThe code of the safe is 4471.\n")
    (drive / "link.md").symlink_to(tmp_path / "secret.md")
    data = onecard("rag", "index", drive, "--index", ix, "--json").data
    assert data["files"] == 2
    assert [n for reason, n in data["left_out"].items() if "lead out" in reason] == [1]
    data = onecard("rag", "index", drive, "--index", ix, "--follow_links", "--json").data
    assert data["files"] == 3


def test_hostile_files_cost_only_themselves(onecard, ix, drive):
    """Each of these stopped or killed `rag index`."""
    for number, text in enumerate(hostile_files.SMALL.values()):
        (drive / f"{number}.md").write_text(text)
    (drive / "deep.jsonl").write_text('{"a": "pallets"}\n' + "[" * 100_000)
    (drive / "deep.ipynb").write_text('{"cells": ' + "[" * 100_000)
    (drive / "deep.yaml").write_text(hostile_files.SMALL["yaml blocks"])
    (drive / "stars.c").write_text(hostile_files.SMALL["stars"])
    (drive / ".gitignore").write_text("!\n\\\n[z-a].md\n")
    done = onecard("rag", "index", drive, "--index", ix, "--json")
    assert done.code == 0, done.err
    assert any("deep.ipynb" in fault["what"] for fault in done.data["faults"])
    assert done.data["files"] >= 2 + len(hostile_files.SMALL)
    found = onecard("rag", "search", "pallets", "--index", ix, "--json").data
    assert found["passages"][0]["path"].endswith("deep.jsonl")
