"""Metrics of the vision tasks: against pycocotools, scikit-learn and numbers counted by hand."""

import contextlib
import io
import itertools
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sk

pytest.importorskip("pycocotools", reason="comes with the vision extras")
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from onecard.datasets.images.records import Box, Detection, Picture
from onecard.errors import DataError, NotFound
from onecard.evaluation.calibration_error import calibration_error, reliability
from onecard.evaluation.metrics import average_precision as ap
from onecard.evaluation.metrics.classification import ClassificationScores
from onecard.evaluation.metrics.detection import (
    DetectionScores,
    compare_detectors,
)
from onecard.evaluation.metrics.kinds import kind_of
from onecard.evaluation.metrics.segmentation import SegmentationScores
from onecard.evaluation.metrics.vision import (
    resampled_interval,
    resampled_weights,
    units_of,
)
from onecard.evaluation.stats import BETTER, EQUAL, INCONCLUSIVE, WORSE, compare
from onecard.runs import picture_plots

SIDE = 300


def outline(x0, y0, x1, y1):
    """An octagon in the rectangle."""
    a, b = (x1 - x0) / 4, (y1 - y0) / 4
    points = [(x0 + a, y0), (x1 - a, y0), (x1, y0 + b), (x1, y1 - b)]
    points += [(x1 - a, y1), (x0 + a, y1), (x0, y1 - b), (x0, y0 + b)]
    return (tuple(itertools.chain(*points)),)


def world(n, n_classes, *, seed=0, right=0.7, wrong=4.0, crowd=0.05, masks=False, digits=2):
    """Random pictures and the detections of a detector that has `right` of the objects."""
    random = np.random.default_rng(seed)
    truth, detections = [], {}
    for i in range(n):
        boxes, rows = [], []
        for _ in range(random.poisson(4)):
            wide, high = np.exp(random.uniform(np.log(8), np.log(200), 2))
            x, y = random.uniform(0, SIDE - wide), random.uniform(0, SIDE - high)
            label = int(random.integers(n_classes))
            corners = np.array([x, y, x + wide, y + high])
            boxes.append(
                Box(
                    label,
                    *map(float, corners),
                    crowd=bool(random.random() < crowd),
                    polygons=outline(*corners) if masks else (),
                )
            )
            if random.random() < right:
                corners = corners + random.normal(0, 0.06, 4) * [wide, high, wide, high]
                score = round(float(random.beta(5, 2)), digits)  # with ties
                outlines = outline(*corners) if masks else ()
                rows.append(Detection(label, score, *map(float, corners), polygons=outlines))
        for _ in range(random.poisson(wrong)):
            wide, high = np.exp(random.uniform(np.log(8), np.log(200), 2))
            x, y = random.uniform(0, SIDE - wide), random.uniform(0, SIDE - high)
            corners, label = (x, y, x + wide, y + high), int(random.integers(n_classes))
            outlines = outline(*corners) if masks else ()
            score = round(float(random.beta(1.5, 4)), digits)
            rows.append(Detection(label, score, *map(float, corners), polygons=outlines))
        name = f"{i:04d}.png"
        truth.append(Picture(Path(name), name, SIDE, SIDE, boxes=tuple(boxes)))
        detections[name] = rows
    return truth, detections, [f"class {c}" for c in range(n_classes)]


def by_the_library(truth, detections, n_classes, masks=False, classless=False):
    """COCOeval.stats of the whole library path; None where it cannot load nothing."""
    labels, rows = [], []
    for i, picture in enumerate(truth, 1):
        for box in picture.boxes:
            wide, high = box.x1 - box.x0, box.y1 - box.y0
            row = {"id": len(labels) + 1, "image_id": i, "category_id": box.label + 1}
            row |= {"iscrowd": int(box.crowd), "bbox": [box.x0, box.y0, wide, high]}
            row["area"] = wide * high
            if masks:
                outlines = [list(part) for part in box.polygons]
                row["segmentation"] = rle.merge(rle.frPyObjects(outlines, SIDE, SIDE))
                row["area"] = float(rle.area(row["segmentation"]))
            labels.append(row)
        for one in detections.get(picture.name, ()):
            row = {"image_id": i, "category_id": one.label + 1, "score": one.score}
            if masks:
                outlines = [list(part) for part in one.polygons]
                row["segmentation"] = rle.merge(rle.frPyObjects(outlines, SIDE, SIDE))
            else:
                row["bbox"] = [one.x0, one.y0, one.x1 - one.x0, one.y1 - one.y0]
            rows.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "width": SIDE, "height": SIDE} for i in range(1, len(truth) + 1)],
            "categories": [{"id": c + 1, "name": str(c)} for c in range(n_classes)],
            "annotations": labels,
        }
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(rows), "segm" if masks else "bbox")
        run.params.useCats = int(not classless)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


@pytest.mark.parametrize(("n", "n_classes", "masks"), [(30, 12, False), (12, 3, True)])
def test_averages_are_the_librarys_to_the_ninth_digit(n, n_classes, masks):
    truth, detections, classes = world(n, n_classes, seed=n, masks=masks)
    run = by_the_library(truth, detections, n_classes, masks)
    scores = DetectionScores(truth, detections, classes, masks=masks)
    ours = scores.metrics()
    names = ("map50_95", "map50", "map75", "map50_95_small", "map50_95_medium", "map50_95_large")
    for name, value in zip(names, run.stats[:6], strict=True):
        assert ours[name].value == pytest.approx(value, abs=1e-9), name
    precision = run.eval["precision"][:, :, :, 0, 2]  # T x R x K
    for c, row in enumerate(scores.per_class()):
        assert row["ap50"].value == pytest.approx(precision[0, :, c].mean(), abs=1e-9)
        assert row["ap50_95"].value == pytest.approx(precision[:, :, c].mean(), abs=1e-9)


def test_painted_pixels_count_as_they_are():
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 10:20] = 1
    mask[8:12, 13:17] = 0  # a hole, which no outline has
    flat = mask.flatten(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = tuple(int(n) for n in np.diff([0, *ends, flat.size]))
    box = Box(0, 10, 5, 20, 15, runs=runs)
    assert (rle.decode(ap.shape_rle(box, 20, 30)) == mask).all()
    truth = [Picture(Path("a"), "a", 30, 20, boxes=(box,))]
    rows = {"a": [Detection(0, 0.9, 10, 5, 20, 15)]}  # the whole square: IoU .84
    metrics = DetectionScores(truth, rows, ["x"], masks=True).metrics()
    assert metrics["map50_95"].value == pytest.approx(0.7)


def test_without_classes_it_is_the_librarys_too():
    truth, detections, classes = world(25, 6, seed=1)
    run = by_the_library(truth, detections, 6, classless=True)
    ours = DetectionScores(truth, detections, classes).metrics()["map50_agnostic"]
    assert ours.value == pytest.approx(run.stats[1], abs=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_weight_counts_a_picture_as_often(seed):
    """A sample with repeated pictures is a data set with copies of them, for the library too."""
    truth, detections, classes = world(6, 2, seed=seed, wrong=2.0, digits=12)
    weights = np.random.default_rng(seed).integers(0, 4, len(truth))
    copies, copied = [], {}
    for picture, times in zip(truth, weights, strict=True):
        for k in range(times):
            name = f"{picture.name}-{k}"
            copies.append(Picture(picture.path, name, SIDE, SIDE, boxes=picture.boxes))
            copied[name] = detections[picture.name]
    ours = DetectionScores(truth, detections, classes)
    again = DetectionScores(copies, copied, classes)
    one = ours.samples("map50", weights[None].astype(np.int32))[0]
    two = again.samples("map50", np.ones((1, len(copies)), np.int32))[0]
    assert one == pytest.approx(two, abs=1e-9, nan_ok=True)


def test_many_pictures_and_classes_are_resampled_in_seconds():
    truth, detections, classes = world(100, 40, seed=3, wrong=40.0)
    scores = DetectionScores(truth, detections, classes)
    matches = scores._matches["all"]
    weights = resampled_weights(np.arange(100), 1000)
    samples = np.stack([ap.average_precision(m, weights) for m in matches], 1)
    assert samples.shape == (1000, 40, 10)
    assert np.isfinite(samples).any()


def test_chunks_give_what_one_pass_gives(monkeypatch):
    truth, detections, classes = world(20, 3, seed=5)
    scores = DetectionScores(truth, detections, classes)
    weights = resampled_weights(np.arange(20), 50)
    whole = scores.averages(weights)
    monkeypatch.setattr(ap, "CELLS", 100)
    np.testing.assert_array_equal(scores.averages(weights), whole)


def test_groups_are_drawn_together_and_widen_the_interval():
    truth, detections, classes = world(24, 2, seed=2)
    # each picture three times under other names: more pictures, and no more information
    copies = [
        Picture(p.path, f"{p.name}-{k}", SIDE, SIDE, boxes=p.boxes, group=p.name)
        for p in truth
        for k in range(3)
    ]
    rows = {p.name: detections[p.group] for p in copies}
    one = DetectionScores(truth, detections, classes).metrics()
    grouped = DetectionScores(copies, rows, classes).metrics()
    apart = DetectionScores(copies, rows, classes).metrics({})
    for name in ("map50", "f1"):
        wide = one[name].high - one[name].low
        assert grouped[name].high - grouped[name].low == pytest.approx(wide, rel=0.15), name
        assert apart[name].high - apart[name].low < 0.75 * wide, name


def test_a_name_is_never_taken_for_a_group():
    assert units_of(["a", "b"], {"b": "a"})[0].tolist() == [0, 1]
    assert units_of(["a", "b"], {"a": "", "b": ""})[0].tolist() == [0, 1]


def test_a_perfect_detector_gets_no_perfect_interval():
    truth, _, classes = world(20, 2, seed=4, crowd=0.0)
    exact = {
        p.name: [Detection(b.label, 0.9, b.x0, b.y0, b.x1, b.y1) for b in p.boxes] for p in truth
    }
    metrics = DetectionScores(truth, exact, classes).metrics()
    assert metrics["map50_95"].value == pytest.approx(1.0)
    assert 0.75 < metrics["map50_95"].low < 0.9  # Clopper-Pearson of 20 of 20: .83
    assert metrics["f1"].value == 1.0


def test_nothing_detected_and_nothing_to_detect():
    truth, _, classes = world(10, 2, seed=4)
    metrics = DetectionScores(truth, {}, classes).metrics()
    assert metrics["map50"].value == 0.0
    assert metrics["map50"].high > 0.0
    assert metrics["recall"].value == 0.0
    assert metrics["ece"].as_dict()["value"] is None
    empty = [Picture(Path("a"), "a", 10, 10), Picture(Path("b"), "b", 10, 10)]
    rows = {"b": [Detection(0, 0.9, 1, 1, 5, 5)]}
    scores = DetectionScores(empty, rows, ["x"])
    assert scores.metrics()["map50"].as_dict()["value"] is None
    assert [row["f1"] for row in scores.items(0.5)] == [1.0, 0.0]
    nothing = DetectionScores([], {}, [])
    assert nothing.metrics()["map50"].as_dict()["value"] is None
    assert nothing.confusion().tolist() == [[0]]
    nothing.curves()


def test_detections_that_cannot_be_scored():
    truth = [Picture(Path("a"), "a", 10, 10, boxes=(Box(0, 1, 1, 5, 5),))]
    bad = Detection(0, float("nan"), 1, 1, 5, 5)
    scores = DetectionScores(truth, {"a": [bad, Detection(0, 0.9, 1, 1, 5, 5)]}, ["x"])
    assert scores.n_dropped == 1
    assert scores.metrics()["map50"].value == pytest.approx(1.0)
    with pytest.raises(DataError, match="do not fit"):
        DetectionScores(truth, {"b": [bad]}, ["x"])
    with pytest.raises(DataError, match="no class"):
        DetectionScores(truth, {"a": [Detection(1, 0.9, 1, 1, 5, 5)]}, ["x"])
    with pytest.raises(DataError, match="do not fit"):
        DetectionScores([*truth, *truth], {}, ["x"])
    with pytest.raises(NotFound):
        scores.samples("map95", np.ones((1, 1), np.int32))


def test_confusion_and_counts_by_hand():
    boxes = (
        Box(0, 0, 0, 10, 10),  # seen as itself, and once more
        Box(0, 20, 0, 30, 10),  # seen as class 1
        Box(1, 40, 0, 50, 10),  # missed
        Box(1, 60, 0, 100, 40, crowd=True),
    )
    rows = [
        Detection(0, 0.9, 0, 0, 10, 10),
        Detection(0, 0.8, 0, 0, 10, 9),
        Detection(1, 0.7, 20, 0, 30, 10),
        Detection(1, 0.6, 70, 10, 80, 20),  # on the crowd
        Detection(1, 0.1, 40, 0, 50, 10),  # below the threshold
        Detection(1, 0.5, 0, 80, 10, 90),  # nothing there
    ]
    truth = [Picture(Path("a"), "a", 100, 100, boxes=boxes)]
    scores = DetectionScores(truth, {"a": rows}, ["x", "y"])
    assert scores.confusion(0.3).tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    (row,) = scores.items(0.3)
    assert (row["right"], row["wrong"], row["missed"]) == (1, 3, 2)
    assert row["f1"] == pytest.approx(2 / 7)
    point = scores.operating_point(0.3)
    assert (point["precision"].value, point["recall"].value) == (0.25, pytest.approx(1 / 3))


def test_the_best_threshold_is_the_best():
    truth, detections, classes = world(30, 3, seed=9)
    scores = DetectionScores(truth, detections, classes)
    best = scores.best_threshold()
    f1 = {t: scores.operating_point(t)["f1"].value for t in [best, *np.linspace(0.01, 0.99, 40)]}
    assert max(f1.values()) == pytest.approx(f1[best])
    curve = scores.over_thresholds()
    at = int(curve["f1"].argmax())
    assert curve["f1"][at] == pytest.approx(f1[best])
    diagonal = np.trace(scores.confusion(best)[:-1, :-1])
    assert diagonal == pytest.approx(sum(row["right"] for row in scores.items()), abs=2)


def test_two_detectors_are_compared_on_the_same_pictures():
    truth, weak, classes = world(60, 3, seed=7, right=0.5)
    strong = {
        p.name: [
            *weak[p.name],
            *(Detection(b.label, 0.95, b.x0, b.y0, b.x1, b.y1) for b in p.boxes),
        ]
        for p in truth
    }
    one, two = (DetectionScores(truth, rows, classes) for rows in (weak, strong))
    assert compare_detectors(one, two).verdict == BETTER
    back = compare_detectors(two, one, metric="map50")
    assert back.verdict == WORSE
    assert back.delta.value < 0
    assert back.lost
    same = compare_detectors(one, one)
    assert (same.verdict, same.p_value) == (INCONCLUSIVE, 1.0)
    assert compare_detectors(one, one, margin=0.01).verdict == EQUAL
    few = [
        DetectionScores(truth[:5], {p.name: r[p.name] for p in truth[:5]}, classes)
        for r in (weak, strong)
    ]
    assert compare_detectors(*few).verdict == INCONCLUSIVE
    with pytest.raises(DataError):
        compare_detectors(one, few[0])


def test_an_interval_goes_to_the_side_of_the_bias():
    random = np.random.default_rng(0)
    samples = random.normal(0.62, 0.05, 1000)  # the bootstrap of .6 lies .02 too high
    interval = resampled_interval(0.6, samples, 100, 100)
    assert interval.low == pytest.approx(0.6 - 0.06 - 1.984 * 0.05, abs=0.012)
    assert interval.high == pytest.approx(0.6 + 1.984 * 0.05, abs=0.012)


# Classification


def probabilities(labels, n_classes, right, seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1, (len(labels), n_classes))
    logits[np.arange(len(labels)), labels] += right
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_a_classifier_against_scikit_learn():
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, 120)  # class 4 has no pictures
    table = probabilities(labels, 5, 1.5)
    scores = ClassificationScores([str(i) for i in range(120)], labels, table, list("abcde"))
    metrics, predicted = scores.metrics(), table.argmax(1)
    present = [0, 1, 2, 3]
    assert metrics["accuracy"].value == pytest.approx(sk.accuracy_score(labels, predicted))
    expected = sk.f1_score(labels, predicted, labels=present, average="macro")
    assert metrics["macro_f1"].value == pytest.approx(expected)
    expected = sk.recall_score(labels, predicted, labels=present, average="macro")
    assert metrics["balanced_accuracy"].value == pytest.approx(expected)
    assert metrics["nll"].value == pytest.approx(sk.log_loss(labels, table, labels=range(5)))
    squares = ((table - np.eye(5)[labels]) ** 2).sum(1).mean()
    assert metrics["brier"].value == pytest.approx(squares)
    expected = sk.confusion_matrix(labels, predicted, labels=range(5))
    assert (scores.confusion() == expected).all()
    for interval in metrics.values():
        assert interval.low <= interval.value <= interval.high
    assert [row["n"] for row in scores.per_class()] == np.bincount(labels, minlength=5).tolist()


def test_macro_f1_interval_covers():
    """95 % intervals over pictures of 3 classes, one rare."""
    random, n_inside, true = np.random.default_rng(0), 0, []
    shares, right = np.array([0.6, 0.3, 0.1]), 1.2
    labels = random.choice(3, 20_000, p=shares)
    whole = probabilities(labels, 3, right, seed=5)
    true = sk.f1_score(labels, whole.argmax(1), average="macro")
    for _ in range(200):
        rows = random.choice(len(labels), 80, replace=False)
        scores = ClassificationScores([str(i) for i in rows], labels[rows], whole[rows], "abc")
        interval = scores.metrics()["macro_f1"]
        n_inside += interval.low <= true <= interval.high
    assert n_inside >= 180


def test_two_classifiers_by_macro_f1():
    labels = np.random.default_rng(1).integers(0, 3, 90)
    names = [str(i) for i in range(90)]
    items = []
    for right in (0.5, 3.0):
        scores = ClassificationScores(names, labels, probabilities(labels, 3, right), "abc")
        value, rows = scores.f1_items()
        assert rows.mean() == pytest.approx(value)
        items.append(dict(zip(names, rows, strict=True)))
    assert compare(*items, bounds=(0.0, 1.0)).verdict == BETTER


def test_bad_probabilities_are_refused():
    with pytest.raises(DataError, match="do not fit"):
        ClassificationScores(["a"], [0], np.ones((1, 3)), "ab")
    with pytest.raises(DataError, match="finite"):
        ClassificationScores(["a"], [0], np.full((1, 2), np.nan), "ab")
    with pytest.raises(DataError, match="no class"):
        ClassificationScores(["a"], [2], np.ones((1, 2)), "ab")
    assert ClassificationScores([], [], np.ones((0, 2)), "ab").metrics()["accuracy"].n == 0


def test_calibration_by_hand():
    # two bins: .2 is right in 1 of 4, .9 in 2 of 4
    confidence, correct = [0.2] * 4 + [0.9] * 4, [1, 0, 0, 0, 1, 1, 0, 0]
    error = calibration_error(confidence, correct, n_bins=2)
    assert error.value == pytest.approx((0.05 + 0.4) / 2)
    assert error.low <= error.value <= error.high
    rows = reliability(confidence, correct, n_bins=2)
    assert [(row["n"], row["accuracy"]) for row in rows] == [(4, 0.25), (4, 0.5)]
    # equal confidences never lie in two bins
    assert len(reliability([0.5] * 40, [1, 0] * 20)) == 1
    assert kind_of("ece").lower_is_better
    assert kind_of("brier").lower_is_better
    assert kind_of("nll").lower_is_better
    assert not kind_of("piece").lower_is_better


# Segmentation


def test_iou_and_dice_by_hand_and_by_scikit_learn():
    random = np.random.default_rng(0)
    scores = SegmentationScores(["nothing", "cone", "mud", "never"], background=0)
    truths, predictions = [], []
    for i in range(12):
        truth = random.integers(0, 3, (8, 9))
        predicted = np.where(random.random((8, 9)) < 0.7, truth, random.integers(0, 4, (8, 9)))
        truth[0, :3] = (255, -1, 255)[:3]  # not counted
        scores.add(f"{i}", truth, predicted)
        counted = (truth >= 0) & (truth < 4)
        truths.append(truth[counted])
        predictions.append(predicted[counted])
    truth, predicted = np.concatenate(truths), np.concatenate(predictions)
    metrics = scores.metrics()
    ious = sk.jaccard_score(truth, predicted, labels=[0, 1, 2, 3], average=None)
    dices = sk.f1_score(truth, predicted, labels=[0, 1, 2, 3], average=None)
    assert metrics["mean_iou"].value == pytest.approx(ious[1:3].mean())
    assert metrics["mean_dice"].value == pytest.approx(dices[1:3].mean())
    assert metrics["background_iou"].value == pytest.approx(ious[0])
    assert metrics["pixel_accuracy"].value == pytest.approx((truth == predicted).mean())
    assert metrics["mean_iou"].low < metrics["mean_iou"].value < metrics["mean_iou"].high
    rows = scores.per_class()
    assert [row["counted"] for row in rows] == [False, True, True, False]
    assert rows[1]["iou"].value == pytest.approx(ious[1])
    value, items = scores.iou_items()
    assert items.mean() == pytest.approx(value)
    assert scores.confusion().sum() == len(truth)
    assert all(0 <= row["iou"] <= 1 for row in scores.items())


def test_maps_that_cannot_be_scored():
    scores = SegmentationScores(["a", "b"])
    with pytest.raises(DataError, match="sizes"):
        scores.add("x", np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(DataError, match="no class"):
        scores.add("x", np.zeros((2, 2), int), np.full((2, 2), 2))
    assert scores.metrics()["mean_iou"].as_dict()["value"] is None
    scores.add("x", np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    assert scores.metrics()["mean_iou"].as_dict()["value"] is None
    assert scores.items()[0]["iou"] == 1.0


# Figures


def test_figures_are_drawn_for_odd_names_and_for_nothing(tmp_path):
    classes = ["cat $x$", "_dog", "犬 <b>", "a very long name that does not fit anywhere", "e"]
    truth, detections, _ = world(12, 5, seed=3, masks=True)
    scores = DetectionScores(truth, detections, classes)
    curves = scores.curves()
    drawn = [
        picture_plots.precision_recall(curves["pr"]),
        picture_plots.confusion(scores.confusion(), classes),
        picture_plots.reliability(curves["reliability"]),
    ]
    assert all(text.startswith("<svg") for text in drawn)
    for text in drawn:
        ElementTree.fromstring(text)
    assert "犬 &lt;b&gt;" in drawn[0]
    assert "犬 &lt;b&gt;" in drawn[1]
    assert drawn[1] == picture_plots.confusion(scores.confusion(), classes)  # the same file
    assert picture_plots.precision_recall({}) == ""
    assert picture_plots.confusion(np.zeros((0, 0), int), []) == ""
    assert picture_plots.reliability([]) == ""
    many = {f"{c}": {"recall": [0.1, c / 100], "precision": [1.0, 0.5]} for c in range(80)}
    assert picture_plots.precision_recall(many).count("<!-- ") < 200
    assert picture_plots.confusion(np.eye(90, dtype=int), [str(c) for c in range(90)])
    empty = {"x": {"recall": [], "precision": []}}
    assert picture_plots.precision_recall(empty).startswith("<svg")


def test_the_worst_sheet_shows_both_sides(tmp_path):
    truth, detections, classes = world(20, 3, seed=3)
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    rows = [
        picture_plots.SheetRow(grey, picture.name, picture.boxes, detections[picture.name])
        for picture in truth
    ]
    path = picture_plots.worst_sheet(rows, tmp_path / "worst.png", classes)
    sixteen = Image.open(path)
    picture_plots.worst_sheet(rows[:2], tmp_path / "two.png", classes)
    two = Image.open(tmp_path / "two.png")
    assert two.width == sixteen.width
    assert sixteen.height > 7 * two.height
    left, right = np.array_split(np.asarray(two)[:, : two.width // 2], 2, axis=1)
    assert min(left.std(), right.std()) > 5.0
    classes_HW = np.zeros((SIDE, SIDE), np.int64)
    row = picture_plots.SheetRow(grey, "map", truth_HW=classes_HW, predicted_HW=classes_HW + 1)
    assert picture_plots.worst_sheet([row], tmp_path / "map.png", classes)
    assert picture_plots.worst_sheet([], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()
