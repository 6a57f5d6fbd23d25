"""A real fine-tune of a real model, and what may happen to it on the way."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError

torch = pytest.importorskip("torch", reason="installed by make test")
pytest.importorskip("trl", reason="installed by make test")
from peft import get_peft_model  # noqa: E402
from processes import kill_when, wait_until  # noqa: E402
from sft_models import TOWNS, quick, random_model, town_pairs  # noqa: E402

from onecard import api  # noqa: E402
from onecard.errors import DataError, NotFound, SettingsError  # noqa: E402
from onecard.hub import checkpoints  # noqa: E402
from onecard.memory import number_types  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.tasks.finetune import model, trainer, training_data  # noqa: E402
from onecard.tasks.finetune.configs import TrainConfig  # noqa: E402
from onecard.tasks.finetune.sample import Sample  # noqa: E402
from onecard.tasks.finetune.tokenization import (  # noqa: E402
    IGNORED,
    TokenizedExample,
    encode_turns,
    end_mark,
)
from onecard.tasks.finetune.training_data import ModelLimits  # noqa: E402
from onecard.training import output_dir, trainer_checkpoints  # noqa: E402


@pytest.fixture(scope="module")
def base():
    """The embedded model as a folder of safetensors."""
    return checkpoints.folder("smollm2-135m", Reporter())


@pytest.fixture(scope="module")
def tiny(base, tmp_path_factory):
    return random_model(base, tmp_path_factory.mktemp("tiny"), width=64, layers=2)


def train(settings, reporter=None):
    return api.run("finetune", "train", settings, card="cpu", reporter=reporter or Reporter())


# Chat templates


def turns(*texts, system=""):
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return tuple([{"role": "system", "content": system}] * bool(system) + messages)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HISTORY_REWRITTEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen3 does: an empty thought before the last answer only."""
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + CHATML
)
NO_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def tokenizer(base):
    return model.load_tokenizer(base)


def learned(tokenizer, examples):
    """The texts that carry labels."""
    return [tokenizer.decode([t for t in e.labels if t != IGNORED]) for e in examples]


def test_every_answer_is_trained_where_the_template_rewrites_earlier_ones(tokenizer):
    sample = Sample(turns("one", "first", "two", "second", "three", "third"), "f:1")
    tokenizer.chat_template = CHATML
    assert learned(tokenizer, encode_turns(tokenizer, sample)) == [
        "first<|im_end|>second<|im_end|>third<|im_end|>"
    ]
    tokenizer.chat_template = HISTORY_REWRITTEN
    examples = encode_turns(tokenizer, sample)
    assert [text.split()[-1] for text in learned(tokenizer, examples)] == [
        "third<|im_end|>",
        "second<|im_end|>",
        "first<|im_end|>",
    ]
    assert sum(e.n_answers for e in examples) == 3
    context_only = replace(sample, untrained=(1,))
    assert sum(e.n_answers for e in encode_turns(tokenizer, context_only)) == 2


def test_a_template_without_a_system_turn_gets_its_text_before_the_question(tokenizer):
    tokenizer.chat_template = NO_SYSTEM
    sample = Sample(turns("q", "a", system="Be brief."), "f:1")
    (fitted,), (example,), rejected = training_data.tokenize([sample], tokenizer, ModelLimits())
    assert fitted.messages == turns("Be brief.\n\nq", "a")
    assert (rejected, learned(tokenizer, [example])) == ([], ["a<|im_end|>"])


def test_a_template_without_an_end_mark_gets_one(tokenizer):
    tokenizer.chat_template = NO_END
    assert end_mark(tokenizer) == ""
    example = encode_turns(tokenizer, Sample(turns("q", "a"), "f:1"))
    assert learned(tokenizer, example) == [f" a{tokenizer.eos_token}"]


def test_a_row_that_the_template_or_the_model_cannot_take_costs_itself(tokenizer):
    tokenizer.chat_template = NO_SYSTEM.replace("System role", "Nothing but system turns")
    tokenizer.add_tokens("<|order|>")
    rows = [
        Sample(({"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}), "f:1"),
        Sample(turns("q", "<|order|> a"), "f:2"),
        Sample(turns("q", "a"), "f:3"),
    ]
    limits = ModelLimits(n_embeddings=len(tokenizer) - 1)
    valid, _, rejected = training_data.tokenize(rows, tokenizer, limits)
    assert [s.source for s in valid] == ["f:3"]
    assert "refuses it: Nothing but" in rejected[0].reason
    assert "'<|order|>' has the number" in rejected[1].reason


# The whole loop: one training, several questions about it


class Trained:
    """A finished training of the embedded model by the command line."""

    def __init__(self, data):
        self.data = data
        self.run = Path(data["run"])
        self.artifacts = self.run / "artifacts"

    def rows(self, name):
        return [json.loads(line) for line in (self.artifacts / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    pairs = town_pairs(folder / "pairs.jsonl")
    pairs.write_text(pairs.read_text() + '{"prompt": "broken\n')
    flags = {
        "max_seq_length": 256,
        "gradient_accumulation_steps": 1,
        "learning_rate": 2e-3,
        "max_steps": 14,
        "eval_items": 6,
        "generate_items": 4,
        "max_new_tokens": 24,
        "report_to": "wandb",
    }
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    words += ["--quants", "q8_0", "--quants", "q4_k_m", "--json"]
    process = subprocess.run(
        [sys.executable, "-m", "onecard", "finetune", "train", str(pairs), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "ONECARD_RUNS": str(home)},
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
    return Trained(json.loads(process.stdout))


def test_tuned_beats_base(trained):
    verdicts = trained.data["verdicts"]
    assert verdicts[0].startswith("held-out answers, loss: better")
    answers = next(v for v in verdicts if v.startswith("held-out answers, word F1, base to tuned"))
    assert "4 items cannot show a difference" in answers
    f1 = {name: trained.data["metrics"][f"{name}_f1"]["value"] for name in ("base", "merged")}
    assert f1["merged"] > f1["base"] + 0.3
    assert trained.data["metrics"]["tuned_loss"]["value"] < 1


@pytest.mark.parametrize(
    "name",
    [
        "adapter/adapter_model.safetensors",
        "merged/model.safetensors",
        "gguf/model-q8_0.gguf",
        "gguf/model-q4_k_m.gguf",
        "gguf/adapter-f16.lora",
        "gguf/Modelfile",
        "MODEL_CARD.md",
    ],
)
def test_a_training_writes(trained, name):
    assert (trained.artifacts / name).stat().st_size > 0


def test_a_broken_row_is_kept_with_its_place(trained):
    rejected = trained.rows("put_aside.jsonl")
    assert [row["where"].rpartition(":")[2] for row in rejected] == ["97"]


def test_the_adapters_file_answers_as_the_merged_model(trained):
    items = trained.rows("items.jsonl")
    answered = [row["answers"] for row in items if row["answers"]]
    assert (len(items), len(answered)) == (6, 4)
    assert [row["adapter"] for row in answered] == [row["merged"] for row in answered]


def test_exports_lose_no_more_than_rounding(trained):
    metrics = trained.data["metrics"]
    lost = {
        name: metrics[f"{name}_file_loss"]["value"] - metrics["merged_file_loss"]["value"]
        for name in ("adapter", "q8_0", "base")
    }
    assert abs(lost["adapter"]) < 0.01, lost
    assert abs(lost["q8_0"]) < 0.02 < lost["base"], lost


def test_chat_opens_the_run(trained, onecard):
    reply = onecard(
        "chat",
        "ask",
        "Which metal is mined at Elm 9?",
        "--model",
        f"run:{trained.run.name}",
        "--system",
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "--json",
    )
    assert "says the ledger" in reply.data["answer"], reply.out


def test_the_tracker_has_every_loss(trained):
    """W&B's own file, written offline: protobuf with the values as JSON."""
    record = next(trained.artifacts.rglob("*.wandb")).read_bytes()
    events = [json.loads(line) for line in (trained.run / "events.jsonl").read_text().splitlines()]
    assert len(events) == 14
    missing = [row for row in events if json.dumps(row["loss"]).encode() not in record]
    assert not missing
    assert b"tokens_per_s" in record


def test_a_run_is_evaluated_again(trained):
    values = {"run_id": trained.run.name, "generate_items": 2}
    settings = api.configure("finetune", "evaluate", values=values)
    again = api.run("finetune", "evaluate", settings, card="cpu", reporter=Reporter())
    assert again.data["verdicts"][0].startswith("held-out answers, loss: better")
    assert again.data["metrics"]["tuned_loss"]["value"] == pytest.approx(
        trained.data["metrics"]["tuned_loss"]["value"], abs=1e-3
    )


# The model


def example_of(ids):
    return TokenizedExample(ids, ids, "", len(ids))


def test_samples_in_one_row_do_not_see_each_other(base):
    tokenizer = model.load_tokenizer(base)
    net = model.load_base(base, TrainConfig())
    texts = ["The cat sat on the mat and", "Two plus two is", "In the town of Elm there lived a"]
    examples = [example_of(tokenizer(text)["input_ids"]) for text in texts]
    together = model.losses(net, examples)
    alone = [model.losses(net, [example])[0] for example in examples]
    assert together == pytest.approx(alone, abs=1e-5)
    other_neighbour = [*examples[:2], example_of(examples[2].ids[::-1])]
    assert model.losses(net, other_neighbour)[:2] == pytest.approx(together[:2], abs=1e-5)
    ids = torch.tensor([examples[0].ids])
    plain = net(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    expected = -plain.gather(1, ids[0, 1:, None]).mean().item()
    assert together[0] == pytest.approx(expected, abs=1e-4)


def test_4_bit_gradients_are_equal_before_and_after_an_evaluation(tiny):
    """On a CPU with AVX512-BF16, bitsandbytes repacks the weights in a pass without gradients:
    without our guard the gradient then differs."""
    settings = TrainConfig(load_in_4bit=True, bf16=True)
    net = model.load_base(tiny, settings)
    net = get_peft_model(net, model.lora_config(settings, net))
    example = example_of(list(range(100, 140)))

    def gradient():
        net.zero_grad()
        batch = model.concatenate([example])
        labels = batch.pop("labels")[0]
        hidden = model.backbone(net)(**batch, use_cache=False).last_hidden_state[0]
        model.answer_nll(net, hidden, labels).mean().backward()
        grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
        return torch.cat(grads).float().clone()

    before = gradient()
    model.losses(net, [example])
    after = gradient()
    assert before.norm() > 0.01
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("emulated", [True, False])
def test_embeddings_stay_in_16_bits_and_nothing_frozen_is_trained(tiny, monkeypatch, emulated):
    """In 32 where the processor emulates bf16, as the products with 4-bit weights are too."""
    if emulated:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    settings = TrainConfig(load_in_4bit=True, bf16=True)
    narrow = number_types.in_bf16(settings, number_types.here("cpu"))
    assert not (emulated and narrow)
    net = model.load_base(tiny, settings, device="cpu")
    dtype = torch.bfloat16 if narrow else torch.float32
    assert net.get_input_embeddings().weight.dtype == dtype
    assert {m.compute_dtype for m in net.modules() if hasattr(m, "compute_dtype")} == {dtype}
    assert not any(p.requires_grad for p in net.parameters())


# Kills, interrupts and bad losses


def start(words, folder, runs, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "onecard", *map(str, words)],
        cwd=folder,
        env={**os.environ, "ONECARD_RUNS": str(runs)},
        **options,
    )


def tuned_loss(result):
    scores = json.loads((Path(result.data["run"]) / "scores.json").read_text())
    return scores["metrics"]["tuned_loss"]["value"]


def test_killed_and_resumed_gives_the_same_loss(home, tiny, tmp_path):
    flags = {
        "model": tiny,
        "max_seq_length": 64,
        "gradient_accumulation_steps": 2,
        "save_steps": 4,
        "max_steps": 40,
        "eval_items": 4,
        "generate_items": 0,
        "quants": "none",
        "lora_dropout": 0.1,
    }
    words = ["finetune", "train", town_pairs(tmp_path / "pairs.jsonl")]
    words += [word for name, value in flags.items() for word in (f"--{name}", value)]
    values = {**flags, "dataset": str(tmp_path / "pairs.jsonl"), "model": str(tiny)}

    def here(folder, **more):  # a process of its own loads the libraries for half a minute
        more |= {"output_dir": str(tmp_path / folder)}
        return train(api.configure("finetune", "train", values=values | more))

    unbroken = here("unbroken")
    out = tmp_path / "killed"
    child = start([*words, "--output_dir", out], tmp_path, home, stderr=subprocess.DEVNULL)
    kill_when(lambda: trainer_checkpoints.last(out / "checkpoints"), child)
    assert not (out / "adapter").exists(), "it was killed on its way"
    (out / "checkpoints" / "checkpoint-999").mkdir()  # as a kill in the middle of writing leaves it
    resumed = here("killed", resume=True)
    assert tuned_loss(resumed) == pytest.approx(tuned_loss(unbroken), abs=1e-6)
    with pytest.raises(SettingsError):  # the folder of another training
        here("unbroken")


def test_ctrl_c_keeps_a_checkpoint(home, tiny, tmp_path):
    flags = {
        "model": tiny,
        "max_seq_length": 64,
        "max_steps": 2000,
        "gradient_accumulation_steps": 1,
        "save_steps": 1000,
        "generate_items": 0,
        "quants": "none",
        "eval_items": 4,
        "output_dir": tmp_path / "out",
    }
    words = ["finetune", "train", town_pairs(tmp_path / "pairs.jsonl")]
    words += [word for name, value in flags.items() for word in (f"--{name}", value)]
    runs = tmp_path / "runs"
    child = start(
        words, tmp_path, runs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def has_stepped():
        return any(path.stat().st_size > 500 for path in runs.glob("*/events.jsonl"))

    wait_until(has_stepped, child)
    child.send_signal(signal.SIGINT)
    output = child.communicate()[0]
    assert child.returncode == 130, output
    assert "--resume" in output and "Traceback" not in output, output
    assert trainer_checkpoints.last(tmp_path / "out" / "checkpoints")


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(home, tiny, tmp_path, monkeypatch):
    losses = []
    original = trainer.SFTTrainer.training_step

    def spoilt(self, net, inputs, *args, **options):
        losses.append(original(self, net, inputs, *args, **options))
        return losses[-1] * float("nan") if len(losses) > 10 else losses[-1]

    monkeypatch.setattr(trainer.SFTTrainer, "training_step", spoilt)
    pairs = town_pairs(tmp_path / "pairs.jsonl")
    with pytest.raises(DataError, match=r"nan in step 6") as error:
        train(quick(tiny, pairs, output_dir=str(tmp_path / "out")))
    assert "pairs.jsonl:" in error.value.why
    assert "checkpoint-3 from before is complete" in error.value.why
    assert trainer_checkpoints.last(tmp_path / "out" / "checkpoints").name == "checkpoint-3"


# Ways to train


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_preferences_are_learned(home, tiny, tmp_path, method):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": f"Greet guest {i}",
            "chosen": f"Welcome, guest {i}!",
            "rejected": f"Go away, guest {i}.",
        }
        for i in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = train(quick(tiny, path, method=method, max_steps=4))
    assert result.data["metrics"]["tuned_loss"]["n"] >= 2
    adapter = Path(result.data["output_dir"]) / "adapter" / "adapter_model.safetensors"
    assert adapter.exists()


@pytest.mark.parametrize(
    "options",
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
def test_every_way_to_adapt(home, tiny, tmp_path, options):
    pairs = town_pairs(tmp_path / "pairs.jsonl", 1)
    result = train(quick(tiny, pairs, max_steps=2, **options))
    assert result.data["metrics"]["tuned_loss"]["n"] >= 2


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"dataset": ""}, SettingsError, "no dataset"),
        ({"dataset": "none.jsonl"}, NotFound, "no dataset"),
        ({"dataset": "one.jsonl"}, DataError, "cannot be split"),
        ({"model": "/nowhere"}, NotFound, "nowhere"),
        ({"model": "no_template"}, DataError, "no chat template"),
        ({"target_modules": ("nope",)}, SettingsError, "no layer 'nope'"),
        ({"max_seq_length": 32}, DataError, "no sample is left"),
        ({"quants": ("q9",)}, NotFound, "q9"),
        ({"resume": True}, SettingsError, "nothing to resume"),
        ({"eval_dataset": "pairs.jsonl"}, DataError, "both train and eval"),
        ({"load_in_4bit": True, "load_in_8bit": True}, SettingsError, "4 and 8 bits"),
    ],
)
def test_bad_input_is_refused(home, tiny, tmp_path, monkeypatch, options, error, text):
    monkeypatch.chdir(tmp_path)
    town_pairs(tmp_path / "pairs.jsonl", 1)
    (tmp_path / "one.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "no_template").mkdir()
    for path in tiny.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / "no_template" / path.name).write_bytes(path.read_bytes())
    settings = quick(tiny, "pairs.jsonl").model_copy(update=options)
    with pytest.raises(error, match=text):
        train(settings)


def test_a_folder_in_use_is_refused(home, tiny, tmp_path):
    out = tmp_path / "shared"
    pairs = town_pairs(tmp_path / "pairs.jsonl", 1)
    with output_dir.lock(out), pytest.raises(SettingsError, match="in use"):
        train(quick(tiny, pairs, output_dir=str(out)))


def test_a_full_disk_is_refused(home, tiny, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(output_dir.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="no room for a checkpoint"):
        train(quick(tiny, town_pairs(tmp_path / "pairs.jsonl", 1)))


def test_a_gated_model_says_what_to_do(monkeypatch):
    def refuse(*args, **options):
        request = httpx.Request("GET", "https://example.org")
        raise GatedRepoError("gated", response=httpx.Response(403, request=request))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(NotFound, match="gated") as error:
        checkpoints.folder("meta-llama/Meta-Llama-3.1-8B-Instruct", Reporter())
    assert "accept" in error.value.fix


# The other commands


def test_pairs_are_drafted_and_never_overwritten(onecard, notes, tmp_path):
    words = ["finetune", "draft", notes, "--pairs", 2, "--output_dir", tmp_path, "--json"]
    first = onecard(*words)
    assert first.code == 0, first.err
    rows = [json.loads(line) for line in (tmp_path / "drafted.jsonl").read_text().splitlines()]
    assert len(rows) == first.data["n"] > 0
    assert all(row["prompt"] and row["completion"] for row in rows)
    assert {row["checked"] for row in rows} == {False}
    assert onecard(*words).code == 2


def test_check_splits_as_training_would_and_writes_no_run(onecard, tmp_path):
    pairs = town_pairs(tmp_path / "pairs.jsonl")
    runs = tmp_path / "runs"
    result = onecard("finetune", "check", pairs, "--json", env={"ONECARD_RUNS": str(runs)})
    assert result.code == 0, result.err
    assert result.data["eval"] == round(0.1 * len(TOWNS) * 4)
    assert result.data["train"] + result.data["eval"] == len(TOWNS) * 4
    assert not runs.exists()
