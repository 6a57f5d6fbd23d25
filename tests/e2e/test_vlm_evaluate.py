"""vlm evaluate, check and pretrain-projector through the commands' own path, on tiny models."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
pytest.importorskip("peft", reason="installed by make test")
from PIL import Image  # noqa: E402
from transformers import (  # noqa: E402
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from onecard import api  # noqa: E402
from onecard.errors import DataError, NotFound, SettingsError  # noqa: E402
from onecard.tasks.vlm import scoring  # noqa: E402
from onecard.tasks.vlm.items import MARKER, Turn, VlmItem  # noqa: E402
from tests import made_vlms  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
COLORS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


def run(command, **values):
    return api.run("vlm", command, api.configure("vlm", command, values=values), card="cpu")


def write_rows(folder, n, start=0):
    draw, lines = np.random.default_rng(start), []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        color = list(COLORS)[i % 2]
        noise = draw.integers(-20, 20, (10, 12, 3)).repeat(8, 0).repeat(8, 1)
        pixels = np.clip(np.array(COLORS[color]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append({"image": f"{i}.png", "question": "what color?", "answer": color})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), 24)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made_vlms.write("qwen2-vl", tmp_path_factory.mktemp("m") / "qwen2-vl")


def test_a_model_is_scored_with_its_controls(rows, model):
    data = run("evaluate", data=str(rows), model=str(model), max_new_tokens=3).data
    names = {f"model{way}_exact_match" for way in ("", "_blind", "_shuffled")}
    assert names <= set(data["metrics"])
    assert data["needs_picture"] is False
    assert any("comes from the text alone" in line for line in data["verdicts"])


def test_a_run_is_scored_against_its_base_on_what_it_held_out(rows, model, tmp_path):
    trained = run(
        "train",
        data=str(rows),
        model=str(model),
        max_steps=2,
        eval_items=6,
        max_new_tokens=3,
        output_dir=str(tmp_path / "out"),
    ).data
    run_id = trained["run"].rsplit("/", 1)[1]
    metrics = run("evaluate", run_id=run_id, max_new_tokens=3).data["metrics"]
    for name in ("tuned_exact_match", "base_exact_match", "tuned_blind_exact_match"):
        assert metrics[name]["value"] == trained["metrics"][name]["value"]
        assert metrics[name]["n"] == trained["metrics"][name]["n"]
    with pytest.raises(DataError, match="stand in both"):
        run("evaluate", run_id=run_id, data=str(rows), max_new_tokens=3)
    fresh = write_rows(tmp_path / "fresh", 4, start=100)
    data = run("evaluate", run_id=run_id, data=str(fresh), max_new_tokens=3).data
    assert data["metrics"]["tuned_exact_match"]["n"] == 4


def test_sizes_tell_tokens_memory_and_score(rows, model):
    data = run(
        "evaluate", data=str(rows), model=str(model), sizes=("32", "64"), max_new_tokens=2
    ).data
    small, large = data["sizes"]
    assert small["tokens"] < large["tokens"]
    assert small["planned_bytes"] <= large["planned_bytes"]
    assert any("smallest size" in line for line in data["verdicts"])


def test_sizes_without_effect_are_refused(rows, tmp_path):
    folder = made_vlms.write("llava", tmp_path / "llava")
    with pytest.raises(SettingsError, match="has no effect"):
        run("evaluate", data=str(rows), model=str(folder), sizes=("32", "64"))


@pytest.mark.parametrize("size", ["x", "0", "-4", "99999", "1.5"])
def test_a_size_that_is_none_is_refused(size, rows, model):
    with pytest.raises(SettingsError, match="is no side of a picture"):
        run("evaluate", data=str(rows), model=str(model), sizes=("32", size))


def test_presence_is_asked_in_three_ways(model, tmp_path):
    images, annotations = [], []
    draw = np.random.default_rng(0)
    for i in range(8):
        pixels = draw.integers(0, 255, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 60, "height": 60})
        for j in range(2):
            label = (i + j) % 4
            annotations.append(
                {"id": 2 * i + j, "image_id": i, "category_id": label, "bbox": [5, 5, 30, 30]}
            )
    names = ("dog", "cat", "cup", "car")
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    data = run(
        "evaluate",
        data=str(tmp_path / "coco.json"),
        model=str(model),
        presence=True,
        max_new_tokens=2,
    ).data
    for way in ("random", "popular", "adversarial"):
        row = data["metrics"][f"{way}_yes_ratio_of_truth"]
        assert row["value"] == 0.5


def test_nothing_to_score_is_refused(model):
    with pytest.raises(SettingsError, match="nothing to score"):
        run("evaluate", model=str(model))
    with pytest.raises(NotFound):
        run("evaluate", run_id="no-such-run")


# Which metric


def item(i, *answers):
    turns = (Turn("user", f"{MARKER}\nq{i}"), Turn("assistant", answers[0]))
    return VlmItem(str(i), (), turns, "x", answers=answers)


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        ([("yes",), ("red",), ("a dog",)], "exact_match"),
        ([("red",) * 10, ("blue",) * 10], "vqa_accuracy"),
        ([("A dog runs over a green field.",), ("Two cups stand on the table.",)], "rougeL"),
        ([('{"total": "3"}',), ('{"total": "4"}',)], "field_f1"),
    ],
)
def test_the_metric_goes_by_the_references(answers, metric):
    items = [item(i, *each) for i, each in enumerate(answers)]
    assert scoring.metric_of(items) == metric
    texts = {each.id: each.answers[0] for each in items}
    assert set(scoring.score(metric, texts, items).values()) == {1.0}
    wrong = {each.id: "zzz" for each in items}
    assert max(scoring.score(metric, wrong, items).values()) == 0.0


def test_a_model_that_always_says_yes_is_named():
    items = [item(i, "yes" if i % 2 else "no") for i in range(20)]
    answers = scoring.Answers({scoring.SEEING: {each.id: "yes" for each in items}})
    sentences = scoring.judge(items, answers).sentences
    assert any("it leans to yes" in line for line in sentences)


# The projector


def towers(folder):
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    shared |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    clip, siglip = folder / "clip", folder / "siglip"
    CLIPVisionModel(CLIPVisionConfig(**shared)).save_pretrained(clip)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(clip)
    SiglipVisionModel(SiglipVisionConfig(**shared, vision_use_head=False)).save_pretrained(siglip)
    SiglipImageProcessor(size=size).save_pretrained(siglip)
    return {"clip": clip, "siglip": siglip}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_tower_and_a_language_model_are_joined(kind, tied, rows, tmp_path):
    tok = made_vlms.tokenizer(["</s>"], "</s>")
    words = made_vlms._text(tok) | {"tie_word_embeddings": tied}
    LlamaForCausalLM(LlamaConfig(**words)).save_pretrained(tmp_path / "words")
    tok.save_pretrained(tmp_path / "words")
    tower = towers(tmp_path)[kind]
    out = tmp_path / "out"
    data = run(
        "pretrain-projector",
        data=str(rows),
        vision_model=str(tower),
        model=str(tmp_path / "words"),
        max_steps=3,
        eval_items=6,
        max_new_tokens=2,
        output_dir=str(out),
    ).data
    losses = [data["metrics"][f"{when}_validation_loss"]["value"] for when in ("first", "last")]
    assert losses[-1] <= losses[0]
    asked = run("evaluate", data=str(rows), model=str(out / "model"), max_new_tokens=2)
    assert asked.data["metrics"]["model_exact_match"]["n"] == 24


def test_a_language_model_in_4_bits_is_joined_and_written_wide(rows, tmp_path):
    pytest.importorskip("bitsandbytes")
    tok = made_vlms.tokenizer(["</s>"], "</s>")
    LlamaForCausalLM(LlamaConfig(**made_vlms._text(tok))).save_pretrained(tmp_path / "words")
    tok.save_pretrained(tmp_path / "words")
    out = tmp_path / "out"
    run(
        "pretrain-projector",
        data=str(rows),
        vision_model=str(towers(tmp_path)["clip"]),
        model=str(tmp_path / "words"),
        load_in_4bit=True,
        max_steps=2,
        eval_items=4,
        max_new_tokens=2,
        controls=False,
        output_dir=str(out),
    )
    values = json.loads((out / "model" / "config.json").read_text())
    assert (
        "quantization_config" not in values and "quantization_config" not in values["text_config"]
    )
    data = run("evaluate", data=str(rows), model=str(out / "model"), max_new_tokens=2).data
    assert data["metrics"]["model_exact_match"]["n"] == 24


def test_only_the_projector_is_trained(rows, tmp_path):
    tok = made_vlms.tokenizer(["</s>"], "</s>")
    LlamaForCausalLM(LlamaConfig(**made_vlms._text(tok))).save_pretrained(tmp_path / "words")
    tok.save_pretrained(tmp_path / "words")
    values = {
        "data": str(rows),
        "vision_model": str(towers(tmp_path)["siglip"]),
        "model": str(tmp_path / "words"),
        "eval_items": 4,
        "max_new_tokens": 2,
        "controls": False,
    }
    weights = []
    for steps in (1, 3):
        out = tmp_path / str(steps)
        run("pretrain-projector", **values, max_steps=steps, output_dir=str(out))
        from transformers import AutoModelForImageTextToText

        weights.append(AutoModelForImageTextToText.from_pretrained(out / "model").state_dict())
    changed = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert changed and all("multi_modal_projector" in name for name in changed)


def test_what_is_no_tower_is_refused(rows, model, tmp_path):
    with pytest.raises(SettingsError, match="no vision tower is named"):
        run("pretrain-projector", data=str(rows))
    with pytest.raises(DataError, match="is no vision tower that can be joined"):
        run("pretrain-projector", data=str(rows), vision_model=str(model), model=str(model))


def test_out_of_memory_halves_the_batch_and_goes_on(rows, model, tmp_path, monkeypatch):
    from onecard.tasks.vlm import trainer

    step, sizes = trainer.Trainer.step, []

    def short(self, batches):
        if self.config.per_device_train_batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append((batches.size, self.config.gradient_accumulation_steps))
        return step(self, batches)

    monkeypatch.setattr(trainer.Trainer, "step", short)
    data = run(
        "train",
        data=str(rows),
        model=str(model),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        gradient_checkpointing=True,
        max_steps=2,
        eval_items=4,
        max_new_tokens=2,
        controls=False,
        output_dir=str(tmp_path / "out"),
    ).data
    assert set(sizes) == {(2, 2)}
    assert data["files"]
