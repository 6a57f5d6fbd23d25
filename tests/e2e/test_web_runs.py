"""Runs through the page: filtered, compared, noted, thrown away and taken back; votes without
knowing whose answer is whose."""

import json

import pytest
from PIL import Image
from playwright.sync_api import expect

from onecard import api
from onecard.errors import OneCardError
from onecard.memory import devices
from onecard.memory.plan import Plan, Term
from onecard.reporting import Reporter
from onecard.runs import blind, record, store, trash

N = 12
"""Items to vote on."""


def new_run(home, monkeypatch, loss, items=(), status="done"):
    """A recorded run as a training leaves it, with two curves and a score."""
    monkeypatch.setenv("ONECARD_HOME", str(home))
    config = api.configure("tinylm", "train", values={"dataset": "text.txt", "max_steps": loss})
    plan = Plan((Term("weights", 1 << 20, "a few"),), devices.find("cpu"))
    run = record.start("tinylm", "train", config, plan, Reporter())
    with run:
        for step in range(5):
            run.log(step, loss=loss / (step + 1), val_loss=loss / (step + 2))
        run.scores({"val_loss": {"value": loss, "low": loss - 0.1, "high": loss + 0.1, "n": 9}})
        run.items(items)
    return run.folder.name


def answers(n=N):
    return [
        {
            "id": f"item {i}",
            "question": f"Question {i}?",
            "answers": {"base": f"plain {i}", "tuned": f"polished {i}"},
            "scores": {},
        }
        for i in range(n)
    ]


def test_runs_are_compared_noted_and_thrown_away(workbench, page, monkeypatch):
    one = new_run(workbench.home, monkeypatch, 4)
    two = new_run(workbench.home, monkeypatch, 2)
    page.goto(f"{workbench.url}/runs")
    page.get_by_label(f"choose {one}").check()
    page.get_by_label(f"choose {two}").check()
    page.get_by_role("button", name="Compare the chosen").click()
    expect(page.get_by_role("cell", name="max_steps")).to_be_visible()
    expect(page.locator("svg.chart")).to_have_count(2)
    expect(page.locator("svg.chart").first.locator("path")).to_have_count(2)

    page.goto(f"{workbench.url}/runs/{one}")
    page.get_by_label("Notes on this run").fill("the first try")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.goto(f"{workbench.url}/runs")
    page.locator("#words").fill("the first try")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No run matches.")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    assert (workbench.home / "runs" / one / "note.md").read_text() == "the first try"


def test_votes_become_a_paired_test(workbench, page, monkeypatch):
    run = new_run(workbench.home, monkeypatch, 3, answers())
    page.goto(f"{workbench.url}/runs/{run}/blind")
    for _ in range(N):
        left = page.locator(".answer-side .answer").first
        expect(left).to_be_visible()
        side = "left" if left.inner_text().startswith("polished") else "right"
        before = page.get_by_role("status").filter(has_text="votes").inner_text()
        page.locator(f"#vote-{side}").click()
        expect(page.get_by_role("status").filter(has_text="votes")).not_to_have_text(before)
    expect(page.get_by_text("The result is better than the base.")).to_be_visible()
    verdict = workbench.api.get(f"/runs/{run}/blind/verdict").json()
    assert (verdict["tuned"], verdict["base"]) == (N, 0)
    assert verdict["test"]["p_value"] == pytest.approx(2 / 2**N)


def test_an_item_shows_what_it_is_of(workbench, page, monkeypatch):
    """Its picture or sound, answers that are pictures, and what was recorded of it."""
    names = ("subject", "base", "tuned")
    files = {name: workbench.files / f"{name}.png" for name in names}
    for i, path in enumerate(files.values()):
        Image.new("RGB", (40 + i, 30), "red").save(path)
    gone = str(workbench.files / "gone.png")
    rows = [
        {"id": "a/b &?.png", "images": [str(files["subject"])], "label": "cat", "scores": {}},
        {"id": "drawn", "pictures": {k: str(files[k]) for k in names[1:]}, "scores": {}},
        {"id": "lost", "images": [gone], "pictures": {"base": "/etc/hostname"}, "scores": {}},
        {"id": "odd", "images": "x.png", "pictures": [1], "audio": None, "scores": {}},
    ]
    run = new_run(workbench.home, monkeypatch, 3, rows)
    page.goto(f"{workbench.url}/runs/{run}")
    widths = []
    for i in range(2):
        page.locator(".item summary").nth(i).click()
        for picture in page.locator(".item").nth(i).locator("img").all():
            expect(picture).not_to_have_js_property("naturalWidth", 0)
            widths.append(picture.evaluate("node => node.naturalWidth"))
    assert widths == [40, 41, 42]
    expect(page.get_by_text("label: cat")).to_be_visible()
    expect(page.locator(".item").nth(2).locator("img")).to_have_count(1)  # the file was moved
    expect(page.locator(".item").nth(3).locator("img")).to_have_count(0)
    address = f"/runs/{run}/items/media"
    for item, name in (("lost", "media"), ("lost", "base"), ("nothing", "media"), ("odd", "x")):
        reply = workbench.api.get(address, params={"item": item, "name": name})
        assert reply.status_code == 404 and reply.json()["error"]["fix"]


def test_a_ballot_does_not_tell_whose_answer_is_whose(own_home, monkeypatch, tmp_path):
    rows = [
        {"id": str(i), "prompt": "a ship", "scores": {}, "pictures": pictures(tmp_path, i)}
        for i in range(40)
    ]
    run = store.find(new_run(own_home, monkeypatch, 3, rows))
    ballot = blind.ballot(run)
    assert "base" not in json.dumps(ballot["items"])
    assert "tuned" not in json.dumps(ballot["items"])
    sides = {blind.media(run, row["id"], "left").parent.name for row in ballot["items"]}
    assert sides == {"base", "tuned"}  # neither side is always the same
    assert [row["id"] for row in ballot["items"]] == [
        row["id"] for row in blind.ballot(run)["items"]
    ]


def pictures(folder, i):
    paths = {}
    for name in ("base", "tuned"):
        (folder / name).mkdir(exist_ok=True)
        paths[name] = str(folder / name / f"{i}.png")
        (folder / name / f"{i}.png").write_bytes(b"\x89PNG")
    return paths


def test_a_vote_counts_once_and_ties_favour_neither(own_home, monkeypatch):
    run = store.find(new_run(own_home, monkeypatch, 3, answers(3)))
    for choice in ("left", "right", "tie"):
        blind.vote(run, "item 0", choice)
    assert blind.verdict(run)["votes"] == 1
    assert blind.verdict(run)["tie"] == 1
    assert blind.verdict(run)["test"]["verdict"] == "inconclusive"


@pytest.mark.parametrize("item, choice", [("nobody", "left"), ("item 0", "both"), ("", "tie")])
def test_other_votes_are_refused(own_home, monkeypatch, item, choice):
    run = store.find(new_run(own_home, monkeypatch, 3, answers(2)))
    with pytest.raises(OneCardError):
        blind.vote(run, item, choice)
    assert blind.verdict(run)["votes"] == 0


def test_a_file_that_is_no_picture_is_not_shown(own_home, monkeypatch, tmp_path):
    secret = tmp_path / "id_rsa"
    secret.write_text("key")
    row = {"id": "x", "scores": {}, "pictures": {"base": str(secret), "tuned": "b.png"}}
    run = store.find(new_run(own_home, monkeypatch, 3, [row]))
    for side in ("left", "right", "media"):
        with pytest.raises(OneCardError):
            blind.media(run, "x", side)


def test_a_run_without_two_answers_cannot_be_voted_on(own_home, monkeypatch):
    run = new_run(own_home, monkeypatch, 3, [{"id": "1", "scores": {"loss": 1.0}}])
    assert not api.can_vote(run)
    with pytest.raises(OneCardError):
        api.ballot(run)


@pytest.mark.parametrize("name", ["", "..", "../runs", "a/b", "nothing"])
def test_only_a_run_of_the_trash_is_restored(own_home, monkeypatch, name):
    run = new_run(own_home, monkeypatch, 3)
    api.trash_run(run)
    assert not api.runs()
    with pytest.raises(OneCardError):
        api.restore_run(name)
    assert api.restore_run(run).id == run


def test_a_running_run_is_not_thrown_away(own_home, monkeypatch):
    run = store.find(new_run(own_home, monkeypatch, 3))
    (run.folder / "status").write_text("running\n")
    with pytest.raises(OneCardError):
        trash.put(run)
    assert run.folder.is_dir()


def test_an_answer_with_a_line_separator_is_one_item(own_home, monkeypatch):
    rows = answers(2)
    rows[0]["answers"]["tuned"] = "one\u2028two\x85three"
    run = store.find(new_run(own_home, monkeypatch, 3, rows))
    assert len(run.items()) == 2
    blind.vote(run, "item 0", "left")
    assert blind.verdict(run)["votes"] == 1
