"""The chat page under load: 20 browsers at once, and a conversation of 500 messages.

python tests/bench/bench_web_chat.py [--browsers 20] [--turns 2] [--messages 500]    3 minutes

Of the browsers: errors, seconds until each answer is complete, the spread between them. Of the long
conversation, measured in the page: milliseconds between frames while it scrolls, from a key to the
next frame, to the first paint; and the memory of the page's server before and after.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
from playwright.async_api import async_playwright

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import workbench as benches  # noqa: E402
from homes import new_home  # noqa: E402

ANSWER = """Part {n}: a list of **three** things.

1. The first one, with `code` and a sentence that goes on for a while until it ends.
2. The second one.
3. The third one.

```python
def f(x):
    return x + {n}
```

| a | b |
|---|--:|
| {n} | 2 |
"""
FRAMES = """async n => {
  const thread = document.querySelector("#thread"), times = [];
  const top = thread.scrollHeight - thread.clientHeight;
  thread.scrollTop = top;
  await new Promise(requestAnimationFrame);
  let last = performance.now();
  for (let i = 0; i < n; i += 1) {
    thread.scrollTop = top * Math.abs(1 - 2 * i / n);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  return times;
}"""
KEYS = """() => {
  const again = Boolean(window.keyTimes);
  window.keyTimes = [];
  if (again) return;
  const field = document.querySelector("#question");
  let begin = 0;
  field.addEventListener("keydown", () => { begin = performance.now(); }, true);
  field.addEventListener("input", () => {
    const from = begin;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => window.keyTimes.push(performance.now() - from);
      channel.port2.postMessage(0);
    });
  });
}"""


SETTINGS = """try { localStorage.setItem("chat-settings", JSON.stringify(
  {service: "chat", model: "auto", settings: {max_tokens: 64, temperature: 0.7}})); } catch {}"""
"""What a new conversation begins with: answers of 64 tokens."""


def figures(values):
    values = sorted(values)
    return {
        "n": len(values),
        "median": round(statistics.median(values), 2),
        "p95": round(values[int(len(values) * 0.95) - 1], 2),
        "max": round(values[-1], 2),
    }


def server_bytes(bench):
    return psutil.Process(bench.process.pid).memory_info().rss


async def one_browser(chromium, bench, number, turns, errors):
    """Seconds from a question to the end of its answer, for each turn."""
    context = await chromium.new_context(viewport={"width": 1000, "height": 700})
    await context.add_init_script(SETTINGS)
    page = await context.new_page()
    page.on("pageerror", lambda fault: errors.append(str(fault)))
    page.on(
        "requestfailed",
        lambda request: errors.append(request.url) if "events" not in request.url else None,
    )
    await page.goto(f"{bench.url}/chat")
    await page.wait_for_selector("body[data-ready=chat]", timeout=120_000)
    out = []
    for turn in range(turns):
        begin = time.monotonic()
        await page.fill("#question", f"Tell {number} about the number {turn}.")
        await page.press("#question", "Enter")
        last = page.locator(".message.assistant").nth(turn)
        await last.locator(".stats").wait_for(timeout=600_000)
        out.append(time.monotonic() - begin)
        if await last.locator(".fault").count():
            errors.append(await last.locator(".fault").inner_text())
    await context.close()
    return out


async def many_browsers(chromium, bench, n, turns):
    errors = []
    # the model is loaded before
    await one_browser(chromium, bench, "warm", 1, errors)
    before = server_bytes(bench)
    rows = await asyncio.gather(*(one_browser(chromium, bench, i, turns, errors) for i in range(n)))
    totals = [sum(row) for row in rows]
    return {
        "browsers": n,
        "turns": turns,
        "errors": errors,
        "seconds_of_an_answer": figures([value for row in rows for value in row]),
        "seconds_of_a_browser": figures(totals),
        "spread": round(max(totals) / min(totals), 2),
        "server_bytes_before": before,
        "server_bytes_after": server_bytes(bench),
    }


async def long_chat(chromium, bench, n):
    texts = [
        {"role": "assistant", "content": ANSWER.format(n=i)}
        if i % 2
        else {"role": "user", "content": f"Question {i}?"}
        for i in range(n)
    ]
    reply = bench.api.post("/chats/import", json={"messages": texts, "title": "long"})
    chat = reply.json()["chats"][0]["id"]
    page = await chromium.new_page(viewport={"width": 1280, "height": 800})
    begin = time.monotonic()
    await page.goto(f"{bench.url}/chat?id={chat}")
    await page.wait_for_selector("body[data-ready=chat]")
    ready = time.monotonic() - begin
    paint = await page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
    )
    out = {"messages": n, "ready_s": round(ready, 3), "first_paint_ms": round(paint, 1)}
    for name in ("newest", "all"):
        if name == "all":
            while await page.locator("#older").is_visible():
                before = await page.locator(".message").count()
                await page.locator("#thread").evaluate("node => { node.scrollTop = 0; }")
                await page.wait_for_function(
                    "n => document.querySelectorAll('.message').length > n", arg=before
                )
        shown = await page.locator(".message").count()
        frames = await page.evaluate(FRAMES, 240)
        await page.evaluate(KEYS)
        await page.locator("#question").focus()
        await page.keyboard.type("The quick brown fox jumps over the lazy dog. " * 2, delay=25)
        await page.wait_for_timeout(300)
        keys = await page.evaluate("window.keyTimes")
        await page.fill("#question", "")
        out[name] = {"shown": shown, "frame_ms": figures(frames), "key_ms": figures(keys)}
    await page.close()
    return out


async def page_loads(chromium, bench, n=60):
    """The memory of the server over many loads of the page."""
    page = await chromium.new_page()
    sizes = []
    for i in range(n):
        await page.goto(f"{bench.url}/chat")
        await page.wait_for_selector("body[data-ready=chat]")
        if i in (n // 3, n - 1):
            sizes.append(server_bytes(bench))
    await page.close()
    return {"loads": n, "server_bytes_at_a_third": sizes[0], "server_bytes_at_the_end": sizes[1]}


async def measure(args, bench):
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=benches.CHROMIUM, args=["--no-sandbox"]
        )
        out = {"long": await long_chat(chromium, bench, args.messages)}
        out["many"] = await many_browsers(chromium, bench, args.browsers, args.turns)
        out["loads"] = await page_loads(chromium, bench)
        await chromium.close()
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--messages", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = new_home(Path(folder) / "onecard")
        os.environ["ONECARD_HOME"] = str(home)
        bench = benches.start(home, "--root", folder, cwd=folder)
        try:
            out = {"load_average": os.getloadavg(), **asyncio.run(measure(args, bench))}
        finally:
            bench.stop()
    print(json.dumps(out, indent=1))
    (ROOT / "bench-results").mkdir(exist_ok=True)
    path = ROOT / "bench-results" / "web_chat.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
