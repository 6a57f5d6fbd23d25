"""The plan against published measurements of language models (../shared/truth)."""

from onecard.memory import truth


def test_published_measurements_of_language_models(shared):
    done = truth.bench(shared / "truth" / "vram_open.csv").data["summary"]
    assert done["llm-infer"]["planned_share"] > 0.95 and done["qlora"]["planned_share"] == 1.0
    assert done["allocated and log"]["median"] < 0.01 and done["llm-infer"]["median"] < 0.015 and done["qlora"]["median"] < 0.03
