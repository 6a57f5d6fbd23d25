"""Detectors, classifiers and segmenters that are really trained: on drawn pictures, killed and
resumed, out of memory, with labels that do not fit."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import made_pictures
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
from processes import kill_when  # noqa: E402

from onecard import api  # noqa: E402
from onecard.datasets.images.records import Box, Detection, Picture  # noqa: E402
from onecard.errors import DataError  # noqa: E402
from onecard.inference.picture_model import read_card  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.runs.record import Run  # noqa: E402
from onecard.tasks.classify import learner as classify_learner  # noqa: E402
from onecard.tasks.classify import probe  # noqa: E402
from onecard.tasks.detect import diagnosis  # noqa: E402
from onecard.tasks.detect.configs import TrainConfig  # noqa: E402
from onecard.training import checkpoints, yolo_network, yolo_trainer  # noqa: E402

SMALL = {"imgsz": 64, "batch": 4, "patience": 0, "workers": 0}
TASKS = {
    "detect": ("write_yolo", "fcos-resnet18"),
    "classify": ("write_folders", "resnet18"),
    "segment": ("write_masks", "unet-resnet18"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A data set of each task: 24 pictures, 6 of them for validation."""
    root = tmp_path_factory.mktemp("sets")
    items = made_pictures.scenes(24)
    return {
        task: getattr(made_pictures, writer)(root / task, items)
        for task, (writer, _) in TASKS.items()
    }


def settings(task, data, **more):
    return {"data": str(data), "model": TASKS[task][1], "pretrained": False, **SMALL, **more}


def train(task, data, **more):
    config = api.configure(task, "train", values=settings(task, data, **more))
    return api.run(task, "train", config, reporter=Reporter())


def last_tensors(out):
    return checkpoints.load(checkpoints.last(Path(out) / "checkpoints"))


def same(one, other):
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


# Ultralytics


def yolo_fit(data, out, stop_after=0, **more):
    """Trained by ultralytics' classes; raises Stop after so many epochs."""
    config = TrainConfig(model="yolov8n.yaml", epochs=5, pretrained=False, **{**SMALL, **more})

    def check(state, net):
        if state.epoch == stop_after:
            raise Stop

    run = Run(None, Reporter(), None)
    yaml = data / "data.yaml"
    return yolo_trainer.fit("detect", config.model, yaml, config, 4, out, run, check), config


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def yolo_set(tmp_path_factory):
    return made_pictures.write_yolo(tmp_path_factory.mktemp("yolo"), made_pictures.scenes(24))


def with_mosaics_until(epochs_before_end, monkeypatch):
    """Ultralytics closes mosaics ten epochs before the end: these trainings have five."""
    arguments = yolo_trainer.arguments
    monkeypatch.setattr(
        yolo_trainer,
        "arguments",
        lambda *words: arguments(*words) | {"close_mosaic": epochs_before_end},
    )


def test_an_unbroken_yolo_equals_ultralytics_own_training_bit_for_bit(yolo_set, tmp_path):
    from ultralytics import YOLO

    _, config = yolo_fit(yolo_set, tmp_path / "ours")
    arguments = yolo_trainer.arguments("detect", config, 4)
    arguments |= {"data": str(yolo_set / "data.yaml"), "project": str(tmp_path), "name": "plain"}
    arguments.pop("task")
    YOLO(config.model).train(**arguments)
    saved = yolo_network.load_weights(str(tmp_path / "plain/weights/last.pt"), Reporter())
    ours = checkpoints.select("average.", last_tensors(tmp_path / "ours"))
    for name, weight in saved.state_dict().items():
        assert torch.equal(ours[name].half().float(), weight.half().float()), name


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_yolo_that_was_stopped_ends_with_the_same_weights(
    yolo_set, tmp_path, stop_after, monkeypatch
):
    """Before the mosaics end, when they end and after."""
    with_mosaics_until(2, monkeypatch)
    yolo_fit(yolo_set, tmp_path / "whole")
    with pytest.raises(Stop):
        yolo_fit(yolo_set, tmp_path / "cut", stop_after)
    yolo_fit(yolo_set, tmp_path / "cut")
    assert same(last_tensors(tmp_path / "whole"), last_tensors(tmp_path / "cut")) == []
    (net, _), _ = yolo_fit(yolo_set, tmp_path / "cut")  # at its end: nothing is trained again
    wrapped = yolo_network.YoloNetwork(net, instances=False)
    yolo_network.write_pt(wrapped, made_pictures.CLASSES, tmp_path / "best.pt", "detect")
    assert same(last_tensors(tmp_path / "whole"), last_tensors(tmp_path / "cut")) == []


def test_ultralytics_twin_runs_with_its_own_words(yolo_set, tmp_path):
    """yolo task=detect mode=train model=yolov8n.pt data=your.yaml epochs=50 imgsz=640"""
    words = ["detect", "train", "--model", "yolov8n.yaml", "--data", str(yolo_set / "data.yaml")]
    words += ["--epochs", "1", "--imgsz", "64", "--output_dir", str(tmp_path / "out"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "onecard", *words], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["classes"] == list(made_pictures.CLASSES)
    card = read_card(tmp_path / "out" / "model")
    assert card.classes == made_pictures.CLASSES
    assert card.license == result["license"] == "AGPL-3.0"
    from ultralytics import YOLO

    theirs = YOLO(tmp_path / "out" / "model" / "best.pt")
    assert list(theirs.names.values()) == list(made_pictures.CLASSES)
    assert len(theirs.predict(made_pictures.scene(1).rgb, imgsz=64, conf=0.0, verbose=False)) == 1
    again = yolo_network.load_weights(str(tmp_path / "out" / "model" / "best.pt"), Reporter())
    assert again.nc == 2


class Harmful:
    def __reduce__(self):
        return os.system, ("touch /tmp/onecard-was-here",)


def test_a_strangers_pickle_is_not_opened(tmp_path):
    path = tmp_path / "best.pt"
    path.write_bytes(pickle.dumps(Harmful()))
    torch.save({"model": Harmful()}, tmp_path / "zipped.pt")
    for name in ("best.pt", "zipped.pt"):
        with pytest.raises(DataError, match="is not loaded"):
            yolo_network.load_weights(str(tmp_path / name), Reporter())
    assert not Path("/tmp/onecard-was-here").exists()


# Our own loop


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_training_ends_with_the_same_weights(task, sets, tmp_path):
    """SIGKILL, in another process, at the moment its second checkpoint is there."""
    values = settings(task, sets[task], epochs=3)
    train(task, sets[task], epochs=3, output_dir=str(tmp_path / "whole"))
    out = tmp_path / "cut"
    words = [sys.executable, "-m", "onecard", task, "train"]
    for name, value in {**values, "output_dir": str(out)}.items():
        flag = [f"--{name}" if value else f"--no_{name}"]
        words += flag if isinstance(value, bool) else [f"--{name}", str(value)]
    child = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    kill_when(lambda: (out / "checkpoints" / "step-0000002.safetensors").exists(), child)
    train(task, sets[task], epochs=3, output_dir=str(out), resume=True)
    assert same(last_tensors(tmp_path / "whole"), last_tensors(out)) == []


@pytest.mark.parametrize("task", TASKS)
def test_the_class_map_is_one_from_labels_to_model(task, sets, tmp_path):
    result = train(task, sets[task], epochs=1, output_dir=str(tmp_path / "out"))
    card = read_card(tmp_path / "out" / "model")
    assert list(card.classes) == result.data["classes"]
    assert card.data["fingerprints"]["val"]


def test_a_classifier_learns_and_is_told_to_be_better(tmp_path):
    items = made_pictures.scenes(60, n_val=24, n_objects=1)
    data = made_pictures.write_folders(tmp_path / "set", items)
    result = train("classify", data, epochs=12, lr0=0.002, batch=8)
    assert result.data["metrics"]["accuracy"]["value"] > 0.85
    assert "accuracy against the most frequent class: better" in result.data["verdicts"][0]


def test_the_head_is_fitted_as_scikit_learn_would():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.normal(3, [1, 5, 0.1, 2], (60, 4)).astype(np.float32)
    labels = (x[:, 0] + 5 * x[:, 2] > 18).astype(int) + (x[:, 3] > 4)
    weight, bias = probe.logistic(torch.from_numpy(x), torch.from_numpy(labels), 3)
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(max_iter=1000, tol=1e-8).fit(scaler.transform(x), labels)
    ours = torch.softmax(torch.from_numpy(x) @ weight.T + bias, 1).numpy()
    assert np.abs(ours - theirs.predict_proba(scaler.transform(x))).max() < 0.02


def test_a_pretrained_head_is_fitted_before_the_training(tmp_path):
    """EfficientNet-Lite0's weights come out of a package: with a rate of nearly nothing its result
    is that of the fitted head, which a random one would not give."""
    items = made_pictures.scenes(80, n_val=30, n_objects=1)
    data = made_pictures.write_folders(tmp_path / "set", items)
    values = {"model": "efficientnet-lite0", "epochs": 1, "lr0": 1e-9, "batch": 8}
    fitted = train("classify", data, pretrained=True, **values).data["metrics"]["accuracy"]
    random = train("classify", data, pretrained=False, **values).data["metrics"]["accuracy"]
    assert fitted["value"] > random["value"] + 0.1, (fitted, random)


def test_a_smaller_batch_after_out_of_memory_keeps_the_effective_one(sets, tmp_path, monkeypatch):
    loss = classify_learner.ClassifyLearner.loss
    sizes = []

    def small_card(self, batch, device):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        return loss(self, batch, device)

    monkeypatch.setattr(classify_learner.ClassifyLearner, "loss", small_card)
    result = train("classify", sets["classify"], epochs=1)
    assert result.data["memory_changes"][0]["changes"] == {"batch": 2, "accumulate": 2}
    assert set(sizes) == {2}


def test_accumulated_batches_give_the_gradient_of_the_whole_batch(sets, tmp_path):
    """Of a network without batch norm, whose statistics are those of the micro-batch."""
    data = made_pictures.write_folders(tmp_path / "even", made_pictures.scenes(20, n_val=4))
    weights = []
    for batch, accumulate in ((4, 1), (2, 2)):
        out = tmp_path / f"{batch}"
        train(
            "classify",
            data,
            model="vit-tiny",
            epochs=1,
            batch=batch,
            accumulate=accumulate,
            output_dir=str(out),
            imgsz=32,
        )
        weights.append(checkpoints.select("net.", last_tensors(out)))
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=2e-4), name


def test_frozen_stages_and_their_statistics_stay(sets, tmp_path):
    out = tmp_path / "out"
    train("classify", sets["classify"], epochs=1, freeze=2, output_dir=str(out))
    tensors = checkpoints.select("net.", last_tensors(out))
    assert torch.equal(tensors["net.bn1.running_mean"], torch.zeros(64))
    assert not torch.equal(tensors["net.layer4.1.bn2.running_mean"], torch.zeros(512))


def test_a_learning_curve_says_whether_more_labels_help(sets):
    result = train("classify", sets["classify"], epochs=1, learning_curve=True)
    lines = "\n".join(result.data["verdicts"])
    assert " 25% of the labels" in lines and "100% of the labels" in lines
    assert "labels would" in lines or "whether more labels would help" in lines


# A metric that stays at 0


def test_validation_labels_with_other_class_numbers_are_named(tmp_path):
    """Boxes are right and classes are not: the training stops and says which one is meant."""
    items = made_pictures.scenes(40, n_val=8, n_objects=1)
    for each in items:
        _, *box = each.objects[0]
        each.objects = [(0, *box)] if each.split == "train" else [(1, *box)]
    items[0].objects.append((1, 0, 0, 2, 2))  # both classes are known
    data = made_pictures.write_yolo(tmp_path / "set", items)
    with pytest.raises(DataError) as refusal:
        train("detect", data, model="fcos-lite0", pretrained=True, epochs=25, lr0=0.002, batch=8)
    assert "class map" in refusal.value.why
    assert "'disc' of the validation labels is detected as 'square'" in refusal.value.why


def test_a_loss_that_is_not_finite_is_told(sets, monkeypatch):
    loss = classify_learner.ClassifyLearner.loss

    def overflown(self, batch, device):
        return loss(self, batch, device) * torch.inf

    monkeypatch.setattr(classify_learner.ClassifyLearner, "loss", overflown)
    with pytest.raises(DataError, match="the loss is inf in epoch 1"):
        train("classify", sets["classify"], epochs=1)


def test_validation_boxes_in_another_form_are_named():
    """Of what a detector found: the labels fit when they are read as left, top, width, height."""
    pictures, found = [], {}
    rng = np.random.default_rng(0)
    for i in range(12):
        x, y, w, h = rng.integers(10, 40, 4).tolist()
        found[f"{i}"] = [Detection(0, 0.9, x, y, x + w, y + h)]
        pictures.append(Picture(Path(f"{i}.png"), f"{i}", 100, 100, "val", (Box(0, x, y, w, h),)))
    shown = [replace(p, boxes=(Box(0, 0, 0, 50, 50),)) for p in pictures]
    reason = diagnosis.diagnose(shown, pictures, found, ("a", "b"), 640, [])
    assert reason.startswith("box format") and "as left, top, width and height" in reason


def test_objects_too_small_to_see_are_named():
    pictures = [Picture(Path("a.png"), "a", 4000, 4000, "train", (Box(0, 0, 0, 10, 10),))]
    reason = diagnosis.diagnose(pictures, pictures, {}, ("a",), 640, [])
    assert reason.startswith("size: half of the objects are under 1.6 px at --imgsz 640")


@pytest.mark.parametrize(
    ("losses", "words"), [((2, 3), "grew"), ((2, 1.99), "did not fall"), ((2, 1), "")]
)
def test_a_loss_that_does_not_fall_is_named(losses, words):
    pictures = [Picture(Path("a.png"), "a", 64, 64, "train", (Box(0, 0, 0, 30, 30),))]
    history = [{"loss": value} for value in losses]
    reason = diagnosis.diagnose(pictures, pictures, {}, ("a",), 64, history)
    assert words in reason and bool(reason) == bool(words)
