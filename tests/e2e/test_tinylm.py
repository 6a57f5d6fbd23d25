"""A real tiny language model: trained on this project's own pages, stopped, killed, resumed,
written to files that others open."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
from allocator import held_bytes, peak_bytes  # noqa: E402

from onecard import api  # noqa: E402
from onecard.errors import DataError, SettingsError  # noqa: E402
from onecard.memory import devices  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.tasks.tinylm import corpus, export, model_config, trainer  # noqa: E402
from onecard.tasks.tinylm.configs import Settings  # noqa: E402
from onecard.tasks.tinylm.memory import plan  # noqa: E402
from onecard.tasks.tinylm.model import TinyLM  # noqa: E402

ROOT = Path(__file__).parents[2]
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
    path = tmp_path_factory.mktemp("text") / "pages.txt"
    path.write_text(
        "\n\n".join(
            page.read_text()
            for page in sorted(
                [
                    *ROOT.glob("docs/*.md"),
                    *ROOT.glob("*.md"),
                    *ROOT.glob("src/onecard/kinds/*/README.md"),
                ]
            )
        )
    )
    return path


@pytest.fixture(scope="module")
def trained(home, pages):
    """A run of the command line: 300 steps."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "onecard",
            "tinylm",
            "train",
            str(pages),
            *map(str, TINY),
            "--max_steps",
            "300",
            "--sample",
            "The ",
            "--ema_decay",
            "0.95",
            "--profile",
            "--json",
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_it_learns_and_leaves_everything_behind(trained, pages):
    data, _ = trained
    letters = len(set(pages.read_text()))
    assert (
        data["metrics"]["val_loss"]["value"] < 2.6 < torch.log(torch.tensor(float(letters))).item()
    )
    low, value, high = (data["metrics"]["bits_per_char"][key] for key in ("low", "value", "high"))
    assert low < value < high and value == pytest.approx(
        data["metrics"]["val_loss"]["value"] / 0.6931, rel=0.02
    )
    run = Path(data["run"])
    names = {
        path.relative_to(run / "artifacts").as_posix()
        for path in (run / "artifacts").rglob("*")
        if path.is_file()
    }
    assert {
        "model/model.safetensors",
        "model/tokenizer.json",
        "hf/config.json",
        "gguf/tinylm-f16.gguf",
        "samples.txt",
        "trace.json",
        "profile.txt",
        "items.jsonl",
    } <= names
    assert (
        "aten::" in (run / "artifacts" / "profile.txt").read_text()
        and json.loads((run / "artifacts" / "trace.json").read_text())["traceEvents"]
    )
    assert (
        data["reasons"]["n_head"].startswith("heads of 32")
        and "--- step 300" in (run / "artifacts" / "samples.txt").read_text()
    )
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in events if "loss" in row]
    assert losses[-1] < losses[0] - 1 and any("val_loss" in row for row in events)
    assert "val_loss" in (run / "report.html").read_text()


def test_it_writes_and_is_measured(onecard, trained):
    run = Path(trained[0]["run"]).name
    made = onecard(
        "tinylm",
        "generate",
        run,
        "--prompt",
        "The model ",
        "--max_new_tokens",
        80,
        "--num_samples",
        2,
        "--json",
    )
    assert (
        made.code == 0
        and all(text.startswith("The model ") and len(text) > 60 for text in made.data["texts"])
        and made.data["texts"][0] != made.data["texts"][1]
    )
    again = onecard(
        "tinylm",
        "generate",
        run,
        "--prompt",
        "The model ",
        "--max_new_tokens",
        80,
        "--num_samples",
        2,
        "--json",
    )
    assert again.data == made.data, "the same seed writes the same"
    told = onecard("tinylm", "evaluate", run, "--json")
    assert told.code == 0, told.err
    assert told.data["metrics"]["val_loss"]["value"] == pytest.approx(
        trained[0]["metrics"]["val_loss"]["value"], abs=1e-3
    )
    assert [row["times"] for row in told.data["extrapolation"]] == [1, 2, 4] and all(
        row["cached_tokens_per_s"] > 0 for row in told.data["pace"]
    )
    assert told.data["memory"]["planned_bytes"] > 0


def test_chat_and_transformers_open_the_run(onecard, trained):
    """llama.cpp's greedy words are those of our own model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = Path(trained[0]["run"])
    net, tokenizer, _, _ = export.opened(str(run / "artifacts" / "model"))
    prompt = "The plan says"
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])
    mine = ids
    with torch.no_grad():
        for _ in range(12):
            mine = torch.cat([mine, net(mine)[:, -1:].argmax(-1)], 1)
        theirs = AutoModelForCausalLM.from_pretrained(run / "artifacts" / "hf")
        assert torch.allclose(theirs(ids).logits, net(ids), atol=1e-3)
    assert (
        AutoTokenizer.from_pretrained(run / "artifacts" / "hf")(prompt)["input_ids"]
        == ids[0].tolist()
    )
    expected = tokenizer.decode(mine[0, ids.shape[1] :].tolist())
    said = onecard(
        "chat",
        "ask",
        prompt,
        "--model",
        f"run:{run.name}",
        "--system",
        "",
        "--temperature",
        0,
        "--max_tokens",
        12,
        "--json",
    )
    assert said.code == 0, said.err
    assert said.data["answer"].strip() == expected.strip()


def small(pages, **more):
    return Settings(
        **{
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
            "threads": 1,
            **more,
        }
    )


def curve(run):
    rows = [json.loads(line) for line in (Path(run) / "events.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_a_killed_training_goes_on_to_the_bit_same_curve(home, pages, tmp_path):
    whole = api.run(
        "tinylm",
        "train",
        small(pages, output_dir=str(tmp_path / "whole"), ema_decay=0.9, max_steps=60),
    )
    out = tmp_path / "killed"
    words = [
        word
        for key, value in small(pages, output_dir=str(out), ema_decay=0.9, max_steps=60)
        .model_dump()
        .items()
        if value not in ("", (), 0, False)
        for word in (
            [f"--{key}", str(value)]
            if not isinstance(value, tuple)
            else [w for v in value for w in (f"--{key}", str(v))]
        )
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", "tinylm", "train", *words],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while (
        not list(out.glob("checkpoints/step-*0.safetensors"))
        and time.monotonic() < deadline
        and child.poll() is None
    ):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    steps = [int(path.stem[5:]) for path in out.glob("checkpoints/step-*.safetensors")]
    assert steps and max(steps) < 60, "it was killed on its way"
    resumed = api.run(
        "tinylm",
        "train",
        small(pages, output_dir=str(out), ema_decay=0.9, max_steps=60, resume=True),
    )
    first, second = curve(whole.data["run"]), curve(resumed.data["run"])
    assert min(second) == max(steps) + 1 and all(second[step] == first[step] for step in second)
    assert resumed.data["metrics"] == whole.data["metrics"]


def test_out_of_memory_takes_smaller_micro_batches_and_learns_the_same(home, pages, monkeypatch):
    whole = api.run("tinylm", "train", small(pages, dropout=0))
    step, seen = trainer.Trainer.step, []

    def failing(self):
        seen.append(self.made.batch)
        if self.made.batch > 4 and self.state.step == 25:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")
        return step(self)

    monkeypatch.setattr(trainer.Trainer, "step", failing)
    done = api.run("tinylm", "train", small(pages, dropout=0))
    assert (
        done.data["memory_changes"][0]["changes"]
        == {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        and seen[-1] == 4
    )
    assert done.data["metrics"]["val_loss"]["value"] == pytest.approx(
        whole.data["metrics"]["val_loss"]["value"], abs=2e-3
    )


def test_ctrl_c_keeps_a_checkpoint(home, pages, tmp_path):
    out = tmp_path / "out"
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "onecard",
            "tinylm",
            "train",
            str(pages),
            *map(str, TINY),
            "--max_steps",
            "100000",
            "--output_dir",
            str(out),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120

    def steps():
        mark = out / "training.json"
        events = (
            Path(os.environ["ONECARD_RUNS"]) / json.loads(mark.read_text())["run"] / "events.jsonl"
            if mark.exists()
            else mark
        )
        return events.exists() and events.stat().st_size > 500

    while not steps() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) == 130 and "--resume" in child.stderr.read()
    assert trainer.last_checkpoint(out / "checkpoints")
    with pytest.raises(SettingsError, match="holds another training"):
        api.run("tinylm", "train", small(pages, output_dir=str(out)))


def test_bad_checkpoints_and_folders_are_told(home, pages, tmp_path):
    out = tmp_path / "out"
    api.run("tinylm", "train", small(pages, output_dir=str(out), max_steps=20))
    last = trainer.last_checkpoint(out / "checkpoints")
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no whole checkpoint"):
        api.run("tinylm", "train", small(pages, output_dir=str(out), max_steps=20, resume=True))
    last.unlink()
    assert (
        api.run(
            "tinylm", "train", small(pages, output_dir=str(out), max_steps=20, resume=True)
        ).data["steps"]
        == 20
    )
    with pytest.raises(SettingsError, match="differs"):
        api.run("tinylm", "train", small(pages, output_dir=str(out), n_embd=96, resume=True))
    weights = out / "model" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-100])
    with pytest.raises(DataError, match="cut short"):
        export.opened(str(out / "model"))
    weights.write_bytes(kept)
    other = corpus.prepare(
        Settings(dataset=str(pages), tokenizer="bpe", vocab_size=300), Reporter()
    ).tokenizer
    other.save(str(out / "model" / "tokenizer.json"))
    with pytest.raises(DataError, match="another model's"):
        export.opened(str(out / "model"))


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint_before(home, pages, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    out = tmp_path / "out"
    api.run("tinylm", "train", small(pages, output_dir=str(out), max_steps=20))
    last = trainer.last_checkpoint(out / "checkpoints")
    with safe_open(last, "pt") as file:
        held, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    held["net.blocks.0.mlp.up.weight"][3, 5] = float("nan")
    save_file(
        held,
        last,
        metadata={**about, "state": json.dumps({**json.loads(about["state"]), "step": 12})},
    )
    with pytest.raises(DataError, match="the loss is nan in step 13"):
        api.run("tinylm", "train", small(pages, output_dir=str(out), max_steps=20, resume=True))
    assert sorted(path.stem for path in (out / "checkpoints").glob("*.safetensors")) == [
        "step-0000010",
        "step-0000020",
    ]


def test_an_ablation_is_at_equal_weights_and_says_what_it_shows(onecard, pages):
    done = onecard(
        "tinylm",
        "ablate",
        pages,
        "--n_layer",
        2,
        "--n_embd",
        64,
        "--block_size",
        32,
        "--per_device_train_batch_size",
        8,
        "--max_steps",
        80,
        "--seeds",
        2,
        "--json",
        timeout=600,
    )
    assert done.code == 0, done.err
    rows = done.data["rows"]
    assert {(row["position"], row["seed"]) for row in rows} == {
        (code, seed) for code in ("learned", "sinusoidal", "rope", "alibi") for seed in (0, 1)
    }
    counts = [row["n_params"] for row in rows]
    assert max(counts) - min(counts) <= 2 * 3 * 64 / 2 + 1, "within half a column of the MLP"
    assert all(row["losses"]["1x"] < 3.5 for row in rows) and all(
        ("4x" in row["losses"]) == (row["position"] != "learned") for row in rows
    )
    alibi = next(row for row in rows if row["position"] == "alibi")
    assert alibi["losses"]["4x"] < alibi["losses"]["1x"] + 0.1, (
        "ALiBi reads beyond its training length"
    )
    assert len(done.data["verdicts"]) == 3 and (
        Path(done.data["run"]) / "artifacts" / "ablation.svg"
    ).read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("width", "layers", "block", "batch", "vocab"),
    [(128, 4, 256, 16, 66), (256, 6, 128, 16, 66), (192, 6, 256, 16, 4096)],
)
def test_a_step_takes_what_the_plan_says(width, layers, block, batch, vocab, pages):
    settings = Settings(
        dataset=str(pages),
        n_embd=width,
        n_layer=layers,
        block_size=block,
        per_device_train_batch_size=batch,
        tokenizer="char" if vocab == 66 else "bpe",
        vocab_size=vocab if vocab > 256 else 4096,
        max_steps=5,
        bf16="off",
        dropout=0,
    )
    found = corpus.prepare(settings.model_copy(update={"tokenizer": "char"}), Reporter())
    made = model_config.of(settings, vocab, len(found.train))
    rows = torch.randint(0, vocab, (batch, block + 1))
    found = type(found)(
        found.tokenizer, rows.flatten().numpy().astype("uint16"), found.val, found.facts
    )
    t = trainer.Trainer(TinyLM(made.shape), found, settings, made, trainer.Choice(steps=5))
    t.step()
    states = sum(value.numel() * value.element_size() for value in t.optimizer.state().values())
    measured = held_bytes(t.net) + states + peak_bytes(t.step)
    planned = sum(
        term.bytes for term in plan(settings, devices.find("cpu")).terms if term.name != "program"
    )
    assert planned == pytest.approx(measured, rel=0.05), (planned / measured, planned, measured)
