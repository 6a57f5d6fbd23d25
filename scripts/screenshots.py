"""Takes the pictures of docs/screenshots: the real pages of a server with a home of its own.

    python scripts/screenshots.py [--language zh-TW] [--out docs/screenshots]

The home is /tmp/onecard-demo/home, with what lies there from an earlier call: the first call trains
two tiny models and a small tuning, which takes minutes. No path of this machine is in the pictures.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import made_pictures  # noqa: E402
import workbench  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

DEMO = Path("/tmp/onecard-demo")
TINY = {
    "n_layer": 2,
    "n_embd": 64,
    "block_size": 32,
    "per_device_train_batch_size": 8,
    "compile": "off",
    "bf16": "off",
    "eval_steps": 50,
}


def prepare(bench):
    """Documents, data sets and runs to look at."""
    notes, data = DEMO / "notes", DEMO / "data"
    if (DEMO / "ready").exists():
        return
    shutil.copytree(ROOT / "docs" / "how-to", notes, dirs_exist_ok=True)
    made_pictures.write_yolo(data / "shapes", made_pictures.scenes(24, 8))
    rows = [
        {"question": f"How is ticket {i} closed?", "answer": f"Ticket {i} is closed by its owner."}
        for i in range(60)
    ]
    lines = [json.dumps(row) for row in rows]
    (data / "pairs.jsonl").write_text("\n".join([*lines[:9], "not JSON", *lines[8:]]) + "\n")
    texts = [path.read_text() for path in sorted(notes.glob("*.md"))]
    (data / "text.txt").write_text("\n".join(texts))
    pairs = str(data / "pairs.jsonl")
    tuning = {"dataset": pairs, "model": "smollm2-135m", "max_steps": 24, "max_seq_length": 128}
    tuning |= {"gradient_accumulation_steps": 1}
    text = {"dataset": str(data / "text.txt"), **TINY}
    jobs = [
        ("rag", "index", {"folders": [str(notes)]}),
        ("detect", "check", {"data": str(data / "shapes")}),
        ("finetune", "check", {"dataset": pairs, "model": "smollm2-135m"}),
        ("tinylm", "train", {**text, "max_steps": 800}),
        ("tinylm", "train", {**text, "max_steps": 400, "learning_rate": 0.002}),
        ("finetune", "train", tuning | {"eval_items": 12}),
    ]
    for task, command, values in jobs:
        body = {"task": task, "command": command, "values": values}
        job = bench.api.post("/jobs", json=body).json()
        print(task, command, bench.wait(job["id"], 3600)["status"])
    (DEMO / "ready").touch()


def newest(bench, task):
    return bench.api.get("/runs", params={"task": task}).json()


def take(page, bench, out):
    """One picture a page."""

    def shot(name, path, act=lambda: None, *, seconds=2.5):
        page.goto(bench.url + path)
        page.wait_for_timeout(seconds * 1000)
        act()
        page.wait_for_timeout(800)
        page.screenshot(path=out / f"{name}.png")
        print(out / f"{name}.png")

    def ask():
        page.locator("#style").select_option("quote")
        page.locator("#question").fill("What happens when memory runs out?")
        page.locator("#question").press("Enter")
        page.locator(".citations button").first.click(timeout=120_000)

    def look_at(selector):
        return lambda: page.locator(selector).first.scroll_into_view_if_needed()

    def too_small():
        page.locator("#card").fill("8gb")
        page.locator("#fit").click()
        page.wait_for_timeout(500)
        page.evaluate("scrollTo(0, 0)")

    runs = newest(bench, "tinylm")
    tuned = newest(bench, "finetune")
    shot("home", "/", seconds=6)
    shot("plan", "/plan", too_small)
    shot("notes", "/notes", ask)
    shot("task", "/tasks/finetune#check", look_at(".job"))
    shot("run", f"/runs/{tuned[0]['id']}")
    shot("compare", f"/runs/compare?ids={runs[0]['id']},{runs[1]['id']}")
    shot("blind", f"/runs/{tuned[0]['id']}/blind")
    shot("chat", "/chat?model=qwen2.5-coder:0.5b", lambda: chat(page))


def chat(page):
    question = "Write a Python function that finds the longest line of a file."
    page.get_by_role("textbox").last.fill(question)
    page.keyboard.press("Enter")
    page.wait_for_timeout(20_000)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--language", default="en-US")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshots")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    choice = parser.parse_args()
    home = DEMO / "home"
    home.mkdir(parents=True, exist_ok=True)
    for name in ("models", "dense"):
        source = Path.home() / ".cache" / "onecard" / name
        if not (home / name).exists():
            (home / name).symlink_to(source, target_is_directory=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    bench = workbench.start(home, "--root", DEMO, cwd=DEMO)
    choice.out.mkdir(parents=True, exist_ok=True)
    try:
        prepare(bench)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=workbench.CHROMIUM, args=["--no-sandbox"]
            )
            context = browser.new_context(
                locale=choice.language,
                viewport={"width": choice.width, "height": 800},
                color_scheme="dark" if choice.dark else "light",
            )
            take(context.new_page(), bench, choice.out)
            browser.close()
    finally:
        bench.stop()
    time.sleep(1)


if __name__ == "__main__":
    main()
