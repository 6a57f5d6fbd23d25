"""Settings, flags, errors: all faults at once, the nearest right name, one spelling for two."""

import pytest

from onecard import api, config, flags
from onecard.errors import NotFound, SettingsError
from onecard.tasks.rag.configs import Settings
from onecard.units import parse_bytes


def test_all_faults_are_told_at_once_with_the_nearest_name():
    with pytest.raises(SettingsError) as fault:
        api.configure("rag", values={"top_kk": 3, "top_k": 0, "temperature": "hot"})
    assert "3 settings" in fault.value.what
    assert (
        "did you mean top_k" in fault.value.why
        and "temperature" in fault.value.why
        and "greater than or equal to 1" in fault.value.why
    )


def test_layers_win_from_left_to_right(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text("n_ctx = 512\ntop_k = 3\n")
    settings = api.configure("rag", preset="12gb", file=file, values={"top_k": "9"})
    assert (settings.n_ctx, settings.top_k, settings.model) == (512, 9, "llama3.1:8b")


def test_a_broken_file_names_its_line(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text("a = 1\nb = = 2\n")
    with pytest.raises(SettingsError, match="TOML") as fault:
        api.configure("rag", file=file)
    assert "line 2" in fault.value.why
    with pytest.raises(NotFound):
        api.configure("rag", file=tmp_path / "none.toml")


def test_unknown_preset_and_kind():
    with pytest.raises(NotFound, match="preset"):
        api.configure("rag", preset="13gb")
    with pytest.raises(NotFound) as fault:
        api.configure("rga")
    assert "rag" in fault.value.fix


@pytest.mark.parametrize(
    "words", [["--top_k", "7"], ["--top-k", "7"], ["--top_k=7"], ["--top-k=7"]]
)
def test_dashes_and_underscores_are_the_same(words):
    assert flags.parse(words, Settings, []).settings == {"top_k": "7"}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--watch"], True),
        (["--no-watch"], False),
        (["--watch", "true"], "true"),
        (["--watch=off"], "off"),
    ],
)
def test_switches(words, value):
    assert flags.parse(words, Settings, []).settings["watch"] == value


def test_a_switch_does_not_eat_the_folder_behind_it():
    got = flags.parse(["--watch", "notes", "code"], Settings, [], "folders")
    assert got.settings == {"watch": True, "folders": ["notes", "code"]}


def test_unknown_flags_and_missing_values_are_told_together():
    with pytest.raises(SettingsError) as fault:
        flags.parse(["--topk", "3", "--n_cxt", "5", "--seed"], Settings, [])
    assert all(
        word in fault.value.why
        for word in ("did you mean --top_k?", "did you mean --n_ctx?", "--seed needs a value")
    )


def test_two_dashes_end_the_flags():
    assert flags.parse(["--", "--top_k"], Settings, [], "question").settings == {
        "question": "--top_k"
    }


def test_an_error_says_what_why_fix():
    text = str(SettingsError("a is wrong", why="b", fix="c"))
    assert text == "a is wrong\n  why: b\n  fix: c"


@pytest.mark.parametrize("bad", ["", "12 parsecs", "-3gb", "gb"])
def test_sizes_that_are_none(bad):
    with pytest.raises(ValueError):
        parse_bytes(bad)


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        config.load(Settings).top_k = 3
