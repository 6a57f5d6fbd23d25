"""Whether pretrained weights transfer: classifiers from ImageNet's weights and from random ones, on
the same held-out pictures.

    python tests/bench/bench_classify.py stamps --debian FOLDER [--epochs 15]
        six folders of Debian's tuxpaint-stamps-default (`apt-get download`, `dpkg -x`)
    python tests/bench/bench_classify.py cells [--epochs 10]
        crops of BCCD's boxes, by class

Writes bench-results/classify-<part>.json.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from PIL import Image

from onecard import api
from onecard.datasets.images import reader, splits
from onecard.datasets.images.decode import read_rgb
from onecard.inference.picture_model import read_card
from onecard.inference.picture_sessions import Predictor, TorchSession
from onecard.reporting import Reporter, TerminalReporter
from onecard.runs.record import Run
from onecard.tasks.classify import learner, model, scoring
from onecard.training import checked_set

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
STAMPS = ("clothes", "food", "household", "plants", "sports", "vehicles")
LARGEST_CROPS = 400
"""Of a class; RBC have 3,300."""


def stamps(debian, folder):
    """A folder a class, subfolders flattened; mirrored and thumbnail files are left out."""
    root = next(Path(debian).rglob("tuxpaint/stamps"))
    for name in STAMPS:
        (folder / name).mkdir(parents=True)
        for path in sorted((root / name).rglob("*.png")):
            shutil.copy(path, folder / name / f"{path.parent.name}-{path.name}")
    return folder


def cells(folder):
    """Crops of the boxes with a margin, in the data set's own split: a picture's crops stay on its
    side."""
    dataset = reader.read(DATA / "bccd", "detect")
    split = splits.prepare(dataset, allow_leakage=True)
    for side, pictures in (("train", split.train), ("val", split.val)):
        counts = dict.fromkeys(dataset.classes, 0)
        for picture in pictures:
            rgb = read_rgb(picture.path)
            for i, box in enumerate(picture.boxes):
                name = dataset.classes[box.label]
                counts[name] += 1
                if counts[name] > LARGEST_CROPS:
                    continue
                x0, y0, x1, y1 = (round(v) for v in (box.x0, box.y0, box.x1, box.y1))
                crop = rgb[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4]
                place = folder / side / name
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(crop).save(place / f"{picture.path.stem}-{i}.png")
    return folder


def trained(out, **values):
    started = time.perf_counter()
    config = api.configure("classify", "train", values={**values, "output_dir": str(out)})
    api.run("classify", "train", config, reporter=TerminalReporter())
    data = checked_set.load(config, "classify", Run(None, Reporter(), None))
    card = read_card(out / "model")
    session = TorchSession(model.load(out / "model", card))
    scores = learner.score(Predictor(card, session.run), data.val, data.classes)
    return scores, data, time.perf_counter() - started


def transfer(folder, work, args, **values):
    common = {
        "data": str(folder),
        "model": "efficientnet-lite0",
        "epochs": args.epochs,
        "imgsz": args.imgsz,
        "patience": 0,
        "resize": "letterbox",
        **values,
    }
    before, data, random_s = trained(work / "random", pretrained=False, **common)
    after, _, seconds = trained(work / "pretrained", pretrained=True, **common)
    groups = data.groups(data.val)
    out = {"train": len(data.train), "val": len(data.val)}
    for name, scores, taken in (("random", before, random_s), ("pretrained", after, seconds)):
        values = scores.metrics(groups)
        print(name, values["accuracy"].render(), values["macro_f1"].render(), f"{taken:.0f} s")
        out[name] = {key: value.as_dict() for key, value in values.items()} | {"seconds": taken}
    for name, row in scoring.compare(before, after, groups).items():
        print(name, row.render(), flush=True)
        out[f"{name}: pretrained against random"] = row.as_dict()
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("stamps", "cells"))
    parser.add_argument("--debian", default="")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--imgsz", type=int, default=160)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        work = Path(temp)
        if args.part == "stamps":
            folder = stamps(args.debian, work / "data")
            result = transfer(folder, work, args, val_share=0.4)
        else:
            result = transfer(cells(work / "data"), work, args, allow_leakage=True, flipud=0.5)
    out = ROOT / "bench-results" / f"classify-{args.part}.json"
    out.write_text(json.dumps(result, indent=1))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
