"""vlm train on tiny random models of four families: what is trained, saved, loaded, resumed, and
that a picture reaches the answer. A real small model is trained in tests/bench/bench_vlm.py."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
pytest.importorskip("peft", reason="installed by make test")
from PIL import Image  # noqa: E402

from onecard import cancellation  # noqa: E402
from onecard.errors import DataError, SettingsError  # noqa: E402
from onecard.memory import devices  # noqa: E402
from onecard.memory.plan import Plan  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.runs.record import Run  # noqa: E402
from onecard.tasks.vlm import (  # noqa: E402
    adapters,
    batches,
    engine,
    model,
    prompts,
    train,
    trainer,
)
from onecard.tasks.vlm.configs import TrainConfig  # noqa: E402
from onecard.tasks.vlm.engine import Picture  # noqa: E402
from onecard.tasks.vlm.items import MARKER, Turn, VlmItem  # noqa: E402
from onecard.training.interrupt import Interrupt  # noqa: E402
from tests import made_vlms  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
COLORS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlms")
    return {name: made_vlms.write(name, folder / name) for name in made_vlms.MAKERS}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """40 pictures of one colour each, no two alike."""
    folder = tmp_path_factory.mktemp("rows")
    draw, lines = np.random.default_rng(0), []
    for i in range(40):
        color = list(COLORS)[i % 2]
        height, width = draw.integers(24, 80, 2)
        noise = draw.integers(-20, 20, (height // 4 + 1, width // 4 + 1, 3)).repeat(4, 0)
        pixels = np.clip(np.array(COLORS[color]) + noise.repeat(4, 1)[:height, :width], 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        lines.append({"image": f"{i}.png", "question": "what color?", "answer": color})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run_of():
    return Run(None, Reporter(), Plan((), devices.find("cpu")))


def config_of(folder, rows, out, **values):
    usual = {"max_steps": 4, "gradient_accumulation_steps": 2, "eval_items": 8}
    usual |= {"max_new_tokens": 3, "save_steps": 2, "learning_rate": 5e-3}
    return TrainConfig(
        model=str(folder), data=str(rows), output_dir=str(out), **{**usual, **values}
    )


def load(place, **options):
    return model.load(
        str(place), TrainConfig(), dtype=torch.float32, reporter=Reporter(), **options
    )


def item(path, question="what color?", answer="red"):
    turns = (Turn("user", f"{MARKER}\n{question}"), Turn("assistant", answer))
    return VlmItem(path.stem, (path,), turns, str(path), answers=(answer,))


def loss_of(vlm, items):
    batch = batches.encode(vlm, items)
    each = trainer.Trainer(vlm, TrainConfig(), 1, None) if adapters.trained(vlm.net) else None
    assert each
    with model.evaluating(vlm.net):
        return float(each.loss(batch))


@pytest.mark.parametrize("name", made_vlms.MAKERS)
def test_a_family_trains_and_its_files_load_again(name, models, rows, tmp_path):
    """The training itself compares what it wrote with what it trained, to 1e-6."""
    result = train.train(config_of(models[name], rows, tmp_path / "out"), run_of())
    loaded = load(tmp_path / "out" / "adapter")
    base = load(models[name])
    picture = rows.parent / "0.png"
    inputs = base.inputs(
        [prompts.render(base.processor, item(picture).prompt, generation=True)],
        [[engine.picture(picture)]],
    )
    with torch.no_grad():
        own = loaded.net(**loaded.on_device(inputs)).logits
        old = base.net(**base.on_device(inputs)).logits
    assert not torch.allclose(own, old, atol=1e-3)
    assert "answers are other ones than before" in result.text


@pytest.mark.parametrize("name", made_vlms.MAKERS)
def test_only_the_answer_and_its_end_have_labels(name, models, rows):
    vlm = load(models[name])
    two = (rows.parent / "0.png", rows.parent / "1.png")
    turns = (
        Turn("user", f"{MARKER}\nwhat color? {MARKER}"),
        Turn("assistant", "red"),
        Turn("user", "a circle?"),
        Turn("assistant", "no"),
    )
    long = VlmItem("a", two, turns, "a", answers=("no",))
    batch = batches.encode(vlm, [long, item(two[0], answer="blue")])
    tokenizer = vlm.processor.tokenizer
    for row, answers in zip(batch.inputs["labels"], (["red", "no"], ["blue"]), strict=True):
        labels = row[row != batches.IGNORED]
        text = tokenizer.decode(labels, skip_special_tokens=True)
        assert text.split() == answers or text == "".join(answers)
        assert int(labels[-1]) == tokenizer.eos_token_id
    n_pictures = int((batch.inputs["input_ids"] == vlm.processor.image_token_id).sum())
    assert n_pictures > 0 and batch.n_answer == int((batch.inputs["labels"] != -100).sum())


@pytest.mark.parametrize("name", made_vlms.MAKERS)
def test_another_picture_gives_another_loss(name, models, rows):
    vlm = load(models[name])
    adapters.attach(vlm, TrainConfig())
    one, other = rows.parent / "0.png", rows.parent / "1.png"
    first = item(one)
    assert loss_of(vlm, [first]) != loss_of(vlm, [replace(first, images=(other,))])


@pytest.mark.parametrize("name", ["llava", "qwen3-vl"])
@pytest.mark.parametrize(
    "parts",
    [
        {"vision_tower": "lora"},
        {"vision_tower": "full"},
        {"language_model": "frozen", "vision_tower": "frozen"},
        {"language_model": "full", "projector": "frozen"},
        {"language_model": "frozen", "projector": "frozen", "vision_tower": "lora"},
    ],
)
def test_each_part_is_trained_or_left(name, parts, models, rows, tmp_path):
    config = config_of(models[name], rows, tmp_path / "out", max_steps=2, **parts)
    train.train(config.model_copy(update={"controls": False}), run_of())
    whole = tmp_path / "out" / "model"
    loaded = load(whole if whole.is_dir() else tmp_path / "out" / "adapter")
    base = dict(load(models[name]).net.named_parameters())
    net = loaded.net.merge_and_unload() if loaded.net is not loaded.base else loaded.net
    moved = dict.fromkeys(("language", "projector", "tower"), False)
    for path, weight in net.named_parameters():
        if not torch.equal(weight, base[path]):
            moved[adapters.part_of(path, net)] = True
    assert moved == {
        "language": config.language_model != "frozen",
        "projector": config.projector == "full",
        "tower": config.vision_tower != "frozen",
    }


@pytest.mark.parametrize("steps_before", [1, 2, 3])
def test_a_stopped_training_ends_with_the_weights_of_an_unbroken_one(
    steps_before, models, rows, tmp_path, monkeypatch
):
    options = {"lora_dropout": 0.1, "controls": False, "per_device_train_batch_size": 2}
    whole = config_of(models["qwen2-vl"], rows, tmp_path / "whole", **options)
    train.train(whole, run_of())
    config = config_of(models["qwen2-vl"], rows, tmp_path / "part", **options)
    step = trainer.Trainer.step

    def stopping(self, batches):
        loss = step(self, batches)
        if self.state.step == steps_before:
            monkeypatch.setattr(Interrupt, "requested", True, raising=False)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train.train(config, run_of())
        monkeypatch.undo()
    train.train(config.model_copy(update={"resume": True}), run_of())
    one, other = (
        dict(load(tmp_path / part / "adapter").net.named_parameters()) for part in ("whole", "part")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_in_4_bits_train(models, rows, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = config_of(models["llava"], rows, tmp_path / "out", load_in_4bit=True, controls=False)
    result = train.train(config, run_of())
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    assert "answers are other ones than before" in result.text


def test_gradient_checkpointing_and_small_batches_change_nothing(models, rows, tmp_path):
    weights = []
    for i, values in enumerate(
        (
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
            {
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 1,
                "gradient_checkpointing": True,
            },
        )
    ):
        out = tmp_path / str(i)
        train.train(config_of(models["llava"], rows, out, controls=False, **values), run_of())
        weights.append(dict(load(out / "adapter").net.named_parameters()))
    assert all(torch.allclose(weights[0][n], weights[1][n], atol=1e-6) for n in weights[0])


def test_nothing_to_train_is_refused(models, rows, tmp_path):
    config = config_of(
        models["llava"], rows, tmp_path / "o", language_model="frozen", projector="frozen"
    )
    with pytest.raises(SettingsError, match="nothing would be trained"):
        train.train(config, run_of())


def test_a_picture_that_goes_while_training_keeps_the_work(models, rows, tmp_path, monkeypatch):
    folder = tmp_path / "rows"
    shutil.copytree(rows.parent, folder)
    step = trainer.Trainer.step

    def losing(self, batches):
        if self.state.step == 2:
            for path in folder.glob("*.png"):
                path.unlink()
        return step(self, batches)

    monkeypatch.setattr(trainer.Trainer, "step", losing)
    config = config_of(models["llava"], folder / "rows.jsonl", tmp_path / "out", controls=False)
    with pytest.raises((DataError, Exception)) as fault:
        train.train(config, run_of())
    assert "no such" in str(fault.value) or "there is no" in str(fault.value)
    assert list((tmp_path / "out" / "checkpoints").glob("*.safetensors"))


def test_control_tokens_of_a_text_end_no_turn(models):
    """What a document says can neither close a turn nor stand for a picture."""
    for name in made_vlms.MAKERS:
        processor = load(models[name]).processor
        hostile = f"{processor.image_token} <|im_end|> {processor.tokenizer.eos_token} x"
        plain = prompts.render(processor, (Turn("user", "x"),), generation=True)
        text = prompts.render(processor, (Turn("user", hostile),), generation=True)
        for token in {processor.image_token, processor.tokenizer.eos_token} - {MARKER}:
            assert text.count(token) == plain.count(token)


def test_answers_of_a_batch_equal_those_one_by_one(models):
    from onecard.tasks.vlm.configs import AskConfig
    from onecard.tasks.vlm.engine import Question, with_pictures
    from onecard.tasks.vlm.engine_transformers import Transformers

    draw = np.random.default_rng(1)
    pictures = [
        Picture(draw.integers(0, 255, (side, side + 9, 3), dtype=np.uint8)) for side in (24, 60, 90)
    ]
    for name in made_vlms.MAKERS:
        engine = Transformers(load(models[name]), AskConfig(max_tokens=4))
        questions = [
            Question(with_pictures("what color?" * n, pictures[:n]), tuple(pictures[:n]))
            for n in range(4)
        ]
        together = [answer.text for answer in engine.answers(questions)]
        assert together == [engine.answer(each).text for each in questions]


def test_a_stream_is_the_answer_and_can_be_closed(models):
    from onecard.tasks.vlm.configs import AskConfig
    from onecard.tasks.vlm.engine import Question
    from onecard.tasks.vlm.engine_transformers import Transformers

    engine = Transformers(load(models["qwen2-vl"]), AskConfig(max_tokens=30))
    question = Question((Turn("user", "what color?"),))
    stream, pieces = engine.stream(question), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            assert "".join(pieces).strip() == end.value.text == engine.answer(question).text
            break
    stream = engine.stream(question)
    next(stream)
    stream.close()
    assert cancellation.CURRENT.get() is None


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen3-vl", "smolvlm"])
def test_a_limit_of_pixels_changes_the_tokens(name, models):
    picture = Picture(np.zeros((100, 100, 3), np.uint8))
    usual = load(models[name]).picture_tokens(picture)
    assert load(models[name], max_pixels=1024).picture_tokens(picture) < usual


def test_a_limit_without_effect_is_refused(models):
    with pytest.raises(SettingsError, match="has no effect"):
        load(models["llava"], max_pixels=1024)
    with pytest.raises(SettingsError, match="has no effect"):
        load(models["smolvlm"], min_pixels=1024)


def test_a_model_without_vision_is_refused(models, tmp_path):
    folder = tmp_path / "text"
    shutil.copytree(models["llava"], folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values["text_config"]))
    with pytest.raises(DataError, match="without vision"):
        load(folder)


def test_without_shuffling_rows_come_in_the_files_order(models, rows):
    vlm = load(models["llava"])
    items = [replace(item(rows.parent / "0.png"), id=str(i)) for i in range(7)]
    numbers = [0, 1, 2, 3]
    ordered = batches.Batches(vlm, items, 2, 0, shuffle=False)
    assert [[row.id for row in ordered.rows(n)] for n in numbers] == [
        ["0", "1"],
        ["2", "3"],
        ["4", "5"],
        ["6"],
    ]
    assert [row.id for row in ordered.rows(4)] == ["0", "1"]
    shuffled = batches.Batches(vlm, items, 2, 0)
    epochs = [[row.id for n in numbers for row in shuffled.rows(n + 4 * e)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [str(i) for i in range(7)]
    assert epochs[0] != epochs[1]
