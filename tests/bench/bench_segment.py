"""Membranes of neurons (30 grey pictures of 512 px, 24 to train on and 6 held out): a U-Net whose
encoder has ImageNet's weights beside one with random ones.

    python tests/bench/bench_segment.py [--epochs 40] [--imgsz 512]

Writes bench-results/segment-membrane.json. Needs ../shared/data.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from onecard import api
from onecard.inference.picture_model import read_card
from onecard.inference.picture_sessions import Predictor, TorchSession
from onecard.reporting import Reporter, TerminalReporter
from onecard.runs.record import Run
from onecard.tasks.segment import learner, model, scoring
from onecard.training import checked_set

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "membrane"


def trained(out, args, **values):
    started = time.perf_counter()
    settings = {
        "data": str(DATA),
        "model": args.model,
        "epochs": args.epochs,
        "imgsz": args.imgsz,
        "batch": args.batch,
        "flipud": 0.5,
        "patience": 0,
        "output_dir": str(out),
        **values,
    }
    config = api.configure("segment", "train", values=settings)
    api.run("segment", "train", config, reporter=TerminalReporter())
    seconds = time.perf_counter() - started
    data = checked_set.load(config, "segment", Run(None, Reporter(), None))
    card = read_card(out / "model")
    predictor = Predictor(card, TorchSession(model.load(out / "model", card)).run)
    return learner.score(predictor, data.val, data.dataset), data, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--model", default="unet-lite0")
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temp:
        scores = {}
        for name, pretrained in (("pretrained", True), ("random", False)):
            out = Path(temp) / name
            scores[name], data, seconds = trained(out, args, pretrained=pretrained)
            groups = data.groups(data.val)
            values = scoring.metrics(scores[name], None, groups)
            rows[name] = {key: value.as_dict() for key, value in values.items()}
            rows[name]["seconds"] = seconds
            shown = [f"{key} {value.render()}" for key, value in values.items() if "dice" in key]
            print(name, *shown, f"{seconds:.0f} s", flush=True)
        comparison = scoring.compare(scores["random"], scores["pretrained"], groups)
        print("pretrained against random:", comparison.render())
        rows["pretrained against random"] = comparison.as_dict()
    out = ROOT / "bench-results" / "segment-membrane.json"
    out.write_text(json.dumps(rows, indent=1))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
