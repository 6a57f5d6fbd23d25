"""Fallbacks: what they change, in which order, and that what they say fits does."""

import itertools
import json

import pytest

from onecard import api
from onecard.cli.app import main
from onecard.memory import devices, fallbacks
from onecard.tasks.finetune import memory as finetune

CASES = {
    "qlora": {
        "model": "llama-3.1-8b",
        "per_device_train_batch_size": 8,
        "max_seq_length": 4096,
        "attn_implementation": "eager",
        "gradient_checkpointing": False,
        "fp32_norms": True,
        "loss": "upcast",
    },
    "lora": {"model": "llama-3.1-8b", "per_device_train_batch_size": 4},
    "full": {"model": "qwen2.5-0.5b", "per_device_train_batch_size": 32},
    "llm-infer": {
        "model": "llama-3.1-8b",
        "n_ctx": 131072,
        "quant": "q8_0",
        "flash_attn": False,
    },
}


def fitted(name, values, card):
    return api.fit(api.plan_task(name).name, api.configure_plan(name, values=values), card=card)


@pytest.mark.parametrize("card", ["8gb", "12gb", "16gb", "24gb"])
@pytest.mark.parametrize("name", CASES)
def test_what_the_fallbacks_end_with_fits_with_its_band(name, card):
    result = fitted(name, CASES[name], card)
    task = api.plan_task(name).name
    again = api.plan(task, api.configure_plan(name, values=result.data["settings"]), card=card)
    assert result.data["verdict"] == "fits"
    assert result.data["total_bytes"] == again.total_bytes


@pytest.mark.parametrize("card", ["8gb", "12gb"])
@pytest.mark.parametrize("name", CASES)
def test_every_fallback_saves_something_and_names_its_cost(name, card):
    changes = fitted(name, CASES[name], card).data["changes"]
    assert changes
    assert all(row["saved_bytes"] > 0 and row["cost"] for row in changes)


def test_a_setting_turned_several_times_is_one_fallback():
    changes = fitted("qlora", CASES["qlora"], "8gb").data["changes"]
    names = [next(iter(row["changes"])) for row in changes]
    assert len(names) == len(set(names)) > 2


def test_shorter_samples_are_the_last_resort():
    """With 16k tokens even a batch of one does not fit 8 GB until the samples are cut."""
    changes = fitted("qlora", CASES["qlora"] | {"max_seq_length": 16384}, "8gb").data["changes"]
    names = [next(iter(row["changes"])) for row in changes]
    assert "max_seq_length" in names
    assert names.index("max_seq_length") == len(names) - 1


def test_exact_changes_come_before_those_that_cost_quality():
    changes = fitted("qlora", CASES["qlora"] | {"max_seq_length": 16384}, "8gb").data["changes"]
    names = [next(iter(row["changes"])) for row in changes]
    exact = {"loss", "attn_implementation", "gradient_checkpointing", "per_device_train_batch_size"}
    assert names[0] == "loss"
    assert exact <= set(names[: names.index("max_seq_length")])


def test_a_smaller_micro_batch_keeps_the_effective_batch():
    config = api.configure_plan(
        "qlora",
        values={"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2},
    )
    for change, _ in finetune.fallbacks(config):
        if "per_device_train_batch_size" in change:
            batch = change["per_device_train_batch_size"] * change["gradient_accumulation_steps"]
            assert batch >= 12
            assert batch < 12 + change["per_device_train_batch_size"]


def test_nothing_is_changed_that_fits_already():
    values = {"model": "smollm2-135m", "max_seq_length": 512}
    result = fitted("qlora", values, "24gb")
    assert result.data["changes"] == []
    assert "nothing needs to change" in result.text


def test_the_next_changes_are_three_different_settings():
    config = api.configure_plan("qlora", values=CASES["qlora"])
    rows = fallbacks.next_changes(
        config, devices.find("8gb"), finetune.plan, finetune.fallbacks(config)
    )
    assert len({tuple(row.changes) for row in rows}) == len(rows) == 3


def test_a_larger_card_holds_no_less(capsys):
    sizes = []
    for name in ("8gb", "12gb", "16gb", "24gb"):
        assert main(["fit", "--card", name, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert len(rows) >= 10
        sizes.append([_rank(row) for row in rows])
    for small, large in itertools.pairwise(sizes):
        assert all(a <= b for a, b in zip(small, large, strict=True))


def _rank(row):
    """Index of the row's model among the models that its task tries; -1 for none."""
    task = api.plan_task(row["workload"])
    from onecard import tasks

    rows = {each.plan: each.models for each in tasks.memory(task).fit_rows()}
    models = rows[row["workload"]]
    return models.index(row["model"]) if row["model"] else -1


def test_what_cannot_fit_is_refused_with_its_largest_part(capsys):
    assert main(["plan", "full", "llama-3.3-70b", "--card", "8gb", "--fit"]) == 3
    assert "largest part is trained weights" in capsys.readouterr().err


def test_fit_tells_what_it_changed(capsys):
    words = ["--card", "8gb", "--max_seq_length", "16384", "--loss", "upcast", "--fit", "--json"]
    assert main(["plan", "qlora", "llama-3.1-8b", *words]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["changes"][0]["changes"] == {"loss": "fused"}
    assert data["settings"]["loss"] == "fused"


def chat_fitted(card, **values):
    config = api.configure_plan("llm-infer", values=values)
    return api.fit("chat", config, card=card).data


@pytest.mark.parametrize(("model", "n_ctx"), [("qwen3-30b-a3b", 4096), ("qwen3-32b", 32768)])
def test_a_change_that_a_later_one_made_needless_is_taken_back(model, n_ctx):
    """Without any one of the changes that are left the plan does not fit."""
    changes = [row["changes"] for row in chat_fitted("4070ti", model=model, n_ctx=n_ctx)["changes"]]
    assert changes
    device = devices.find("4070ti")
    for left_out in changes[:-1]:
        values = {k: v for row in changes if row is not left_out for k, v in row.items()}
        values = {"model": model, "n_ctx": n_ctx, **values}
        plan = api.plan("chat", api.configure_plan("llm-infer", values=values), card="4070ti")
        assert plan.high_bytes > device.free_bytes, left_out


def test_experts_move_only_until_it_fits():
    done = chat_fitted("12gb", model="gpt-oss-20b", n_ctx=65536)
    moved = done["choices"].get("n_cpu_moe") or done["changes"][-1]["changes"]["n_cpu_moe"]
    assert 0 < moved < 12
    assert done["fits"]
    assert any("--n-cpu-moe" in note for note in done["notes"])


def test_layers_stay_whole_where_smaller_changes_are_enough():
    done = chat_fitted("24gb", model="qwen3-32b", n_ctx=32768)
    keys = {key for row in done["changes"] for key in row["changes"]}
    assert "n_gpu_layers" not in keys
