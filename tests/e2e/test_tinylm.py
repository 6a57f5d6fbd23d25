"""A real tiny language model: trained on this project's own pages, interrupted, killed, resumed
and exported to what others open."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
from allocator import allocated_bytes, peak_bytes  # noqa: E402
from processes import kill_when, wait_until  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from onecard import api  # noqa: E402
from onecard.errors import DataError, SettingsError  # noqa: E402
from onecard.memory import devices  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.tasks.tinylm import corpus, saved_model, sizing, trainer  # noqa: E402
from onecard.tasks.tinylm.configs import TrainConfig  # noqa: E402
from onecard.tasks.tinylm.memory import plan  # noqa: E402
from onecard.tasks.tinylm.model import TinyLM  # noqa: E402
from onecard.training import checkpoints  # noqa: E402

ROOT = Path(__file__).parents[2]
PROMPT = "The plan says"
TINY = (
    "--n_layer",
    2,
    "--n_embd",
    64,
    "--block_size",
    32,
    "--per_device_train_batch_size",
    8,
    "--compile",
    "off",
    "--bf16",
    "off",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """This project's own pages as one text."""
    patterns = ("docs/**/*.md", "*.md", "src/onecard/tasks/*/README.md")
    files = sorted(file for pattern in patterns for file in ROOT.glob(pattern))
    files = [file for file in files if file.name != "reference.md"]  # made from the code
    path = tmp_path_factory.mktemp("text") / "pages.txt"
    path.write_text("\n\n".join(file.read_text() for file in files))
    return path


# One training by the command line: 300 steps


class Trained:
    def __init__(self, data):
        self.data = data
        self.run = Path(data["run"])
        self.artifacts = self.run / "artifacts"

    def events(self, name):
        lines = (self.run / "events.jsonl").read_text().splitlines()
        return [row[name] for row in map(json.loads, lines) if name in row]


@pytest.fixture(scope="module")
def trained(home, pages):
    words = ["--max_steps", "300", "--sample", "The ", "--ema_decay", "0.95", "--profile", "--json"]
    process = subprocess.run(
        [sys.executable, "-m", "onecard", "tinylm", "train", str(pages), *map(str, TINY), *words],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert process.returncode == 0, process.stderr
    return Trained(json.loads(process.stdout))


def test_it_learns(trained, pages):
    loss = trained.data["metrics"]["val_loss"]["value"]
    uniform = math.log(len(set(pages.read_text())))
    assert loss < 2.6 < uniform
    losses = trained.events("loss")
    assert losses[-1] < losses[0] - 1
    assert trained.events("val_loss")


def test_bits_per_char_follow_from_the_loss(trained):
    """One token a character: nats / ln 2."""
    bits = trained.data["metrics"]["bits_per_char"]
    assert bits["low"] < bits["value"] < bits["high"]
    loss = trained.data["metrics"]["val_loss"]["value"]
    assert bits["value"] == pytest.approx(loss / 0.6931, rel=0.02)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("artifacts/model/model.safetensors", ""),
        ("artifacts/model/tokenizer.json", "vocab"),
        ("artifacts/hf/config.json", "Qwen3ForCausalLM"),
        ("artifacts/gguf/tinylm-f16.gguf", "GGUF"),
        ("artifacts/samples.txt", "--- step 300"),
        ("artifacts/profile.txt", "aten::"),
        ("artifacts/trace.json", "traceEvents"),
        ("artifacts/items.jsonl", "block 0"),
        ("report.html", "val_loss"),
    ],
)
def test_it_writes(trained, name, text):
    content = (trained.run / name).read_bytes()
    assert content and text.encode() in content


def test_derived_values_have_reasons(trained):
    assert trained.data["reasons"]["n_head"].startswith("heads of 32")


def test_it_generates_the_same_for_the_same_seed(onecard, trained):
    words = ["tinylm", "generate", trained.run.name, "--prompt", "The model ", "--max_new_tokens"]
    words += [80, "--num_samples", 2, "--json"]
    first, again = onecard(*words), onecard(*words)
    assert first.code == 0, first.err
    one, other = first.data["texts"]
    assert one.startswith("The model ") and len(one) > 60
    assert one != other
    assert again.data == first.data


def test_it_is_evaluated(onecard, trained):
    result = onecard("tinylm", "evaluate", trained.run.name, "--json")
    assert result.code == 0, result.err
    assert result.data["metrics"]["val_loss"]["value"] == pytest.approx(
        trained.data["metrics"]["val_loss"]["value"], abs=1e-3
    )
    assert [row["times"] for row in result.data["extrapolation"]] == [1, 2, 4]
    assert [row["batch"] for row in result.data["pace"]] == [1, 8, 32]
    assert all(row["cached_tokens_per_s"] > 0 for row in result.data["pace"])
    assert result.data["memory"]["planned_bytes"] > 0


def test_transformers_opens_it_with_the_same_logits(trained):
    saved = saved_model.load(str(trained.artifacts / "model"))
    ids = torch.tensor([saved.tokenizer.encode(PROMPT, add_special_tokens=False).ids])
    theirs = AutoModelForCausalLM.from_pretrained(trained.artifacts / "hf")
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, saved.net(ids), atol=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(trained.artifacts / "hf")
    assert tokenizer(PROMPT)["input_ids"] == ids[0].tolist()


TIE_NATS = 0.1
"""Of two tokens this close a file in 16 bits may take the other one: the engine also rounds what it
multiplies, and after 300 steps many tokens are nearly as likely."""


def test_chat_answers_as_our_own_model(onecard, trained):
    """Each of llama.cpp's greedy tokens is our model's likeliest, or tied with it."""
    words = ["--system", "", "--temperature", 0, "--max_tokens", 12, "--json"]
    reply = onecard("chat", "ask", PROMPT, "--model", f"run:{trained.run.name}", *words)
    assert reply.code == 0, reply.err
    saved = saved_model.load(str(trained.artifacts / "model"))
    ids = saved.tokenizer.encode(PROMPT, add_special_tokens=False).ids
    answer = reply.data["answer"]
    with torch.no_grad():
        best = int(saved.net(torch.tensor([ids]))[0, -1].argmax())
    if saved.tokenizer.decode([best]).isspace() and not answer[:1].isspace():
        ids.append(best)  # chat strips the answer
    tokens = saved.tokenizer.encode(answer, add_special_tokens=False).ids
    assert len(tokens) >= 10
    for token in tokens:
        with torch.no_grad():
            scores = saved.net(torch.tensor([ids]))[0, -1].log_softmax(-1)
        assert float(scores.max() - scores[token]) < TIE_NATS, saved.tokenizer.decode([token])
        ids.append(token)


# Kills, interrupts, memory and damaged files


def small(pages, **options):
    values = {
        "dataset": str(pages),
        "n_layer": 2,
        "n_embd": 64,
        "block_size": 32,
        "per_device_train_batch_size": 8,
        "compile": "off",
        "bf16": "off",
        "max_steps": 40,
        "save_steps": 10,
        "eval_steps": 20,
        "logging_steps": 1,
        "sample_tokens": 0,
        "quants": ("none",),
        "dropout": 0.1,
        "n_threads": 1,
    }
    return TrainConfig(**(values | options))


def train(settings):
    return api.run("tinylm", "train", settings)


def as_words(settings):
    words = []
    for name, value in settings.model_dump().items():
        if value not in ("", (), 0, False):
            for item in value if isinstance(value, tuple) else (value,):
                words += [f"--{name}", str(item)]
    return words


def curve(result):
    lines = (Path(result.data["run"]) / "events.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


def test_a_killed_training_resumes_to_the_bit_same_curve(home, pages, tmp_path):
    options = {"ema_decay": 0.9, "max_steps": 60}
    unbroken = train(small(pages, output_dir=str(tmp_path / "unbroken"), **options))
    out = tmp_path / "killed"
    words = as_words(small(pages, output_dir=str(out), **options))
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", "tinylm", "train", *words], stderr=subprocess.DEVNULL
    )
    kill_when(lambda: checkpoints.last(out / "checkpoints"), child)
    last_step = checkpoints.step_of(checkpoints.last(out / "checkpoints"))
    assert last_step < 60, "it was killed on its way"
    resumed = train(small(pages, output_dir=str(out), resume=True, **options))
    first, second = curve(unbroken), curve(resumed)
    assert list(second) == list(range(last_step + 1, 61))
    assert second == {step: first[step] for step in second}
    assert resumed.data["metrics"] == unbroken.data["metrics"]


def test_out_of_memory_takes_smaller_micro_batches_and_learns_the_same(home, pages, monkeypatch):
    unlimited = train(small(pages, dropout=0))
    step, batch_sizes = trainer.Trainer.step, []

    def failing(self):
        batch_sizes.append(self.setup.batch_size)
        if self.setup.batch_size > 4 and self.state.step == 25:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")
        return step(self)

    monkeypatch.setattr(trainer.Trainer, "step", failing)
    limited = train(small(pages, dropout=0))
    assert limited.data["memory_changes"][0]["changes"] == {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }
    assert batch_sizes[-1] == 4
    losses = [result.data["metrics"]["val_loss"]["value"] for result in (unlimited, limited)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_ctrl_c_keeps_a_checkpoint(home, pages, tmp_path):
    out, runs = tmp_path / "out", tmp_path / "runs"
    words = [*map(str, TINY), "--max_steps", "100000", "--output_dir", str(out)]
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", "tinylm", "train", str(pages), *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ONECARD_RUNS": str(runs)},
    )

    def has_stepped():
        return any(path.stat().st_size > 500 for path in runs.glob("*/events.jsonl"))

    wait_until(has_stepped, child)
    child.send_signal(signal.SIGINT)
    output = child.communicate()[1]
    assert child.returncode == 130
    assert "--resume" in output
    assert checkpoints.last(out / "checkpoints")
    with pytest.raises(SettingsError, match="holds another training"):
        train(small(pages, output_dir=str(out)))


def test_a_truncated_checkpoint_is_refused_and_the_one_before_is_taken(home, pages, tmp_path):
    resumed = small(pages, output_dir=str(tmp_path), max_steps=20, resume=True)
    train(resumed.model_copy(update={"resume": False}))
    last = checkpoints.last(tmp_path / "checkpoints")
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    with pytest.raises(DataError, match="not a complete checkpoint"):
        train(resumed)
    last.unlink()
    assert train(resumed).data["steps"] == 20


def test_it_resumes_where_text_and_folder_lie_elsewhere_now(home, pages, tmp_path):
    first, second = tmp_path / "first.txt", tmp_path / "moved" / "second.txt"
    first.write_text(pages.read_text(), encoding="utf-8")
    train(small(first, output_dir=str(tmp_path / "a"), max_steps=20))
    second.parent.mkdir()
    first.rename(second)
    (tmp_path / "a").rename(tmp_path / "b")
    resumed = train(small(second, output_dir=str(tmp_path / "b"), max_steps=30, resume=True))
    assert resumed.data["steps"] == 30


def test_another_text_at_the_same_path_cannot_resume(home, pages, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text(pages.read_text(), encoding="utf-8")
    train(small(book, output_dir=str(tmp_path / "a"), max_steps=20))
    book.write_text(pages.read_text()[:-1], encoding="utf-8")
    with pytest.raises(SettingsError, match="differs"):
        train(small(book, output_dir=str(tmp_path / "a"), max_steps=30, resume=True))


def test_another_model_cannot_resume(home, pages, tmp_path):
    train(small(pages, output_dir=str(tmp_path), max_steps=20))
    with pytest.raises(SettingsError, match="differs"):
        train(small(pages, output_dir=str(tmp_path), n_embd=96, resume=True))


def test_a_damaged_model_is_refused(home, pages, tmp_path):
    train(small(pages, output_dir=str(tmp_path), max_steps=20))
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut short"):
        saved_model.load(str(tmp_path / "model"))


def test_the_tokenizer_of_another_model_is_refused(home, pages, tmp_path):
    train(small(pages, output_dir=str(tmp_path), max_steps=20))
    settings = TrainConfig(dataset=str(pages), tokenizer="bpe", vocab_size=300)
    other = corpus.prepare(settings, Reporter()).tokenizer
    other.save(str(tmp_path / "model" / "tokenizer.json"))
    with pytest.raises(DataError, match="another model's"):
        saved_model.load(str(tmp_path / "model"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoints(home, pages, tmp_path):
    train(small(pages, output_dir=str(tmp_path), max_steps=20))
    last = checkpoints.last(tmp_path / "checkpoints")
    tensors, metadata = checkpoints.load(last), checkpoints.read_metadata(last)
    tensors["net.blocks.0.mlp.up.weight"][3, 5] = float("nan")
    state = json.loads(metadata["state"]) | {"step": 12}
    save_file(tensors, last, metadata=metadata | {"state": json.dumps(state)})
    with pytest.raises(DataError, match="the loss is nan in step 13"):
        train(small(pages, output_dir=str(tmp_path), max_steps=20, resume=True))
    steps = [checkpoints.step_of(path) for path in (tmp_path / "checkpoints").glob("*.safetensors")]
    assert sorted(steps) == [10, 20]


# Ablation and plan


def test_an_ablation_is_at_equal_weights_and_says_what_it_shows(onecard, pages):
    flags = {
        "n_layer": 2,
        "n_embd": 64,
        "block_size": 32,
        "per_device_train_batch_size": 8,
        "max_steps": 80,
        "seeds": 2,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    result = onecard("tinylm", "ablate", pages, *words, "--json", timeout=600)
    assert result.code == 0, result.err
    rows = result.data["rows"]
    assert {(row["position"], row["seed"]) for row in rows} == {
        (code, seed) for code in ("learned", "sinusoidal", "rope", "alibi") for seed in (0, 1)
    }
    counts = [row["n_params"] for row in rows]
    assert max(counts) - min(counts) <= 2 * 3 * 64 / 2 + 1, "within half a column of the MLP"
    assert max(row["losses"]["1x"] for row in rows) < 3.5
    lengths = {row["position"]: list(row["losses"]) for row in rows}
    assert lengths.pop("learned") == ["1x"]
    assert set(map(tuple, lengths.values())) == {("1x", "2x", "4x")}
    alibi = next(row for row in rows if row["position"] == "alibi")
    assert alibi["losses"]["4x"] < alibi["losses"]["1x"] + 0.1, "ALiBi extrapolates"
    assert len(result.data["verdicts"]) == 3
    drawing = Path(result.data["run"]) / "artifacts" / "ablation.svg"
    assert drawing.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("width", "layers", "block", "batch", "vocab"),
    [(128, 4, 256, 16, 66), (256, 6, 128, 16, 66), (192, 6, 256, 16, 4096)],
)
def test_a_step_takes_what_the_plan_says(width, layers, block, batch, vocab, pages):
    settings = TrainConfig(
        dataset=str(pages),
        n_embd=width,
        n_layer=layers,
        block_size=block,
        per_device_train_batch_size=batch,
        tokenizer="char" if vocab == 66 else "bpe",
        vocab_size=4096,
        max_steps=5,
        bf16="off",
        dropout=0,
    )
    text = corpus.prepare(settings.model_copy(update={"tokenizer": "char"}), Reporter())
    setup = sizing.derive(settings, vocab, len(text.train))
    tokens = torch.randint(0, vocab, (batch, block + 1)).flatten().numpy().astype("uint16")
    training = trainer.Trainer(
        TinyLM(setup.model_config),
        replace(text, train=tokens),
        settings,
        setup,
        trainer.RuntimeOptions(steps=5),
    )
    training.step()
    state = training.optimizer.state().values()
    state_bytes = sum(value.numel() * value.element_size() for value in state)
    measured = allocated_bytes(training.net) + state_bytes + peak_bytes(training.step)
    planned = sum(
        term.bytes for term in plan(settings, devices.find("cpu")).terms if term.name != "program"
    )
    assert planned == pytest.approx(measured, rel=0.05), planned / measured
