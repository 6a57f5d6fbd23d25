"""A small real training through the page: checked, planned, started, left alone, stopped, resumed,
proven, opened in chat; votes; runs compared and thrown away."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="installed by make test")
from playwright.sync_api import expect  # noqa: E402

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
    "max_steps": 3000,
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
    shorten(workbench, resumed)
    row = workbench.wait(resumed)
    assert row["status"] in ("done", "stopped"), row
    assert workbench.api.get(f"/runs/{run}").json()["status"] == "stopped"
    again.context.close()


def wait_for_checkpoint(workbench, job_id):
    """Until the run has written its first whole checkpoint."""
    from processes import wait_until

    def has_one():
        run = workbench.api.get(f"/jobs/{job_id}").json()["run"]
        folder = workbench.home / "runs" / run / "artifacts"
        return any(folder.glob("**/*checkpoint*"))

    wait_until(has_one, 120)


def shorten(workbench, job_id):
    """Nothing: the resumed training ends by itself."""


def test_the_truth_of_a_dead_job_is_told(workbench, page, text):
    import os
    import signal

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
