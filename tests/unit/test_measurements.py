"""plan-bench: rows of other people in the table's form are judged, each by itself."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from onecard import api
from onecard.api import measurements
from onecard.cli.commands import plan_bench
from onecard.config import choices
from onecard.errors import DataError, NotFound
from onecard.memory.plan import Plan, Term
from onecard.units import GIB, MIB

OURS = Path(__file__).parents[1] / "validation" / "measurements.csv"
KV = {
    "id": "a",
    "task": "chat",
    "command": "llm-infer",
    "model": "Qwen3-4B",
    "settings": '{"n_ctx": 8192}',
    "device": "RTX 3090 24GB",
    "component": "kv",
    "kind": "log",
    "measured_value": "1,152.00",
    "unit": "MiB",
    "source": "a log",
    "build": "b9272",
}


def judged(tmp_path, *rows, head=measurements.COLUMNS):
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, head, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([KV | row for row in rows])
    return api.plan_bench(path).data


def test_a_row_is_planned_with_its_own_settings(tmp_path):
    row = judged(tmp_path, {})["rows"][0]
    assert row["planned_bytes"] == row["measured_bytes"] == 1152 * MIB and row["error"] == 0
    smaller = judged(tmp_path, {"settings": '{"n_ctx": 4096}'})["rows"][0]
    assert smaller["error"] == -0.5


def test_one_bad_row_does_not_take_the_others(tmp_path):
    bad = [
        {"settings": "{"},
        {"settings": "[]"},
        {"settings": '{"n_ctx": -1}'},
        {"settings": '{"colour": 1}'},
        {"settings": "[" * 100_000},
        {"model": "no-such-model"},
        {"model": "./" + "x" * 5000},
        {"model": "~nobody/x"},
        {"model": "http://["},
        {"model": ""},
        {"command": "teleport", "task": ""},
        {"command": "teleport"},
        {"task": "cooking", "command": "train"},
        {"measured_value": "many"},
        {"measured_value": "0"},
        {"measured_value": "nan"},
        {"unit": "parsec"},
        {"component": "soul"},
        {"kind": "guessed"},
        {"component": "state"},
        {
            "task": "diffusion",
            "command": "diffusion",
            "model": "sdxl",
            "settings": '{"quant": "q4_1"}',
        },
        {
            "task": "vlm",
            "command": "vlm",
            "model": "qwen2.5-vl-3b",
            "settings": '{"quant": "q4_1"}',
        },
        {"task": "asr", "command": "asr", "model": "base", "settings": '{"compute_type": "q4_1"}'},
    ]
    data = judged(tmp_path, *bad, {})
    *wrong, right = data["rows"]
    assert right["error"] == 0
    assert all(row["error"] is None and row["cannot"] for row in wrong)
    assert data["summary"]["all"]["planned_share"] == pytest.approx(1 / (len(bad) + 1))


@pytest.mark.parametrize(
    ("task", "command", "model", "settings"),
    [
        ("chat", "", "qwen3-4b", {}),
        ("", "chat/llm-infer", "qwen3-4b", {}),
        ("Chat", "LLM_INFER", "Qwen/Qwen3-4B", {}),
        ("chat", "ask", "qwen3-4b", {"n_ctx": 8192}),
        ("chat", "ask", "qwen3-4b", {"engine": "transformers", "quant": "bf16"}),
        ("finetune", "train", "qwen2.5-1.5b", {"load_in_4bit": True}),
        ("finetune", "train", "qwen2.5-1.5b", {"weights": "nf4", "load_in_4bit": True}),
        ("finetune/lora", "", "qwen2.5-1.5b", {}),
        ("finetune", "full-ft", "qwen2.5-0.5b", {"optim": "adafactor"}),
        ("detect", "train", "yolov8n", {"imgsz": 640}),
        ("detect", "predict", "yolov8n", {}),
        ("diffusion", "generate", "sdxl", {}),
        ("diffusion", "lora", "sdxl", {}),
        ("vlm", "ask", "qwen2.5-vl-3b", {"num_images": 0}),
        ("vlm", "lora", "qwen2.5-vl-3b", {}),
        ("asr", "transcribe", "large-v3", {"beam_size": 1}),
        ("asr", "lora", "small", {}),
        ("tinylm", "train", "", {"n_layer": 12}),
    ],
)
def test_names_are_read_in_any_spelling(tmp_path, task, command, model, settings):
    row = {"task": task, "command": command, "model": model, "settings": json.dumps(settings)}
    asked = {"component": "peak", "kind": "reserved", "build": ""}
    done = judged(tmp_path, row | asked)["rows"][0]
    assert done["planned_bytes"], done["cannot"]


@pytest.mark.parametrize(
    ("name", "gib", "desktop"),
    [
        ("RTX 3090 24GB", 24, True),
        ("NVIDIA GeForce RTX 4070 Ti SUPER 16GB", 16, True),
        ("GTX 1060", 80, True),
        ("NVIDIA A100-SXM4-80GB", 80, False),
        ("A100 40GB", 40, False),
        ("Tesla T4", 16, False),
        ("T4 (Colab)", 16, False),
        ("NVIDIA H200", 141, False),
        ("RTX A6000", 48, False),
        ("a card nobody knows", 80, False),
        ("", 80, False),
        ("99999999 GB", 4096, False),
    ],
)
def test_every_device_has_a_size(name, gib, desktop):
    device, screen = measurements.device_of(name)
    assert (round(device.total_bytes / GIB), screen) == (gib, desktop)


def test_kinds_of_counters_are_predictions_of_their_own():
    device = measurements.device_of("T4")[0]
    names = {"weights": 8, "activations": 4, "fragments": 2, "CUDA context": 1}
    plan = Plan(tuple(Term(name, n, "") for name, n in names.items()), device)
    seen = {
        kind: measurements.whole(plan, kind, "finetune", True, False)
        for kind in ("allocated", "log", "reserved", "nvidia-smi", "claimed")
    }
    expected = {"allocated": 12, "log": 12, "reserved": 14, "nvidia-smi": 15, "claimed": 15}
    assert seen == expected
    assert measurements.whole(plan, "claimed", "detect", False, False) == 12
    assert measurements.whole(plan, "log", "detect", False, False) == 14
    assert measurements.whole(plan, "nvidia-smi", "chat", False, True) == 15 + 512 * MIB


def test_a_build_decides_the_compute_buffer(tmp_path):
    rows = [{"component": "compute", "build": build} for build in ("b9600", "b9272", "", "Ollama")]
    new, old, unknown, ollama = (r["planned_bytes"] for r in judged(tmp_path, *rows)["rows"])
    assert new < old == unknown == ollama


@pytest.mark.parametrize("build", ["b9600", "llama.cpp B9600", "embedded", "vllm 0.11", "Ollama"])
@pytest.mark.parametrize("name", api.plans())
def test_a_build_makes_no_row_wrong(name, build):
    """Whatever plan and engine it stands beside: not every plan has a setting for it."""
    fields = type(api.configure_plan(name)).model_fields
    engines = choices(fields["engine"]) if "engine" in fields else ()
    for engine in ("", *engines):
        row = {**KV, "task": "", "command": name, "build": build}
        row["model"] = KV["model"] if "model" in fields else ""
        row["settings"] = json.dumps({"engine": engine} if engine else {})
        config = measurements.config_of(measurements.Row(row))[2]
        assert not engine or config.engine == engine


@pytest.mark.parametrize("text", ["", "id,colour\n1,red\n", "id,task\n", "\xff\xfe"])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError):
        api.plan_bench(path)
    with pytest.raises(NotFound):
        api.plan_bench(tmp_path / "none.csv")


def test_the_command_prints_json():
    done = CliRunner().invoke(plan_bench.command, [str(OURS), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["summary"]["all"]["count"] > 300


def test_published_measurements():
    """The open rows: every one has a source, is planned or says why not."""
    done = api.plan_bench(OURS).data
    exact, others, all_rows = list(done["summary"].values())[:3]
    assert all(row["source"] for row in done["rows"])
    assert all_rows["planned_share"] >= 0.95
    assert exact["median"] <= 0.02 and exact["p90"] <= 0.08 and exact["under_5"] <= 0.05
    assert others["median"] <= 0.05 and others["p90"] <= 0.18
    assert all_rows["inside"] >= 0.8


@pytest.mark.parametrize(
    ("change", "grows"),
    [
        ({"fp32_norms": True}, True),
        ({"keep_inputs": True}, True),
        ({"keep_logits": True}, True),
        ({"lora_dropout": 0.05}, True),
        ({"optim": "adamw_torch", "deepspeed": True}, True),
        ({"autocast_adapter_dtype": False}, False),
        ({"gradient_checkpointing": True, "enable_activation_offloading": True}, False),
    ],
)
def test_a_trainers_habits_are_settings(change, grows):
    base = {"model": "qwen2.5-1.5b", "gradient_checkpointing": False, "loss": "upcast"}
    before, after = (
        api.plan("finetune", api.configure_plan("qlora", values=values), card="24gb").total_bytes
        for values in (base, base | change)
    )
    assert after > before if grows else after < before


def test_fp32_norms_hand_on_fp32_without_checkpointing():
    """4-bit layers under fp32 norms answer in fp32: three rows of the feed-forward are wide."""
    base = {"model": "qwen2.5-1.5b", "gradient_checkpointing": False, "max_seq_length": 1024}

    def kept(**values):
        plan = api.plan("finetune", api.configure_plan("qlora", values=base | values), card="24gb")
        return next(term.bytes for term in plan.terms if term.name == "activations")

    wide = 28 * 1024 * 3 * 8960 * 2
    assert kept(fp32_norms=True) - kept() == pytest.approx(wide, rel=0.01)


def test_where_the_error_is_not_known_it_is_said():
    plan = api.plan("vlm", api.configure_plan("vlm", values={"model": "qwen2.5-vl-3b"}), card="8gb")
    assert "is not known" in plan.render() and plan.as_dict()["high_bytes"] is None
    known = api.plan("chat", api.configure_plan("llm-infer", values={"model": "qwen3-4b"}))
    assert "is not known" not in known.render() and known.as_dict()["high_bytes"]


def test_transformers_settings_change_the_plan():
    base = {"model": "qwen2.5-7b", "engine": "transformers", "n_ctx": 8192}

    def total(**values):
        config = api.configure_plan("llm-infer", values=base | values)
        return api.plan("chat", config, card="24gb").total_bytes

    prompt = {"prompt_tokens": 6000}
    assert total(**prompt, logits_to_keep=0) - total(**prompt) == 6 * 6000 * 152064
    assert total(legacy_cache=True) > total()


@pytest.mark.parametrize(
    ("name", "model", "before", "after"),
    [
        ("asr-full", "small", {}, {"optim": "adamw-8bit"}),
        ("asr-full", "small", {"label_tokens": 400, "freeze_encoder": False}, {"label_tokens": 40}),
        (
            "vlm-lora",
            "qwen2.5-vl-3b",
            {"method": "full", "loss": "upcast", "fp32_master_weights": True},
            {"fp32_master_weights": False},
        ),
    ],
)
def test_other_trainers_can_be_planned(name, model, before, after):
    task = name.split("-")[0]
    more, less = (
        api.plan(task, api.configure_plan(name, values=values), card="24gb").total_bytes
        for values in ({"model": model} | before, {"model": model} | before | after)
    )
    assert less < more
