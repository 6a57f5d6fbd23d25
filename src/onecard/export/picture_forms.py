"""A trained vision model as ONNX, int8, OpenVINO or TensorRT: each file is scored in its own
precision on the same pictures as torch, and timed beside it. Knows no task: a `Scorer` says how.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Picture
from onecard.errors import DataError
from onecard.evaluation import latency, stats
from onecard.evaluation.latency import Latency
from onecard.evaluation.stats import Comparison, Interval
from onecard.export import onnx_pictures, openvino_pictures, picture_example, tensorrt_pictures
from onecard.export.onnx_pictures import difference, read_onnx_card
from onecard.inference.picture_io import prepare
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import ONNX, OPENVINO, Predictor
from onecard.reporting import Reporter, Table, table
from onecard.units import size

S = TypeVar("S")
CALIBRATION = 64
"""Training pictures whose activations set the ranges of an int8 export."""
CALIBRATION_BATCH = 4
TIMED_S = 2.0
"""Of each form, alone and with the work before and after the network."""
LARGEST_DIFFERENCE = 0.05
"""Of one output of a full-precision export from torch's: boxes in pixels, scores in shares."""
EXACT = ("onnx", "openvino")
"""Forms that compute in fp32: their outputs are held against torch's too."""


class Scorer(Protocol[S]):
    """How a task scores a predictor and compares two scores."""

    metric: str

    def score(self, predictor: Predictor, pictures: Sequence[Picture], label: str) -> S: ...

    def figures(self, scores: S) -> dict[str, Interval]:
        """The few figures of the table, `metric` first."""
        ...

    def compare(self, torch: S, form: S) -> dict[str, Comparison]:
        """Of the metric, and of what the scores are worth at the model's threshold."""
        ...

    def predict(self, predictor: Predictor, pictures: Sequence[np.ndarray]) -> Any: ...


@dataclass
class Form(Generic[S]):
    """One file with what was measured of it."""

    name: str
    path: Path
    scores: S | None
    comparisons: dict[str, Comparison]
    network: Latency
    whole: Latency
    refusal: str = ""
    """Why it may not be used; empty for a good one."""


def write(
    form: str, net: Any, card: ModelCard, folder: Path, train: Sequence[Picture], nms: bool
) -> Path:
    """The file of one form in the folder, and model.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    card.write(folder)
    if form == "onnx" or not (folder / ONNX).is_file():
        onnx_pictures.to_onnx(net, card, folder)
    check_classes(folder / ONNX, card)
    if form == "onnx":
        picture_example.example(folder, card)
        path = folder / ONNX
        return onnx_pictures.with_nms(path) if nms else path
    if form == "onnx-int8":
        return onnx_pictures.quantize_int8(folder, calibration(train, card))
    if form == "openvino":
        return openvino_pictures.to_openvino(folder, half=False)
    return tensorrt_pictures.to_tensorrt(folder)


def check_classes(path: Path, card: ModelCard) -> None:
    """Raises DataError where the class map inside a file is not the model's."""
    inside = read_onnx_card(path).classes
    if inside != card.classes:
        raise DataError(
            f"{path} has another class map than the model",
            why=f"{', '.join(inside[:5])} instead of {', '.join(card.classes[:5])}",
            fix="remove it and export again",
        )


def calibration(pictures: Sequence[Picture], card: ModelCard) -> Any:
    """images_BCHW of some training pictures, batch by batch."""
    step = max(1, len(pictures) // CALIBRATION)
    chosen = pictures[::step][:CALIBRATION]
    for start in range(0, len(chosen), CALIBRATION_BATCH):
        part = chosen[start : start + CALIBRATION_BATCH]
        yield np.stack([prepare(read_rgb(picture.path), card)[0] for picture in part])


def measure(
    name: str,
    path: Path,
    run: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    card: ModelCard,
    pictures: Sequence[Picture],
    scorer: Scorer[S],
    confidence: float | None,
) -> Form[S]:
    """Score and latency of one form, a picture at a time."""
    scores = scorer.score(Predictor(card, run, confidence=confidence), pictures, name)
    rgb = read_rgb(pictures[0].path)
    image = prepare(rgb, card)[0][None]
    alone = latency.measure(run, image, seconds=TIMED_S)
    user = Predictor(card, run, batch=1)
    whole = latency.measure(lambda rgbs: scorer.predict(user, rgbs), [rgb], seconds=TIMED_S)
    return Form(name, path, scores, {}, alone, whole)


def judge(torch: Form[S], form: Form[S], scorer: Scorer[S]) -> None:
    """Fill in the comparisons, and a refusal where the form is worse beyond noise."""
    assert torch.scores is not None and form.scores is not None
    form.comparisons = scorer.compare(torch.scores, form.scores)
    for name, comparison in form.comparisons.items():
        if comparison.verdict == stats.WORSE:
            form.refusal = f"{name} is worse than torch's: {comparison.render()}"
            return


def check_outputs(form: str, one: Any, other: Any, card: ModelCard) -> None:
    """Raises DataError where a full-precision form computes something else than torch."""
    if form not in EXACT:
        return
    images = np.random.default_rng(0).random((2, 3, card.height, card.width), dtype=np.float32)
    gap = difference(one, other, images)
    if not gap <= LARGEST_DIFFERENCE:
        raise DataError(
            f"the {form} file computes something else than the trained model",
            why=f"its outputs differ by up to {gap:.3g}",
            fix="use another form, and please report it with the model's name",
        )


def remove(form: Form[Any]) -> None:
    """A refused file: it is not left where a program would take it."""
    if form.path.is_dir():
        shutil.rmtree(form.path, ignore_errors=True)
    elif form.path.parent.name == OPENVINO:
        shutil.rmtree(form.path.parent, ignore_errors=True)
    else:
        form.path.unlink(missing_ok=True)


def bytes_of(path: Path) -> int:
    """Of a file, or of all files in the folder of an OpenVINO model."""
    if path.parent.name == OPENVINO:
        path = path.parent
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size


def as_table(forms: Sequence[Form[S]], scorer: Scorer[S]) -> Table:
    """Precision beside speed, of the same file."""
    head: list[str] = []
    rows = []
    first = forms[0].network.median_ms
    for form in forms:
        figures = scorer.figures(form.scores) if form.scores is not None else {}
        head = ["form", "size", *figures, "network ms (p95)", "whole ms (p95)", "speed"]
        rows.append(
            [
                form.name,
                size(bytes_of(form.path)),
                *(interval.render() for interval in figures.values()),
                f"{form.network.median_ms:.1f} ({form.network.p95_ms:.1f})",
                f"{form.whole.median_ms:.1f} ({form.whole.p95_ms:.1f})",
                f"{first / form.network.median_ms:.2f}x",
            ]
        )
    return table(rows, head)


def as_data(form: Form[S], scorer: Scorer[S]) -> dict[str, Any]:
    figures: Mapping[str, Interval] = {}
    if form.scores is not None:
        figures = scorer.figures(form.scores)
    return {
        "path": str(form.path),
        "bytes": bytes_of(form.path) if form.path.exists() else 0,
        "metrics": {name: interval.as_dict() for name, interval in figures.items()},
        "comparisons": {name: row.as_dict() for name, row in form.comparisons.items()},
        "network": form.network.as_dict(),
        "whole": form.whole.as_dict(),
        "refusal": form.refusal,
    }


def refuse(forms: Sequence[Form[Any]], reporter: Reporter) -> None:
    """Raises DataError where a form was refused, after all forms were told."""
    refused = [form for form in forms if form.refusal]
    if not refused:
        return
    names = ", ".join(form.name for form in refused)
    for form in refused:
        reporter.warn(f"{form.name} is refused: {form.refusal}")
    raise DataError(
        f"{names} is worse than the trained model beyond noise",
        why=refused[0].refusal,
        fix="its file was removed; the other forms are good: take onnx or openvino",
    )
