"""The plan against published measurements (../shared/truth)."""

from validation import truth


def test_published_measurements(shared):
    done = truth.bench(shared / "truth" / "vram_open.csv").data["summary"]
    assert done["all"]["planned_share"] > 0.95
    assert done["allocated and log"]["median"] < 0.01 and done["allocated and log"]["p90"] < 0.09
    assert (
        done["reserved, nvidia-smi, claimed"]["median"] < 0.05
        and done["reserved, nvidia-smi, claimed"]["p90"] < 0.18
    )
    for workload, median in {
        "llm-infer": 0.02,
        "qlora": 0.03,
        "lora": 0.03,
        "detect-train": 0.05,
        "diffusion-infer": 0.05,
        "diffusion-lora": 0.12,
        "vlm-infer": 0.08,
    }.items():
        assert done[workload]["median"] < median and done[workload]["planned_share"] > 0.89, (
            workload
        )
