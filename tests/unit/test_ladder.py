"""The ladder: what it changes, in which order, and that what it says fits does."""

import itertools
import json
import time

import pytest

from onecard.cli.app import main
from onecard.memory import devices, fallbacks, workloads
from onecard.memory.workloads import InferSettings, TuneSettings

EXACT = ("loss", "attention", "checkpointing", "batch")
"""Knobs that leave the mathematics as it was."""


@pytest.mark.parametrize("name", ["8gb", "12gb", "16gb", "24gb"])
@pytest.mark.parametrize(
    ("workload", "settings"),
    [
        (
            "qlora",
            TuneSettings(
                model="llama-3.1-8b",
                batch=8,
                seq=4096,
                attention="eager",
                checkpointing=False,
                rest_fp32=True,
            ),
        ),
        ("lora", TuneSettings(model="llama-3.2-3b", batch=4)),
        ("full", TuneSettings(model="qwen2.5-0.5b", batch=16)),
        (
            "llm-infer",
            InferSettings(model="llama-3.1-8b", n_ctx=131072, format="q8_0", flash_attention=False),
        ),
        ("llm-infer", InferSettings(model="qwen3-30b-a3b", n_ctx=32768)),
    ],
)
def test_what_the_ladder_ends_with_fits_with_its_band(workload, settings, name):
    held = devices.find(name)
    changed, plan, rungs = fallbacks.fit(workload, settings, held)
    assert (
        plan.verdict == "fits"
        and plan.total_bytes == workloads.get(workload).plan(changed, held).total_bytes
    )
    assert all(rung.saved_bytes > 0 and rung.cost for rung in rungs)
    kinds = [next(iter(rung.changes)) for rung in rungs]
    assert (
        len(kinds) == len(set(kinds)) and kinds.index("seq") == len(kinds) - 1
        if "seq" in kinds
        else True
    )


def test_exact_changes_come_before_those_that_cost_quality():
    _, _, rungs = fallbacks.fit(
        "qlora",
        TuneSettings(
            model="llama-3.1-8b", batch=8, seq=8192, attention="eager", checkpointing=False
        ),
        devices.find("8gb"),
    )
    kinds = [next(iter(rung.changes)) for rung in rungs]
    assert (
        set(kinds[: kinds.index("seq")]) >= {"attention", "checkpointing", "batch"}
        and kinds[0] == "loss"
    )


def test_nothing_is_changed_that_fits_already():
    settings = TuneSettings(model="smollm2-135m", seq=512)
    changed, _, rungs = fallbacks.fit("qlora", settings, devices.find("24gb"))
    assert changed == settings and not rungs


def test_a_larger_card_holds_no_less(capsys):
    started = time.perf_counter()
    params = []
    for name in ("8gb", "12gb", "16gb", "24gb"):
        assert main(["fit", "--card", name, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        params.append(
            [
                models.index(row["model"]) if row["model"] else -1
                for row, (_, _, _, models, _, _) in zip(rows, fallbacks.ROWS, strict=True)
            ]
        )
    assert time.perf_counter() - started < 4 * 1.5
    assert all(
        a <= b
        for small, large in itertools.pairwise(params)
        for a, b in zip(small, large, strict=True)
    )


def test_what_cannot_fit_is_refused_with_its_largest_part(capsys):
    assert main(["plan", "full", "llama-3.3-70b", "--card", "8gb", "--fit"]) == 3
    assert "largest part is trained weights" in capsys.readouterr().err
    assert (
        main(
            ["plan", "qlora", "llama-3.1-8b", "--card", "12gb", "--seq", "4096", "--fit", "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["changes"][0]["changes"] == {"loss": "fused"}
