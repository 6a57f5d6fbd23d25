"""Detectors on BCCD (205 training, 87 validation pictures): ours beside plain Ultralytics in one
run, the permissive route, and the cones with and without their leak.

    python tests/bench/bench_detect.py bccd [--epochs 100] [--imgsz 320] [--model yolov8n]
        plain `yolo train`, `onecard detect train` with the same model, epochs and size, and
        fcos-lite0; mAP of all three by one evaluation, and the paired difference
    python tests/bench/bench_detect.py speed [--rounds 3]
        seconds an epoch, ours and plain in turn
    python tests/bench/bench_detect.py cones [--epochs 10]
        mAP with the data set's own splits (one film stands in all three) and split by group

Writes bench-results/detect-<part>.json. Needs ../shared/data.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from onecard import api
from onecard.datasets.images import yolo_files
from onecard.evaluation.metrics.detection import compare_detectors
from onecard.inference.picture_model import read_card
from onecard.reporting import Reporter, TerminalReporter
from onecard.runs.record import Run
from onecard.tasks.detect import model as models
from onecard.tasks.detect import scoring
from onecard.tasks.detect.configs import TrainConfig
from onecard.training import checked_set, checkpoints, yolo_network, yolo_trainer

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def load(data, **values):
    config = TrainConfig(data=str(data), **values)
    return config, checked_set.load(config, "detect", Run(None, Reporter(), None))


def plain(config, data, folder):
    """`yolo train` by ultralytics' own API; (network, seconds)."""
    from ultralytics import YOLO

    yaml = yolo_files.write(
        folder / "data", {"train": data.train, "val": data.val}, data.classes, Reporter()
    )
    arguments = yolo_trainer.arguments("detect", config, config.batch)
    arguments |= {"project": str(folder), "name": "plain", "data": str(yaml)}
    arguments.pop("task")
    started = time.perf_counter()
    yolo = YOLO(config.model)
    yolo.train(**arguments)
    seconds = time.perf_counter() - started
    weights = yolo_network.load_weights(str(folder / "plain/weights/best.pt"), Reporter())
    return yolo_network.YoloNetwork(weights, instances=False), seconds


def ours(config, out):
    started = time.perf_counter()
    values = config.model_dump(exclude_unset=True) | {"output_dir": str(out)}
    result = api.run(
        "detect",
        "train",
        api.configure("detect", "train", values=values),
        reporter=TerminalReporter(),
    )
    seconds = time.perf_counter() - started
    card = read_card(out / "model")
    return models.load(out / "model", card), card, seconds, result


def judged(net, card, data):
    predictor = scoring.open_predictor(net, card, "cpu")
    return scoring.score(predictor, data.val, data.classes, Reporter(), "scoring")


def row(scores, seconds):
    values = scores.metrics()
    figures = {name: values[name].as_dict() for name in ("map50", "map50_95")}
    print(values["map50"].render(), values["map50_95"].render(), f"{seconds:.0f} s", flush=True)
    return figures | {"seconds": seconds}


def bccd(args):
    settings = {"imgsz": args.imgsz, "allow_leakage": True, "patience": 0, "seed": 0}
    config, data = load(
        DATA / "bccd", model=f"{args.model}.yaml", epochs=args.epochs, batch=16, **settings
    )
    rows, scores = {}, {}
    with tempfile.TemporaryDirectory(dir=args.work) as temp:
        folder = Path(temp)
        for name in args.only:
            print(name, flush=True)
            if name == "plain":
                net, seconds = plain(config, data, folder)
                side = (args.imgsz, args.imgsz)
                card = models.card_of(config.model, data.classes, *side, net, "")
            elif name == "ours":
                net, card, seconds, _ = ours(config, folder / "ours")
            else:
                other = TrainConfig(
                    data=config.data,
                    model=name,
                    epochs=args.permissive_epochs,
                    batch=8,
                    flipud=0.5,
                    **settings,
                )
                net, card, seconds, _ = ours(other, folder / name)
            scores[name] = judged(net, card, data)
            rows[name] = row(scores[name], seconds)
    for name in scores:
        if name != "plain" and "plain" in scores:
            comparison = compare_detectors(scores["plain"], scores[name])
            rows[name]["against_plain"] = comparison.as_dict()
            print(name, "against plain:", comparison.render(), flush=True)
    return {"settings": vars(args), "rows": earlier(args.part).get("rows", {}) | rows}


def earlier(part):
    """What a run before wrote: one with other --only adds to it."""
    path = ROOT / "bench-results" / f"detect-{part}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def speed(args):
    """Both train the same epochs anew in each round; the first epoch of a process is left out."""
    config, data = load(
        DATA / "bccd",
        model=f"{args.model}.yaml",
        epochs=3,
        batch=16,
        imgsz=args.imgsz,
        allow_leakage=True,
    )
    times = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory(dir=args.work) as temp:
        for number in range(args.rounds):
            for name in times:
                folder = Path(temp) / f"{name}{number}"
                marks = epoch_marks(name, config, data, folder)
                times[name] += [b - a for a, b in itertools.pairwise(marks[1:])]
        same = equal_weights(Path(temp))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["ours"] / medians["plain"]
    print(medians, f"{ratio:.3f}x", flush=True)
    return {"epoch_s": times, "medians": medians, "ratio": ratio, "weights_differ_by": same}


def equal_weights(folder):
    """Largest difference between ours and plain Ultralytics' averaged weights, which it saves in 16
    bits."""
    plain_s = yolo_network.load_weights(str(folder / "plain0/plain/weights/last.pt"), Reporter())
    last = checkpoints.load(checkpoints.last(folder / "ours0" / "checkpoints"))
    own = checkpoints.select("average.", last)
    gap = max(
        float((own[name].half().float() - weight.half().float()).abs().max())
        for name, weight in plain_s.state_dict().items()
    )
    print("weights differ by", gap, flush=True)
    return gap


def epoch_marks(name, config, data, folder):
    """When each epoch ended, validation and checkpoint included."""
    marks = [time.perf_counter()]
    if name == "plain":
        from ultralytics import YOLO

        yaml = yolo_files.write(
            folder / "data", {"train": data.train, "val": data.val}, data.classes, Reporter()
        )
        arguments = yolo_trainer.arguments("detect", config, config.batch)
        arguments |= {"project": str(folder), "name": "plain", "data": str(yaml)}
        arguments.pop("task")
        yolo = YOLO(config.model)
        yolo.add_callback("on_fit_epoch_end", lambda trainer: marks.append(time.perf_counter()))
        yolo.train(**arguments)
        return marks[: config.epochs + 1]
    splits = {"train": data.train, "val": data.val}
    yaml = yolo_files.write(folder / "data", splits, data.classes, Reporter())
    run = Run(None, Reporter(), None)

    def check(state, net):
        marks.append(time.perf_counter())

    yolo_trainer.fit("detect", config.model, yaml, config, config.batch, folder, run, check)
    return marks


def cones(args):
    rows = {}
    with tempfile.TemporaryDirectory(dir=args.work) as temp:
        for name, how in (("leaky", {"allow_leakage": True}), ("grouped", {"regroup": True})):
            config = TrainConfig(
                data=str(DATA / "cones"),
                model="fcos-lite0",
                imgsz=args.imgsz,
                epochs=args.epochs,
                batch=8,
                patience=0,
                **how,
            )
            _, data = load(DATA / "cones", **how)
            net, card, seconds, _ = ours(config, Path(temp) / name)
            print(name, len(data.train), len(data.val), flush=True)
            rows[name] = row(judged(net, card, data), seconds)
            rows[name] |= {"train": len(data.train), "val": len(data.val)}
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("bccd", "speed", "cones"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--permissive_epochs", type=int, default=20)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--model", default="yolov8n")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["plain", "ours", "fcos-lite0"])
    parser.add_argument("--work", default=None)
    args = parser.parse_args()
    result = {"bccd": bccd, "speed": speed, "cones": cones}[args.part](args)
    out = ROOT / "bench-results" / f"detect-{args.part}.json"
    out.write_text(json.dumps(result, indent=1, default=str))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
