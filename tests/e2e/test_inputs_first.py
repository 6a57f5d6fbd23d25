"""An input that cannot be used is refused before a model is fetched or converted for it."""

import pytest


@pytest.mark.parametrize(
    "words",
    [
        ("asr", "transcribe", "empty.wav"),
        ("asr", "transcribe", "empty.wav", "text.mp3"),
        ("asr", "enroll", "anna", "empty.wav"),
        ("finetune", "check", "empty.jsonl"),
        ("finetune", "train", "empty.jsonl"),
    ],
    ids=" ".join,
)
def test_no_model_is_fetched_for_an_empty_file(onecard, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONECARD_HOME", str(tmp_path / "home"))
    for name in ("empty.wav", "empty.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "text.mp3").write_text("no sound")
    result = onecard(*words)
    assert result.code == 5, result.err
    assert "empty" in result.err
    models = tmp_path / "home" / "models"
    assert not models.exists() or not list(models.iterdir())
    assert not (tmp_path / "home" / "dense").exists()
