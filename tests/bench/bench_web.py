"""The page by the clock and by the memory of its server.

python tests/bench/bench_web.py [--loads 200] [--jobs 200] [--moves 50]    8 minutes

First contentful paint of warm pages, the time from a slider's move to the changed memory bar, the
memory of an idle server; and memory, threads and open files of the server over page loads and jobs.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import workbench as benches  # noqa: E402
from homes import new_home  # noqa: E402

PAGES = ("/", "/plan", "/chat", "/notes", "/runs", "/jobs", "/tasks/finetune", "/glossary")
PAINT = """() => new Promise((resolve) => {
  const tell = (rows) => { const row = rows.find((each) => each.name === "first-contentful-paint");
    if (row) resolve(row.startTime); };
  tell(performance.getEntriesByType("paint"));
  const observer = new PerformanceObserver((list) => tell(list.getEntries()));
  observer.observe({ type: "paint", buffered: true });
})"""
MOVE = """([index, value]) => new Promise((resolve) => {
  const slider = document.querySelectorAll("#settings input[type=range]")[index];
  const bar = document.querySelector("#bar"), before = bar.textContent;
  const start = performance.now();
  const observer = new MutationObserver(() => {
    if (bar.textContent === before) return;
    observer.disconnect();
    resolve(performance.now() - start);
  });
  observer.observe(bar, { childList: true, subtree: true, characterData: true });
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  setTimeout(() => { observer.disconnect(); resolve(null); }, 5000);
})"""


def state(process):
    """Memory (MB, resident), threads, open files of the server; zombies below it."""
    children = process.children(recursive=True)
    return {
        "rss_mb": round(process.memory_info().rss / 1e6, 1),
        "threads": process.num_threads(),
        "fds": process.num_fds(),
        "zombies": sum(child.status() == psutil.STATUS_ZOMBIE for child in children),
    }


def summary(values):
    values = sorted(values)
    return {
        "n": len(values),
        "median": round(statistics.median(values), 1),
        "p95": round(values[min(len(values) - 1, int(0.95 * len(values)))], 1),
        "max": round(values[-1], 1),
    }


def first_paints(page, url, repeats=5):
    """Page -> first contentful paint (ms), the browser's cache warm."""
    out = {}
    for path in PAGES:
        page.goto(url + path, wait_until="networkidle")
        times = []
        for _ in range(repeats):
            page.goto("about:blank")
            page.goto(url + path)
            times.append(page.evaluate(PAINT))
        page.wait_for_load_state("networkidle")
        out[path] = summary(times)
    return out


def slider_moves(page, url, moves):
    """Milliseconds from a slider's input event to the changed text of the bar."""
    page.goto(f"{url}/plan", wait_until="networkidle")
    page.wait_for_selector("#settings input[type=range]")
    count = page.locator("#settings input[type=range]").count()
    times, misses = [], [0] * count
    number = 0
    while len(times) < moves and min(misses) < 2:
        index = number % count
        share = 0.35 if number // count % 2 else 0.65
        number += 1
        if misses[index] > 1:  # this setting does not move the plan
            continue
        low, high = page.evaluate(
            "(i) => { const s = document.querySelectorAll('#settings input[type=range]')[i];"
            " return [Number(s.min), Number(s.max)] }",
            index,
        )
        spent = page.evaluate(MOVE, [index, str(round(low + (high - low) * share))])
        if spent is None:
            misses[index] += 1
        else:
            times.append(spent)
        page.wait_for_timeout(50)
    return {**summary(times), "sliders": sum(each < 2 for each in misses)}


def over_loads(page, url, process, loads):
    rows = []
    for number in range(loads + 1):
        if number % max(1, loads // 10) == 0:
            rows.append({"loads": number, **state(process)})
        page.goto(url + PAGES[number % len(PAGES)], wait_until="networkidle")
    return rows


def over_jobs(bench, process, jobs):
    rows = []
    body = {"task": "rag", "command": "indexes"}
    for number in range(jobs + 1):
        if number % max(1, jobs // 10) == 0:
            rows.append({"jobs": number, **state(process)})
        row = bench.wait(bench.api.post("/jobs", json=body).json()["id"])
        assert row["status"] == "done", row
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--loads", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--moves", type=int, default=50)
    options = parser.parse_args()
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = new_home(Path(folder) / "onecard")
        bench = benches.start(home, "--root", folder, cwd=folder)
        process = psutil.Process(bench.process.pid)
        browser = playwright.chromium.launch(
            executable_path=benches.CHROMIUM, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        try:
            time.sleep(2)
            result = {"started": state(process)}
            result["first_paint_ms"] = first_paints(page, bench.url)
            result["slider_ms"] = slider_moves(page, bench.url, options.moves)
            page.goto("about:blank")
            time.sleep(5)
            result["idle"] = state(process)
            result["over_loads"] = over_loads(page, bench.url, process, options.loads)
            page.goto("about:blank")
            result["over_jobs"] = over_jobs(bench, process, options.jobs)
            time.sleep(8)
            result["at_the_end"] = state(process)
        finally:
            browser.close()
            bench.stop()
    result["cores"] = os.cpu_count()
    result["load_average"] = [round(load_before[0], 2), round(os.getloadavg()[0], 2)]
    path = ROOT / "bench-results" / "web.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
