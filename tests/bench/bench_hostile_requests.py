"""Good clients beside hostile ones: 300 requests of 60 shapes against each server.

python tests/bench/bench_hostile_requests.py [--requests 300] [--tasks chat rag asr]     3 minutes

A good client asks again and again, alone and then beside four hostile senders; every 5xx and the
memory of the server's processes (every 2 s) are counted.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
import hostile_requests

from onecard.reporting import table

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
GOOD_REQUESTS = 12


def start(*words):
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", *map(str, words), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in child.stderr:
        if address := re.search(r"http://127\S+?:\d+", line):
            threading.Thread(target=child.stderr.read, daemon=True).start()
            return child, address[0]
    raise SystemExit("the server ended")


def resident_bytes(pid):
    total = 0
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def good_chat(url):
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 24}
    return httpx.post(f"{url}{CHAT}", json=body, headers={"User-Agent": "good"}, timeout=600)


def good_rag(url):
    body = {"messages": [{"role": "user", "content": "How many connections are kept open?"}]}
    return httpx.post(f"{url}{CHAT}", json=body, headers={"User-Agent": "good"}, timeout=600)


def good_asr(url, sound):
    return httpx.post(
        f"{url}/v1/audio/transcriptions",
        files={"file": ("a.wav", sound)},
        headers={"User-Agent": "good"},
        timeout=600,
    )


def seconds_of(ask, n):
    spent = []
    for _ in range(n):
        begin = time.monotonic()
        reply = ask()
        assert reply.status_code == 200, reply.text[:300]
        spent.append(time.monotonic() - begin)
    return spent


def measure(name, child, url, ask, path, n_requests):
    seconds_of(ask, 3)
    alone = seconds_of(ask, GOOD_REQUESTS)
    rows = hostile_requests.shapes(path)
    shapes = [rows[i % len(rows)] for i in range(n_requests)]
    port = int(url.rpartition(":")[2])
    statuses, memory, stop = [], [resident_bytes(child.pid)], threading.Event()

    def watch():
        while not stop.wait(2):
            memory.append(resident_bytes(child.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    beside = []
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(hostile_requests.send, port, shape, 600) for shape in shapes]
        while not all(job.done() for job in jobs):
            beside += seconds_of(ask, 1)
        statuses = [job.result() for job in jobs]
    stop.set()
    watcher.join()
    after = seconds_of(ask, 3)
    memory.append(resident_bytes(child.pid))
    return {
        "server": name,
        "requests": n_requests,
        "shapes": len(rows),
        "5xx": sum(status >= 500 for status in statuses),
        "statuses": {str(code): statuses.count(code) for code in sorted(set(statuses))},
        "alone_s": statistics.median(alone),
        "alone_longest_s": max(alone),
        "beside_s": statistics.median(beside),
        "beside_longest_s": max(beside),
        "n_beside": len(beside),
        "after_s": statistics.median(after),
        "memory_start_mib": round(memory[0] / 2**20),
        "memory_peak_mib": round(max(memory) / 2**20),
        "memory_end_mib": round(memory[-1] / 2**20),
    }


def servers(tasks, folder):
    """(name, command, what a good client asks, the route that is attacked)."""
    if "chat" in tasks:
        yield "chat", ("chat", "serve", "--n_ctx", "1024"), good_chat, CHAT
    if "rag" in tasks:
        notes = folder / "notes"
        notes.mkdir()
        (notes / "pool.md").write_text("# Pool\n\nAt most 100 connections are kept open.\n")
        index = ("--index", str(folder / "index"))
        subprocess.run(
            [sys.executable, "-m", "onecard", "rag", "index", str(notes), *index], check=True
        )
        yield "rag", ("rag", "serve", *index), good_rag, CHAT
    if "asr" in tasks:
        import voices

        sound = voices.write(folder / "a.wav", voices.spoken("Good morning.") * 0.7).read_bytes()
        command = ("asr", "serve", "--language", "en")
        yield "asr", command, lambda url: good_asr(url, sound), "/v1/audio/transcriptions"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--tasks", nargs="*", default=["chat", "rag", "asr"])
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temp:
        for name, command, ask, path in servers(args.tasks, Path(temp)):
            child, url = start(*command)
            try:
                row = measure(name, child, url, lambda: ask(url), path, args.requests)  # noqa: B023
            finally:
                child.terminate()
                child.wait(timeout=60)
            results.append(row)
            print(json.dumps(row), flush=True)
    keys = [key for key in results[0] if key != "statuses"]
    cells = [
        [f"{row[key]:.2f}" if isinstance(row[key], float) else str(row[key]) for key in keys]
        for row in results
    ]
    print(table(cells, keys))
    (ROOT / "bench-results").mkdir(exist_ok=True)
    out = ROOT / "bench-results" / "hostile_requests.json"
    out.write_text(json.dumps({"cores": os.cpu_count(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
