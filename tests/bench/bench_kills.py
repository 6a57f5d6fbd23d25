"""Trainings of vision models that are killed (SIGKILL) at five random moments and resumed each
time: whether they end with the weights of the unbroken one, on the CPU.

    python tests/bench/bench_kills.py [--epochs 8]

Writes bench-results/kills.json. One thread, so that sums are added in one order.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import made_pictures  # noqa: E402
import torch  # noqa: E402

from onecard.training import checkpoints  # noqa: E402

KILLS = 5
CASES = {
    "detect, fcos-resnet18": ("detect", "fcos-resnet18", "write_yolo"),
    "detect, yolov8n": ("detect", "yolov8n.yaml", "write_yolo"),
    "classify, resnet18": ("classify", "resnet18", "write_folders"),
    "segment, unet-resnet18": ("segment", "unet-resnet18", "write_masks"),
}


def words(task, model, data, out, epochs, resume):
    flags = {"model": model, "imgsz": 64, "batch": 4, "epochs": epochs, "patience": 0}
    flags |= {"data": data, "output_dir": out, "workers": 0}
    line = [sys.executable, "-m", "onecard", task, "train", "--no_pretrained"]
    for name, value in flags.items():
        line += [f"--{name}", str(value)]
    return line + ["--resume"] * resume


def run_whole(line):
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def tensors(out):
    return checkpoints.load(checkpoints.last(out / "checkpoints"))


def one(name, folder, epochs, rng):
    task, model, writer = CASES[name]
    data = getattr(made_pictures, writer)(folder / "data", made_pictures.scenes(24))
    started = time.monotonic()
    run_whole(words(task, model, data, folder / "whole", epochs, False))
    seconds = time.monotonic() - started
    out, moments = folder / "cut", []
    while len(moments) < KILLS:
        there = (out / "checkpoints").is_dir()
        child = subprocess.Popen(
            words(task, model, data, out, epochs, there),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        moment = rng.uniform(0.3, 0.6) * seconds  # early enough for five
        try:
            child.wait(moment)
            break  # it came to its end before
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            moments.append(round(moment, 1))
    run_whole(words(task, model, data, out, epochs, True))
    one, other = tensors(folder / "whole"), tensors(out)
    differing = [key for key in one if not torch.equal(one[key], other[key])]
    print(name, "killed after", moments, "s;", len(differing), "tensors differ", flush=True)
    return {"killed_after_s": moments, "whole_s": seconds, "differing": len(differing)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    rng = random.Random(0)
    rows = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as temp:
            rows[name] = one(name, Path(temp), args.epochs, rng)
    out = ROOT / "bench-results" / "kills.json"
    out.write_text(json.dumps(rows, indent=1))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
