"""check, evaluate and export of the vision tasks on models that were trained here for a moment."""

import json
import subprocess
import sys
from pathlib import Path

import made_pictures
import numpy as np
import onnx
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="installed by make test")

from onecard import api  # noqa: E402
from onecard.errors import DataError, SettingsError  # noqa: E402
from onecard.export import onnx_pictures, picture_forms  # noqa: E402
from onecard.inference.picture_model import read_card  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402

MODELS = {"detect": "fcos-resnet18", "classify": "resnet18", "segment": "unet-resnet18"}
WRITERS = {"detect": "write_yolo", "classify": "write_folders", "segment": "write_masks"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch):
    monkeypatch.setattr(picture_forms, "TIMED_S", 0.01)


def run(task, command, **values):
    config = api.configure(task, command, values=values)
    return api.run(task, command, config, reporter=Reporter())


@pytest.fixture(scope="module")
def home(session_home):
    return session_home


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    """Task -> (data, model folder)."""
    root = tmp_path_factory.mktemp("trained")
    items = made_pictures.scenes(36, n_val=12, n_objects=1)
    out = {}
    for task, name in MODELS.items():
        data = getattr(made_pictures, WRITERS[task])(root / task, items)
        result = run(
            task,
            "train",
            data=str(data),
            model=name,
            imgsz=64,
            epochs=2,
            batch=8,
            pretrained=False,
            output_dir=str(root / f"{task}-out"),
        )
        out[task] = (data, Path(result.data["model"]))
    return out


@pytest.mark.parametrize("task", MODELS)
def test_every_form_is_scored_beside_torch(home, trained, task):
    _, model = trained[task]
    result = run(task, "export", run_id=str(model), formats=("onnx", "openvino"))
    forms = result.data["forms"]
    metric = next(iter(forms["torch"]["metrics"]))
    for name in ("onnx", "openvino"):
        exported, torch_s = forms[name]["metrics"][metric], forms["torch"]["metrics"][metric]
        assert abs(exported["value"] - torch_s["value"]) <= 0.002
        assert forms[name]["network"]["median_ms"] > 0 and not forms[name]["refusal"]
    inside = onnx_pictures.read_onnx_card(model / "model.onnx")
    assert inside.classes == read_card(model).classes
    assert (model / "predict.py").is_file()


@pytest.mark.parametrize("task", MODELS)
def test_the_items_name_the_pictures(home, trained, task):
    data, model = trained[task]
    run(task, "evaluate", run_id=str(model))
    runs = [past for past in api.runs() if past.task == task and past.items()]
    assert {past.command for past in runs} >= {"train", "evaluate"}
    for past in runs:
        for row in past.items().values():
            assert api.item_endings(row) == {"media": ".png"}
            assert Path(row["images"][0]).is_relative_to(data), row
            assert Path(row["images"][0]).is_file() and row["id"] in row["images"][0]


def test_an_export_is_evaluated_on_its_own(home, trained):
    _, model = trained["segment"]
    whole = run("segment", "evaluate", run_id=str(model)).data["metrics"]
    run("segment", "export", run_id=str(model), formats=("onnx",))
    onnx_s = run("segment", "evaluate", run_id=str(model), form="onnx").data["metrics"]
    for name, row in whole.items():
        if row["value"] is not None:
            assert onnx_s[name]["value"] == pytest.approx(row["value"], abs=0.01), name


def test_the_example_runs_alone(home, trained, tmp_path):
    _, model = trained["classify"]
    run("classify", "export", run_id=str(model), formats=("onnx",))
    path = made_pictures.save(tmp_path / "a.png", made_pictures.scene(99).rgb)
    done = subprocess.run(
        [sys.executable, str(model / "predict.py"), str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert any(name in done.stdout for name in made_pictures.CLASSES)


def test_an_export_whose_scores_collapse_is_refused(home, trained, monkeypatch, tmp_path):
    """Its likeliest class may hold: what the probabilities are worth does not."""
    _, model = trained["classify"]
    quantize = onnx_pictures.quantize_int8

    def collapsed(folder, batches):
        path = quantize(folder, batches)
        graph = onnx.load(path)
        last = graph.graph.output[0].name
        for node in graph.graph.node:
            node.output[:] = ["sure" if name == last else name for name in node.output]
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([0.001]), "small"))
        graph.graph.node.append(onnx.helper.make_node("Mul", ["sure", "small"], [last]))
        onnx.save(graph, path)
        return path

    monkeypatch.setattr(picture_forms.onnx_pictures, "quantize_int8", collapsed)
    with pytest.raises(DataError, match="onnx-int8 is worse than the trained model") as refusal:
        run(
            "classify",
            "export",
            run_id=str(model),
            formats=("onnx", "onnx-int8"),
            output_dir=str(tmp_path),
        )
    assert "nll is worse" in refusal.value.why
    assert (tmp_path / "model.onnx").exists() and not (tmp_path / "model_int8.onnx").exists()


def test_tensorrt_is_refused_where_there_is_no_card(home, trained):
    _, model = trained["classify"]
    with pytest.raises(Exception, match="tensorrt"):
        run("classify", "export", run_id=str(model), formats=("tensorrt",))


def test_other_data_is_matched_by_the_names_of_its_classes(home, trained, tmp_path):
    """The same pictures with class numbers exchanged and names in the other order."""
    data, model = trained["detect"]
    items = made_pictures.scenes(36, n_val=12, n_objects=1)
    for each in items:
        each.objects = [(1 - label, *box) for label, *box in each.objects]
    other = made_pictures.write_yolo(tmp_path / "other", items)
    text = (other / "data.yaml").read_text()
    names = list(made_pictures.CLASSES)
    (other / "data.yaml").write_text(text.replace(str(names), str(names[::-1])))
    same = run("detect", "evaluate", data=str(data), run_id=str(model)).data["metrics"]
    renamed = run("detect", "evaluate", data=str(other), run_id=str(model)).data["metrics"]
    assert renamed["map50"]["value"] == pytest.approx(same["map50"]["value"], abs=1e-9)


def test_classes_that_the_model_does_not_know_are_refused(home, trained, tmp_path):
    _, model = trained["detect"]
    other = made_pictures.write_yolo(tmp_path / "other", made_pictures.scenes(8))
    text = (other / "data.yaml").read_text()
    (other / "data.yaml").write_text(text.replace("disc", "triangle"))
    with pytest.raises(DataError, match="the model does not know triangle"):
        run("detect", "evaluate", data=str(other), run_id=str(model))


def test_a_model_of_another_task_is_refused(home, trained):
    _, model = trained["classify"]
    with pytest.raises(SettingsError, match="is no model of detect"):
        run("detect", "evaluate", run_id=str(model))


def test_outlines_of_objects_are_trained_scored_and_exported(home, tmp_path):
    """A YOLO-seg, from polygons."""
    data = made_pictures.write_yolo(tmp_path / "set", made_pictures.scenes(16), polygons=True)
    result = run(
        "segment",
        "train",
        data=str(data),
        model="yolov8n-seg.yaml",
        imgsz=64,
        epochs=1,
        batch=4,
        output_dir=str(tmp_path / "out"),
    )
    assert "map50" in result.data["metrics"]
    model = result.data["model"]
    forms = run("segment", "export", run_id=model, formats=("onnx",)).data["forms"]
    assert forms["onnx"]["network"]["median_ms"] > 0


def test_a_check_writes_sheets_and_what_is_rejected(home, tmp_path):
    data = made_pictures.write_yolo(tmp_path / "set", made_pictures.scenes(12))
    label = next((data / "labels" / "train").glob("*.txt"))
    label.write_text(label.read_text() + "7 0.5 0.5 0.1 0.1\n")
    (data / "images" / "train" / "page.png").write_text("<html>not found</html>")
    result = run("detect", "check", data=str(data))
    artifacts = Path(result.data["run"]) / "artifacts"
    rejected = [
        json.loads(line) for line in (artifacts / "rejected.jsonl").read_text().splitlines()
    ]
    assert any(f"{label.name}:" in row["where"] for row in rejected)
    assert any("page.png" in row["where"] for row in rejected)
    for name in ("labelled.png", "augmented.png"):
        with Image.open(artifacts / name) as sheet:
            assert sheet.width > 300 and sheet.height > 200
