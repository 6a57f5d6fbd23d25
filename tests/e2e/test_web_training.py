"""A small real training through the page: checked, planned, started, left alone, stopped, resumed,
proven, opened in chat; votes; runs compared and thrown away."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="installed by make test")
from playwright.sync_api import expect
from workbench import start, until

ROOT = Path(__file__).parents[2]
SLOW = 120_000
"""Milliseconds that a step of a real training may take on a busy machine."""


@pytest.fixture(scope="module")
def text(workbench):
    """This project's own pages as one text, below the page's root."""
    files = sorted(p for p in ROOT.glob("docs/**/*.md") if p.name != "reference.md")
    path = workbench.files / "pages.txt"
    path.write_text("\n\n".join(file.read_text() for file in files))
    return path


def fill_field(page, name, value):
    """Open the group of a setting and write into it."""
    field = page.locator(f'[data-field="{name}"]')
    page.get_by_role("searchbox").first.fill(name)
    control = field.locator("input:not([type=file]):not([type=range]), select, textarea").first
    tag = control.evaluate("node => node.tagName + ' ' + node.type")
    if tag.startswith("SELECT"):
        control.select_option(value)
    elif "checkbox" in tag:
        control.set_checked(value)
    else:
        control.fill(str(value))
        control.blur()
    page.get_by_role("searchbox").first.fill("")


SETTINGS = {
    "n_layer": 2,
    "n_embd": 64,
    "block_size": 32,
    "per_device_train_batch_size": 8,
    "compile": "off",
    "bf16": "off",
    "max_steps": 1500,
    "save_steps": 100,
    "eval_steps": 100,
    "sample": "The ",
}


def test_a_training_outlives_the_page_and_ends_in_chat(workbench, page, browser, text):
    page.goto(f"{workbench.url}/tasks/tinylm#train")
    fill_field(page, "dataset", text)
    for name, value in SETTINGS.items():
        fill_field(page, name, value)
    expect(page.locator(".memory-bar")).to_be_visible()
    expect(page.locator(".badge.fits").first).to_be_visible()
    page.get_by_role("button", name="Start", exact=True).click()
    job = page.locator(".job")
    expect(job.locator(".badge.running")).to_be_visible(timeout=SLOW)
    expect(job.locator("svg.chart").first).to_be_visible(timeout=SLOW)
    before = job.locator("svg.chart path").first.get_attribute("d")
    expect(job.locator("svg.chart path").first).not_to_have_attribute("d", before, timeout=SLOW)
    job_id = job.get_attribute("data-job")
    page.context.close()  # the browser goes; the training stays

    assert workbench.api.get(f"/jobs/{job_id}").json()["status"] == "running"
    again = browser.new_context(locale="en-US").new_page()
    again.goto(f"{workbench.url}/tasks/tinylm#train")
    job = again.locator(".job")
    expect(job).to_have_attribute("data-job", job_id, timeout=SLOW)
    wait_for_checkpoint(workbench, job_id)
    job.get_by_role("button", name="Stop and keep a checkpoint").click()
    expect(job.locator(".badge.stopped")).to_be_visible(timeout=SLOW)
    run = workbench.wait(job_id)["run"]

    again.get_by_role("button", name="Resume from the checkpoint").click()
    again.wait_for_url(re.compile("/jobs/"), timeout=SLOW)
    resumed = again.url.rsplit("/", 1)[1]
    expect(again.locator(".proof")).to_be_visible(timeout=SLOW)  # the page shows it by itself
    row = workbench.wait(resumed)
    assert row["status"] == "done", row
    assert "resum" in row_text(workbench, resumed).lower()
    again.get_by_role("link", name="Open the run").click()
    expect(again.locator(".proof")).to_contain_text("val_loss")
    link = again.locator("#open-in-chat")
    assert link.get_attribute("href") == f"/chat?model=run%3A{row['run']}"
    assert workbench.api.get(f"/runs/{run}").json()["status"] == "stopped"
    again.context.close()


def row_text(workbench, job_id):
    return workbench.api.get(f"/jobs/{job_id}?start=0").json()["output"]


def wait_for_checkpoint(workbench, job_id):
    """Until the run has written its first whole checkpoint."""
    for _ in range(1200):
        run = workbench.api.get(f"/jobs/{job_id}").json()["run"]
        folder = workbench.home / "runs" / run / "artifacts"
        if any(folder.glob("**/*checkpoint*")):
            return
        time.sleep(0.1)
    raise AssertionError("there is no checkpoint")


def test_the_truth_of_a_dead_job_is_told(workbench, page, text):
    values = {**SETTINGS, "dataset": str(text), "bf16": "off", "max_steps": 100_000}
    job = workbench.api.post(
        "/jobs", json={"task": "tinylm", "command": "train", "values": values}
    ).json()["id"]
    page.goto(f"{workbench.url}/jobs/{job}")
    expect(page.locator(".job .badge.running")).to_be_visible(timeout=SLOW)
    pid = json.loads((workbench.home / "jobs" / job / "process.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    expect(page.locator(".job .badge.killed")).to_be_visible(timeout=SLOW)
    page.reload()
    expect(page.locator(".job .badge.killed")).to_be_visible(timeout=SLOW)


def test_data_are_checked_mended_and_used(workbench, page):
    rows = [{"question": f"What is {i}?", "answer": f"It is {i * 7}, a number."} for i in range(40)]
    lines = [json.dumps(row) for row in rows]
    lines.insert(4, '{"question": "Broken')
    path = workbench.files / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    page.goto(f"{workbench.url}/tasks/finetune#check")
    fill_field(page, "dataset", path)
    fill_field(page, "model", "smollm2-135m")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("cell", name="broken rows")).to_be_visible(timeout=SLOW)
    page.get_by_role("button", name=re.compile("pairs.jsonl:5")).click()
    row = page.locator(".data-row.broken")
    row.locator("textarea").fill('{"question": "Mended?", "answer": "Yes, it is."}')
    page.locator(".data-row").last.get_by_label("reject").check()
    page.get_by_role("button", name="Save a copy with these changes").click()
    expect(page.get_by_text("1 changed, 1 rejected, 39 kept")).to_be_visible()
    copy = workbench.files / "pairs.edited.jsonl"
    assert page.locator('[data-field="dataset"] input').first.input_value() == str(copy)
    assert [json.loads(line)["question"] for line in copy.read_text().splitlines()][4] == "Mended?"
    assert path.read_text().splitlines()[4] == '{"question": "Broken'


def test_make_it_fit_turns_the_settings(workbench, page):
    page.goto(f"{workbench.url}/plan")
    page.locator("#plan").select_option("qlora")
    page.locator("#model").fill("llama-3.1-8b")
    page.locator("#card").fill("7gb")
    bar = page.locator("#bar")
    expect(bar.locator(".badge")).to_have_text("does not fit")
    page.locator("#fit").click()
    expect(page.locator("#changes li").first).to_be_visible()
    expect(bar.locator(".badge")).to_have_text(re.compile("^fits"))
    command = page.locator("#line").inner_text()
    assert command.startswith("onecard plan qlora llama-3.1-8b")
    assert "--card 7gb" in command


def test_a_slider_moves_the_bar(workbench, page):
    page.goto(f"{workbench.url}/plan")
    slider = page.locator('[data-field="max_seq_length"] input[type=range]')
    before = page.locator("#bar strong").first.inner_text()
    slider.focus()
    slider.press("ArrowRight")
    expect(page.locator("#bar strong").first).not_to_have_text(before)
    number = page.locator('[data-field="max_seq_length"] input[type=number]')
    assert number.input_value() == "4096"


def test_jobs_wait_for_each_other_and_survive_the_server(session_home, text):
    home = session_home
    bench = start(home, "--root", text.parent)
    values = {**SETTINGS, "dataset": str(text), "max_steps": 100_000}
    body = {"task": "tinylm", "command": "train", "values": values}
    one = bench.api.post("/jobs", json=body).json()["id"]
    two = bench.api.post("/jobs", json={**body, "values": {**values, "max_steps": 20}}).json()["id"]
    until(lambda: (run := bench.api.get(f"/jobs/{one}").json()["run"]) and curves(bench, run))
    assert bench.api.get(f"/jobs/{two}").json()["place"] == 1
    bench.process.send_signal(signal.SIGKILL)
    bench.process.wait()

    bench = start(home, "--root", text.parent)
    assert bench.api.get(f"/jobs/{one}").json()["status"] == "running"
    bench.api.post(f"/jobs/{one}/stop")
    row = bench.wait(one)
    assert row["status"] == "stopped", (row, bench.api.get(f"/jobs/{one}").json()["output"])
    assert bench.wait(two)["status"] == "done"
    bench.stop()


def curves(bench, run):
    return bench.api.get(f"/runs/{run}/events").json()["curves"]
