"""Good clients beside hostile ones: bursts of 300 requests of 60 shapes (asr: 110) against each
server.

python tests/bench/bench_hostile_requests.py [--requests 300] [--bursts 6] [--tasks chat rag asr]
    6 minutes

A good client asks again and again, alone and then beside four hostile senders in another process;
a burst lasts until all its shapes are sent and the good client was answered eight times. Every 5xx
is counted. The memory of the server's processes is read after each burst; its slope is over the
bursts after the first, in which caches and pools fill.
"""

import argparse
import itertools
import json
import multiprocessing
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
CHAT, SOUND = "/v1/chat/completions", "/v1/audio/transcriptions"
GOOD_REQUESTS = 12
GOOD_BESIDE = 8
CLIENT = httpx.Client(headers={"User-Agent": "good"}, timeout=600)
"""One connection: a client of its own for each request loads the certificates each time."""


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
    return CLIENT.post(f"{url}{CHAT}", json=body)


def good_rag(url):
    body = {"messages": [{"role": "user", "content": "How many connections are kept open?"}]}
    return CLIENT.post(f"{url}{CHAT}", json=body)


def good_asr(url, sound):
    return CLIENT.post(f"{url}{SOUND}", files={"file": ("a.wav", sound)})


def seconds_of(ask, n):
    spent = []
    for _ in range(n):
        begin = time.monotonic()
        reply = ask()
        assert reply.status_code == 200, reply.text[:300]
        spent.append(time.monotonic() - begin)
    return spent


def attack(port, shapes, n_requests, enough, statuses):
    """In a process of its own: send `n_requests`, and on until `enough` is set."""
    rows = itertools.cycle(shapes)
    lock = threading.Lock()
    n_sent = 0

    def send_on():
        nonlocal n_sent
        while True:
            with lock:
                if n_sent >= n_requests and enough.is_set():
                    return
                n_sent += 1
                shape = next(rows)
            statuses.put((shape.name, hostile_requests.send(port, shape, 600)))

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(send_on) for _ in range(4)]:
            job.result()
    statuses.put(None)


def burst(url, ask, shapes, n_requests):
    """(seconds of good requests, (name of the shape, status) of the hostile ones)."""
    enough, statuses = multiprocessing.Event(), multiprocessing.Queue()
    port = int(url.rpartition(":")[2])
    sender = multiprocessing.Process(
        target=attack, args=(port, shapes, n_requests, enough, statuses)
    )
    sender.start()
    rows = [statuses.get()]  # the first answer: the burst has begun
    done = threading.Event()

    def collect():
        for row in iter(statuses.get, None):
            rows.append(row)
        done.set()

    threading.Thread(target=collect).start()
    beside = []
    while not done.is_set():
        beside += seconds_of(ask, 1)
        if len(beside) >= GOOD_BESIDE:
            enough.set()
    sender.join()
    return beside, rows


def measure(name, child, url, ask, shapes, args):
    seconds_of(ask, 3)
    alone = seconds_of(ask, GOOD_REQUESTS)
    bursts, answers, memory = [], [], [resident_bytes(child.pid) / 2**20]
    for _ in range(args.bursts):
        seconds, rows = burst(url, ask, shapes, args.requests)
        bursts.append(seconds)
        answers += rows
        time.sleep(1)
        memory.append(resident_bytes(child.pid) / 2**20)
    codes = [code for _, code in answers]
    beside = [value for seconds in bursts for value in seconds]
    after = seconds_of(ask, 3)
    slope = statistics.linear_regression(range(args.bursts - 1), memory[2:]).slope
    return {
        "server": name,
        "requests": len(answers),
        "shapes": len(shapes),
        "5xx": sum(code >= 500 for code in codes),
        "shapes_5xx": sorted({shape for shape, code in answers if code >= 500}),
        "statuses": {str(code): codes.count(code) for code in sorted(set(codes))},
        "alone_s": statistics.median(alone),
        "alone_longest_s": max(alone),
        "beside_s": statistics.median(beside),
        "beside_longest_s": max(beside),
        "beside_95th_s": statistics.quantiles(beside, n=20)[-1],
        "over_twice_alone": sum(value > 2 * statistics.median(alone) for value in beside),
        "longest_of_burst_s": [max(seconds) for seconds in bursts],
        "n_beside": len(beside),
        "after_s": statistics.median(after),
        "memory_mib": [round(value) for value in memory],
        "memory_slope_mib_a_burst": slope,
    }


def servers(tasks, folder):
    """(name, command, what a good client asks, the shapes that attack it)."""
    shapes = hostile_requests.shapes(CHAT)
    if "chat" in tasks:
        yield "chat", ("chat", "serve", "--n_ctx", "1024"), good_chat, shapes
    if "rag" in tasks:
        notes = folder / "notes"
        notes.mkdir()
        (notes / "pool.md").write_text("# Pool\n\nAt most 100 connections are kept open.\n")
        index = ("--index", str(folder / "index"))
        subprocess.run(
            [sys.executable, "-m", "onecard", "rag", "index", str(notes), *index], check=True
        )
        yield "rag", ("rag", "serve", *index), good_rag, shapes
    if "asr" in tasks:
        import voices

        sound = voices.write(folder / "a.wav", voices.spoken("Good morning.") * 0.7).read_bytes()
        command = ("asr", "serve", "--language", "en")
        shapes = [
            *hostile_requests.shapes(SOUND),
            *hostile_requests.sound_shapes(SOUND, sound),
        ]
        yield "asr", command, lambda url: good_asr(url, sound), shapes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--bursts", type=int, default=6, help="at least 4")
    parser.add_argument("--tasks", nargs="*", default=["chat", "rag", "asr"])
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temp:
        for name, command, ask, shapes in servers(args.tasks, Path(temp)):
            child, url = start(*command)
            try:
                row = measure(name, child, url, lambda: ask(url), shapes, args)  # noqa: B023
            finally:
                child.terminate()
                child.wait(timeout=60)
            results.append(row)
            print(json.dumps(row), flush=True)
    keys = [key for key, value in results[0].items() if not isinstance(value, dict | list)]
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
