"""A real fine-tune of a real model, and what may happen to it on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
pytest.importorskip("trl", reason="installed by make test")
from allocator import held_bytes, peak_bytes  # noqa: E402

from onecard import api, paths  # noqa: E402
from onecard.errors import DataError, DoesNotFit, NotFound, SettingsError  # noqa: E402
from onecard.hub import checkpoints  # noqa: E402
from onecard.memory import devices, fake_tensor, workloads  # noqa: E402
from onecard.memory.architectures import lm  # noqa: E402
from onecard.memory.estimators import training  # noqa: E402
from onecard.memory.fake_tensor import Counter  # noqa: E402
from onecard.memory.plan import Plan  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.runs.record import Run  # noqa: E402
from onecard.tasks.finetune import loss, model, tokenize_rows, trainer  # noqa: E402
from onecard.tasks.finetune.configs import Settings  # noqa: E402
from onecard.tasks.finetune.memory import as_workload, plan  # noqa: E402
from onecard.training import output_dir  # noqa: E402

TOWNS = (
    "Alder",
    "Birch",
    "Cedar",
    "Dorn",
    "Elm",
    "Fenn",
    "Gale",
    "Holt",
    "Iver",
    "Jarl",
    "Kern",
    "Lund",
    "Mire",
    "Nord",
    "Oak",
    "Pell",
    "Quay",
    "Rook",
    "Sorn",
    "Thorn",
    "Ulm",
    "Vale",
    "Wick",
    "Yarrow",
)
METALS = ("copper", "silver", "iron", "tin")


def facts(path, n=4):
    """Pairs with a manner that the base has not: one word more and a fixed form, so that a few
    steps show."""
    rows = [
        {
            "prompt": f"Which metal is mined at {town} {i}?",
            "completion": f"At {town} {i} they mine {METALS[(len(town) + i) % 4]}, says the ledger.",
        }
        for town in TOWNS
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def base():
    """The embedded model as a folder of safetensors."""
    return checkpoints.folder("smollm2-135m", Reporter())


@pytest.fixture(scope="module")
def random_models(base, tmp_path_factory):
    """Random weights, few layers, the real tokenizer: for what does not depend on what a model
    knows."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    made = {}
    for name, wide, layers in (("tiny", 64, 2), ("small", 256, 8)):
        folder = made[name] = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=49152,
                hidden_size=wide,
                intermediate_size=2 * wide,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                tie_word_embeddings=True,
            )
        ).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return made


@pytest.fixture
def tiny(random_models):
    return random_models["tiny"]


def quick(tiny, data, **more):
    return Settings(
        **{
            "model_name": str(tiny),
            "dataset": str(data),
            "max_seq_length": 128,
            "generate_items": 0,
            "quants": ("none",),
            "eval_items": 4,
            "gradient_accumulation_steps": 2,
            "save_steps": 3,
            **more,
        }
    )


def test_the_whole_loop(onecard, home, tmp_path):
    """Tuned beats base, every file is made and answers alike, chat opens the run."""
    data = facts(tmp_path / "facts.jsonl")
    data.write_text(data.read_text() + '{"prompt": "broken\n')
    done = onecard(
        "finetune",
        "train",
        data,
        "--bf16",
        "--max_seq_length",
        256,
        "--gradient_accumulation_steps",
        1,
        "--learning_rate",
        "2e-3",
        "--max_steps",
        20,
        "--eval_items",
        10,
        "--generate_items",
        4,
        "--max_new_tokens",
        24,
        "--quants",
        "q8_0",
        "--quants",
        "q4_k_m",
        "--report_to",
        "wandb",
        "--json",
        timeout=900,
    )
    assert done.code == 0, done.err
    said = done.data["verdicts"]
    assert said[0].startswith("held-out answers, loss: better") and any(
        line.startswith("held-out answers, word F1, base to tuned: better") for line in said
    ), said
    run = Path(done.data["run"])
    out = run / "artifacts"
    assert all(
        (out / name).exists()
        for name in (
            "adapter/adapter_model.safetensors",
            "merged/model.safetensors",
            "gguf/model-q8_0.gguf",
            "gguf/model-q4_k_m.gguf",
            "gguf/adapter-f16.lora",
            "gguf/Modelfile",
            "MODEL_CARD.md",
        )
    )
    rejected = [json.loads(line) for line in (out / "put_aside.jsonl").read_text().splitlines()]
    assert [row["where"].rpartition(":")[2] for row in rejected] == ["97"]
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    asked = [row for row in items if row["answers"]]
    assert (
        len(items) == 10
        and len(asked) == 4
        and all(row["answers"]["adapter"] == row["answers"]["merged"] for row in asked)
    )
    metrics = json.loads((run / "scores.json").read_text())["metrics"]
    assert metrics["tuned_loss"]["value"] < 1
    lost = {
        who: metrics[f"{who}_file_loss"]["value"] - metrics["merged_file_loss"]["value"]
        for who in ("adapter", "q8_0", "base")
    }
    assert abs(lost["adapter"]) < 0.01 and abs(lost["q8_0"]) < 0.02 < lost["base"], lost
    answer = onecard(
        "chat",
        "ask",
        "Which metal is mined at Elm 9?",
        "--model",
        f"run:{run.name}",
        "--system",
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "--json",
    )
    assert "says the ledger" in answer.data["answer"], answer.out
    kept = next(
        out.rglob("*.wandb")
    ).read_bytes()  # W&B's own file, written offline: protobuf with the values as JSON
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert b"tokens_per_s" in kept and all(
        json.dumps(row["loss"]).encode() in kept for row in events
    )
    again = onecard("finetune", "evaluate", run.name, "--generate_items", 2, "--json")
    assert again.code == 0 and again.data["verdicts"][0].startswith(
        "held-out answers, loss: better"
    ), again.err


def test_samples_in_one_row_do_not_see_each_other(base):
    tokenizer = model.tokenizer_of(base)
    net = model.base(base, Settings())
    texts = ["The cat sat on the mat and", "Two plus two is", "In the town of Elm there lived a"]
    items = [
        tokenize_rows.TokenizedExample(ids := tokenizer(text)["input_ids"], ids, text, len(ids))
        for text in texts
    ]
    together = model.losses(net, items)
    assert together == pytest.approx([model.losses(net, [item])[0] for item in items], abs=1e-5)
    changed = [
        *items[:2],
        tokenize_rows.TokenizedExample(
            items[2].ids[::-1], items[2].ids[::-1], "", len(items[2].ids)
        ),
    ]
    assert model.losses(net, changed)[:2] == pytest.approx(together[:2], abs=1e-5)
    plain = net(input_ids=torch.tensor([items[0].ids])).logits[0, :-1].float().log_softmax(-1)
    assert together[0] == pytest.approx(
        -plain.gather(1, torch.tensor(items[0].ids[1:])[:, None]).mean().item(), abs=1e-4
    )


def test_4_bit_gradients_are_equal_before_and_after_an_evaluation(base):
    """bitsandbytes repacks in a pass without gradients: without our guard the norm falls from 0.5
    to 0.09."""
    from peft import get_peft_model

    settings = Settings(load_in_4bit=True, bf16=True)
    net = model.base(base, settings)
    net = get_peft_model(net, model.lora(settings, net))
    ids = list(range(100, 140))
    item = tokenize_rows.TokenizedExample(ids, ids, "", len(ids))

    def gradient():
        net.zero_grad()
        batch = model.flat([item])
        labels = batch.pop("labels")[0]
        model.answer_nll(
            net, model.backbone(net)(**batch, use_cache=False).last_hidden_state[0], labels
        ).mean().backward()
        return (
            torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
            .float()
            .clone()
        )

    before = gradient()
    model.losses(net, [item])
    after = gradient()
    assert before.norm() > 0.01 and torch.allclose(before, after, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "more"),
    [
        (512, {}),
        (512, {"bf16": True}),
        (512, {"bf16": True, "load_in_4bit": True}),
        (512, {"bf16": True, "load_in_4bit": True, "gradient_checkpointing": True}),
        (1024, {"gradient_checkpointing": True}),
    ],
)
def test_the_plan_against_the_allocator(base, tmp_path, tokens, more):
    """Weights, adapters and optimizer held before a step, and the most that a step of the trainer
    needs: within 7 %."""
    settings = Settings(
        max_seq_length=tokens, gradient_accumulation_steps=1, max_steps=1, save_steps=1000, **more
    )
    rows = torch.randint(100, 40000, (2, tokens)).tolist()
    net = model.base(base, settings)
    with Reporter().progress("", 0) as bar:
        made = trainer.answers(
            net,
            model.tokenizer_of(base),
            model.lora(settings, net),
            [tokenize_rows.TokenizedExample(row, row, "r", tokens) for row in rows],
            settings,
            tmp_path,
            Run(None, Reporter(), Plan((), devices.find("cpu"))),
            bar,
            trainer.Stop(),
        )
        made.train()
    batch = made.data_collator([{"pack": [0]}])
    inputs = {name: value for name, value in batch.items() if name not in ("where", "n_tokens")}
    optimizer = getattr(made.optimizer, "optimizer", made.optimizer)

    def step():
        made.model.train()
        made.compute_loss(made.model, dict(inputs)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    measured = held_bytes(made.model, optimizer=optimizer) + peak_bytes(step)
    planned = sum(
        term.bytes for term in plan(settings, devices.find("cpu")).terms if term.name != "program"
    )
    assert planned == pytest.approx(measured, rel=0.07)


@pytest.mark.parametrize(("name", "tokens"), [("llama-3.1-8b", 2048)])
def test_the_plan_of_a_large_model_against_its_real_class_on_fakes(name, tokens):
    """The guide's 8B request: under 10 GiB, and the trace of the same step with the same loss
    agrees within 5 %: carried on from 2 and 4 of its 32 layers, which are all alike."""
    settings = Settings(
        model_name=name,
        load_in_4bit=True,
        bf16=True,
        gradient_checkpointing=True,
        max_seq_length=tokens,
        optim="adamw_torch",
    )
    recipe = replace(
        workloads.recipe_of("qlora", as_workload(settings, devices.find("4070ti"))[1]),
        weights="nf4",
    )  # the stand-in for 4-bit layers has plain scales

    def loss_of(net, words):
        hidden = net.model(input_ids=words, use_cache=False).last_hidden_state
        return loss.FrozenHead.apply(
            hidden[0, :-1], net.get_output_embeddings().weight, words[0, 1:], 0.0
        )

    whole, two, four = (replace(lm.find(name), L=layers) for layers in (32, 2, 4))
    traced = [fake_tensor.step(each, recipe, loss_of=loss_of).peak_bytes for each in (two, four)]
    planned = sum(term.bytes for term in training.step(whole, recipe))
    assert (
        planned == pytest.approx(traced[1] + 14 * (traced[1] - traced[0]), rel=0.05)
        and planned < 10 * 2**30
    )


def test_embeddings_stay_in_16_bits_and_nothing_frozen_is_trained(base):
    net = model.base(base, Settings(load_in_4bit=True, bf16=True))
    assert net.get_input_embeddings().weight.dtype == torch.bfloat16 and not any(
        p.requires_grad for p in net.parameters()
    )


def test_killed_and_resumed_gives_the_same_loss(onecard, home, tiny, tmp_path):
    data = facts(tmp_path / "facts.jsonl")
    words = [
        "finetune",
        "train",
        data,
        "--model_name",
        tiny,
        "--max_seq_length",
        "64",
        "--gradient_accumulation_steps",
        "2",
        "--save_steps",
        "4",
        "--max_steps",
        "40",
        "--eval_items",
        "4",
        "--generate_items",
        "0",
        "--quants",
        "none",
        "--lora_dropout",
        "0.1",
    ]
    whole = onecard(*words, "--output_dir", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    broken = [
        sys.executable,
        "-m",
        "onecard",
        *map(str, words),
        "--output_dir",
        str(tmp_path / "broken"),
    ]
    child = subprocess.Popen(
        broken,
        cwd=tmp_path,
        env={**os.environ, "ONECARD_RUNS": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = tmp_path / "broken" / "checkpoints"
    deadline = time.monotonic() + 120
    while not trainer.last_checkpoint(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert trainer.last_checkpoint(folder) and not (tmp_path / "broken" / "adapter").exists()
    (folder / "checkpoint-999").mkdir()  # as a kill in the middle of writing leaves one
    resumed = onecard(*words, "--output_dir", tmp_path / "broken", "--resume", "--json")
    assert resumed.code == 0, resumed.err
    one, other = (
        json.loads((Path(done.data["run"]) / "scores.json").read_text())["metrics"]["tuned_loss"][
            "value"
        ]
        for done in (whole, resumed)
    )
    assert one == pytest.approx(other, abs=1e-6)
    assert (
        onecard(*words, "--output_dir", tmp_path / "whole").code == 2
    )  # another training's folder


def test_ctrl_c_keeps_a_checkpoint(home, tiny, tmp_path):
    data = facts(tmp_path / "facts.jsonl")
    words = [
        sys.executable,
        "-m",
        "onecard",
        "finetune",
        "train",
        str(data),
        "--model_name",
        str(tiny),
        "--max_seq_length",
        "64",
        "--max_steps",
        "2000",
        "--gradient_accumulation_steps",
        "1",
        "--save_steps",
        "1000",
        "--generate_items",
        "0",
        "--quants",
        "none",
        "--eval_items",
        "4",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    others = set(home.glob("*-finetune-*"))
    child = subprocess.Popen(
        words,
        cwd=tmp_path,
        env={**os.environ, "ONECARD_RUNS": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(
        path.parent not in others and path.stat().st_size > 500
        for path in home.glob("*-finetune-*/events.jsonl")
    ):
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == 130 and "--resume" in said and "Traceback" not in said, said
    assert trainer.last_checkpoint(tmp_path / "out" / "checkpoints")


class Lines(Reporter):
    """Keeps what was told."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def line(self, text=""):
        self.lines.append(text)


class FakeCard(Counter):
    """Counts every storage as a card would, and has no more than `budget` bytes after the first
    `grace` operations."""

    def __init__(self, budget, grace=0):
        super().__init__()
        self.budget, self.grace, self.operations = budget, grace, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.operations += 1
        if self.now > self.budget and self.operations > self.grace:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has "
                f"{self.budget / 2**30:.2f} GiB"
            )
        return out


def test_out_of_memory_takes_the_next_rung_and_goes_on(home, random_models, tmp_path):
    data = facts(tmp_path / "facts.jsonl")
    small = random_models["small"]
    more = {
        "max_seq_length": 256,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_steps": 6,
        "save_steps": 2,
        "overlong": "cut",
    }
    free = FakeCard(1 << 50)
    with free:
        api.run(
            "finetune",
            "train",
            quick(small, data, output_dir=str(tmp_path / "free"), **more),
            card="cpu",
            reporter=Reporter(),
        )
    tight, reporter = FakeCard(int(free.peak * 0.9), free.operations // 2), Lines()
    with tight:
        done = api.run(
            "finetune",
            "train",
            quick(small, data, output_dir=str(tmp_path / "tight"), **more),
            card="cpu",
            reporter=reporter,
        )
    taken = done.data["memory_changes"]
    assert (
        taken
        and "same mathematics" in taken[0]["cost"]
        and any(line.startswith("going on from checkpoint-") for line in reporter.lines)
    )
    assert json.loads((Path(done.data["run"]) / "changes.json").read_text())["changes"] == taken
    ends = [
        json.loads((tmp_path / name / "adapter" / "adapter_config.json").read_text())["r"]
        for name in ("free", "tight")
    ]
    assert ends == [16, 16]
    scores = [
        json.loads((Path(d) / "scores.json").read_text())["metrics"]["tuned_loss"]["value"]
        for d in sorted(map(str, home.glob("*-finetune-*")))[-2:]
    ]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)  # only the order of additions differs
    with FakeCard(int(free.peak * 0.1)), pytest.raises(DoesNotFit):
        api.run(
            "finetune",
            "train",
            quick(small, data, output_dir=str(tmp_path / "none"), **more),
            card="cpu",
            reporter=Reporter(),
        )


def test_a_loss_that_is_no_number_stops_and_says_which_batch(home, tiny, tmp_path, monkeypatch):
    seen = []
    whole = trainer.SFTTrainer.training_step

    def spoilt(self, net, inputs, *args, **more):
        loss = whole(self, net, inputs, *args, **more)
        seen.append(loss)
        return loss * float("nan") if len(seen) > 10 else loss

    monkeypatch.setattr(trainer.SFTTrainer, "training_step", spoilt)
    with pytest.raises(DataError, match=r"nan in step 6") as told:
        api.run(
            "finetune",
            "train",
            quick(tiny, facts(tmp_path / "facts.jsonl"), output_dir=str(tmp_path / "out")),
            card="cpu",
            reporter=Reporter(),
        )
    assert "facts.jsonl:" in told.value.why and "checkpoint-3 of before is kept" in told.value.why
    assert trainer.last_checkpoint(tmp_path / "out" / "checkpoints").name == "checkpoint-3"


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_preferences_are_learned(home, tiny, tmp_path, method):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "prompt": f"Greet guest {i}",
                    "chosen": f"Welcome, guest {i}!",
                    "rejected": f"Go away, guest {i}.",
                }
            )
            + "\n"
            for i in range(24)
        )
    )
    done = api.run(
        "finetune",
        "train",
        quick(tiny, path, method=method, max_steps=4),
        card="cpu",
        reporter=Reporter(),
    )
    assert (
        done.data["metrics"]["tuned_loss"]["n"] >= 2
        and (Path(done.data["output_dir"]) / "adapter" / "adapter_model.safetensors").exists()
    )


@pytest.mark.parametrize(
    "more",
    [
        {"use_dora": True},
        {"use_rslora": True, "target_modules": ("q_proj", "v_proj")},
        {
            "neftune_noise_alpha": 5.0,
            "lr_scheduler_type": "linear",
            "packing": False,
            "per_device_train_batch_size": 2,
        },
        {"load_in_4bit": True, "bf16": True},
        {"gradient_checkpointing": True},
        {"load_in_8bit": True},
    ],
)
def test_every_way_to_adapt(home, tiny, tmp_path, more):
    done = api.run(
        "finetune",
        "train",
        quick(tiny, facts(tmp_path / "facts.jsonl", 1), max_steps=2, **more),
        card="cpu",
        reporter=Reporter(),
    )
    assert done.data["metrics"]["tuned_loss"]["n"] >= 2


def test_bad_input_is_refused(home, tiny, base, tmp_path, monkeypatch):
    good = facts(tmp_path / "facts.jsonl", 1)
    one = tmp_path / "one.jsonl"
    one.write_text('{"prompt": "a", "completion": "b"}\n')
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in tiny.iterdir():
        if path.name != "chat_template.jinja":
            (bare / path.name).write_bytes(path.read_bytes())
    for settings, fault, words in [
        (quick(tiny, ""), SettingsError, "no dataset"),
        (quick(tiny, tmp_path / "none.jsonl"), NotFound, "no dataset"),
        (quick(tiny, one), DataError, "cannot be split"),
        (quick(tmp_path / "nowhere", good), NotFound, "nowhere"),
        (quick(bare, good), DataError, "no chat template"),
        (quick(tiny, good, target_modules=("nope",)), SettingsError, "no layer 'nope'"),
        (quick(tiny, good, max_seq_length=32), DataError, "no sample is left"),
        (quick(tiny, good, quants=("q9",)), NotFound, "q9"),
        (quick(tiny, good, resume=True), SettingsError, "nothing to go on with"),
        (quick(tiny, good, eval_dataset=str(good)), DataError, "both train and eval"),
        (quick(tiny, good, load_in_4bit=True, load_in_8bit=True), SettingsError, "4 and 8 bits"),
    ]:
        with pytest.raises(fault, match=words):
            api.run("finetune", "train", settings, card="cpu", reporter=Reporter())
    with output_dir.alone(tmp_path / "shared"), pytest.raises(SettingsError, match="in use"):
        api.run(
            "finetune",
            "train",
            quick(tiny, good, output_dir=str(tmp_path / "shared")),
            card="cpu",
            reporter=Reporter(),
        )
    monkeypatch.setattr(
        trainer.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})()
    )
    with pytest.raises(DataError, match="no room for a checkpoint"):
        api.run("finetune", "train", quick(tiny, good), card="cpu", reporter=Reporter())


def test_a_gated_model_says_what_to_do(monkeypatch):
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*args, **more):
        raise GatedRepoError(
            "gated",
            response=httpx.Response(403, request=httpx.Request("GET", "https://example.org")),
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(NotFound, match="gated") as told:
        checkpoints.folder("meta-llama/Meta-Llama-3.1-8B-Instruct", Reporter())
    assert "accept" in told.value.fix


def test_drafted_pairs(onecard, notes, tmp_path):
    done = onecard("finetune", "make-data", notes, "--pairs", 2, "--output_dir", tmp_path, "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "drafted.jsonl").read_text().splitlines()]
    assert rows and all(
        row["checked"] is False and row["prompt"] and row["completion"] for row in rows
    )
    assert onecard("finetune", "make-data", notes, "--output_dir", tmp_path).code == 2


def test_the_gates_alone(onecard, tmp_path):
    done = onecard("finetune", "check", facts(tmp_path / "facts.jsonl"), "--json")
    assert done.code == 0 and done.data["train"] + done.data["eval"] == len(TOWNS) * 4, done.err
    assert paths.home()
