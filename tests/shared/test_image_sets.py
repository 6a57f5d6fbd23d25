"""Real labelled pictures: blood cells in VOC's form, cones as Roboflow exports them, membranes with
masks."""

import pytest

from onecard.datasets.images import check, masks, splits
from onecard.datasets.images.reader import read
from onecard.errors import DataError


def test_blood_cells(shared):
    dataset = read(shared / "data" / "bccd", "detect")
    assert dataset.form == "voc" and dataset.classes == ("Platelets", "RBC", "WBC")
    assert (len(dataset.of_split("train")), len(dataset.of_split("val"))) == (205, 87)
    assert [row.where for row in dataset.rejected] == [
        "Annotations/BloodImage_00338.xml:158",
        "Annotations/BloodImage_00343.xml:50",
    ]
    assert all("no area" in row.reason for row in dataset.rejected)
    report = check.check(shared / "data" / "bccd", "detect")
    # one field of view stands in both lists, in another focus
    assert report.near == [("JPEGImages/BloodImage_00037.jpg", "JPEGImages/BloodImage_00038.jpg")]
    assert [leak.n for leak in report.leaks.leaks] == [1]
    split = splits.prepare(dataset, regroup=True)
    assert not split.leaks and len(split.train) + len(split.val) == 292


def test_cones_of_one_film_in_all_splits(shared):
    dataset = read(shared / "data" / "cones", "detect")
    assert dataset.form == "yolo" and dataset.classes == ("cone", "cube")
    counts = [len(dataset.of_split(split)) for split in ("train", "val", "test")]
    assert counts == [240, 70, 40] and not dataset.rejected
    with pytest.raises(DataError, match="share pictures"):
        splits.prepare(dataset)
    split = splits.prepare(dataset, regroup=True)
    films = [
        {p.path.name.partition("_mp4")[0] for p in side}
        for side in (split.train, split.val, split.test)
    ]
    assert all(films) and len(set.union(*films)) == sum(map(len, films)) == 6
    assert not split.leaks


def test_membranes(shared):
    dataset = read(shared / "data" / "membrane", "segment")
    assert dataset.form == "masks" and dataset.mask_values == {0: 0, 255: 1}
    split = splits.prepare(dataset)
    assert (len(split.train), len(split.val)) == (24, 6) and not split.leaks
    labels = masks.pixel_labels(split.val[0], dataset)
    assert labels.shape == (512, 512) and set(labels.ravel().tolist()) == {0, 1}
