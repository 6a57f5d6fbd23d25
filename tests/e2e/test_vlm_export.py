"""vlm export of tiny models of four families: trained, merged, written as GGUF with mmproj, asked
again in llama.cpp. Their tokenizer is a real one, as the converter knows real ones only."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
pytest.importorskip("peft", reason="installed by make test")
from PIL import Image  # noqa: E402

from onecard import api  # noqa: E402
from onecard.errors import DataError, NotFound, SettingsError  # noqa: E402
from onecard.hub import checkpoints  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.tasks.vlm import export_files, picture_parity  # noqa: E402
from tests import made_vlms  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
COLORS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module")
def tokens(session_home):
    return checkpoints.folder("smollm2-135m", Reporter())


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    draw, lines = np.random.default_rng(0), []
    for i in range(24):
        color = list(COLORS)[i % 2]
        pixels = np.clip(np.array(COLORS[color]) + draw.integers(-20, 20, (64, 64, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        lines.append({"image": f"{i}.png", "question": "what color?", "answer": color})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(command, **values):
    config = api.configure("vlm", command, values=values)
    return api.run("vlm", command, config, card="cpu")


@pytest.mark.parametrize("name", made_vlms.MAKERS)
def test_a_family_is_the_same_model_in_llamacpp(name, rows, tokens, tmp_path):
    folder = made_vlms.write(name, tmp_path / name, tokens=tokens)
    out = tmp_path / "out"
    trained = run(
        "train",
        data=str(rows),
        model=str(folder),
        max_steps=3,
        eval_items=6,
        max_new_tokens=2,
        learning_rate=5e-3,
        output_dir=str(out),
    )
    run_id = trained.data["run"].rsplit("/", 1)[1]
    result = run("export", run_id=run_id, quants=("f16", "q8_0"), eval_items=6, max_new_tokens=2)
    metrics = result.data["metrics"]
    assert metrics["f16_log_probability_difference"]["value"] < 0.1
    assert {path.rsplit("/", 1)[1] for path in result.data["files"]} == {
        *("merged", "model-f16.gguf", "model-q8_0.gguf", "mmproj-f16.gguf"),
    }
    if name == "llava":
        assert metrics["mmproj_embedding_difference"]["value"] < 0.002


def test_another_models_mmproj_is_seen(rows, tokens, tmp_path):
    one = made_vlms.write("llava", tmp_path / "one", tokens=tokens)
    other = made_vlms.write("llava", tmp_path / "other", seed=1, tokens=tokens)
    pair = {
        folder: export_files.gguf_pair(folder, folder, ["f16"], Reporter())
        for folder in (one, other)
    }
    assert pair
    vlm = export_files.model.load(
        str(one), export_files.PrecisionConfig(), dtype=torch.float32, reporter=Reporter()
    )
    items = export_files_items(rows)
    own = picture_parity.feature_errors(vlm, one / "gguf" / "mmproj-f16.gguf", items)
    theirs = picture_parity.feature_errors(vlm, other / "gguf" / "mmproj-f16.gguf", items)
    assert max(own) < 0.002 < 0.5 < min(theirs)


def export_files_items(rows):
    from onecard.tasks.vlm import picture_rows

    return picture_rows.read(rows).items[:3]


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="no run to export"):
        run("export")
    with pytest.raises(NotFound):
        run("export", run_id="nothing-of-that-name")


def test_a_family_that_llamacpp_does_not_know_keeps_its_merged_folder(tokens, tmp_path):
    folder = made_vlms.write("qwen2-vl", tmp_path / "m", tokens=tokens)
    values = json.loads((folder / "config.json").read_text())
    values["architectures"] = ["NobodysForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="did not convert"):
        export_files.gguf_pair(folder, tmp_path, ["f16"], Reporter())
    assert not list((tmp_path / "gguf").glob("*.gguf"))
    shutil.rmtree(folder)


def test_a_file_that_answers_like_the_base_is_refused(tmp_path):
    from onecard.tasks.vlm import export
    from onecard.tasks.vlm.scoring import SEEING, Answers

    path = tmp_path / "base_answers.json"
    path.write_text(json.dumps({SEEING: {"a": "yes", "b": "no"}}))
    exported = export.Exported()
    exported.answers["merged"] = Answers({SEEING: {"a": "no", "b": "no"}})
    exported.answers["f16"] = Answers({SEEING: {"a": "yes", "b": "no"}})
    with pytest.raises(DataError, match="answers like the base"):
        export._require_change(path, exported)
    exported.answers["f16"] = exported.answers["merged"]
    export._require_change(path, exported)
    assert "f16: 1 of 2 answers are other ones than the base's" in exported.verdicts


@pytest.mark.parametrize("between", ["", "\n", "\n\n", " ", "\t"])
def test_what_stands_between_a_picture_and_its_question_is_kept(between, tmp_path):
    """llama.cpp puts nothing there: the mmproj file says it, and our engine sends it."""
    from onecard.memory.architectures import gguf, mmproj
    from onecard.tasks.vlm.engine_http import HttpEngine
    from onecard.tasks.vlm.items import MARKER, Turn

    folder = made_vlms.write("llava", tmp_path / "llava")
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<image>\n", f"<image>{between}"))
    assert export_files._after_picture(folder) == between
    export_files.mmproj.write_llava(folder, tmp_path / "m.gguf", after=between)
    header = gguf.read_header(tmp_path / "m.gguf")
    assert header.keys.get(mmproj.AFTER, "") == between  # GGUF keeps no empty text
    engine = HttpEngine(None, None, after=between)
    row = engine._message(Turn("user", f"{MARKER}\nwhat?"), iter(["data:"]))
    assert row["content"][1]["text"] == f"{between}what?"
