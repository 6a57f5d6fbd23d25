"""Configs, errors: all faults at once, the nearest right name, layers, secrets left out."""

import pytest
from pydantic import SecretStr, ValidationError

from onecard import api, config, tasks
from onecard.config import Config, Layer, PathText, Secret
from onecard.errors import NotFound, SettingsError
from onecard.redaction import redact
from onecard.tasks.rag.configs import AskConfig
from onecard.units import parse_bytes


class Mixin(Config):
    """First group.

    More about it.
    """

    speed: int = 3
    """Speed (m/s)."""


class Sample(Mixin):
    """Second group."""

    name: str = ""
    """A name, over
    two lines."""
    speed: int = 4
    """Speed of this one (m/s)."""
    path: PathText = ""
    """A path."""
    token: Secret = SecretStr("")
    """A token."""


def test_all_faults_are_told_at_once_with_the_nearest_name():
    with pytest.raises(SettingsError) as fault:
        api.configure("rag", "ask", values={"top_kk": 3, "top_k": 0, "temperature": "hot"})
    assert "3 settings" in fault.value.what
    assert "did you mean top_k" in fault.value.why
    assert "temperature" in fault.value.why
    assert "greater than or equal to 1" in fault.value.why


def test_layers_win_from_left_to_right(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text("n_ctx = 512\ntop_k = 3\n")
    settings = api.configure("rag", "ask", preset="12gb", file=file, values={"top_k": "9"})
    assert (settings.n_ctx, settings.top_k, settings.model) == (512, 9, "llama3.1:8b")


def test_a_file_may_serve_all_commands_of_a_task(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text("chunk_tokens = 200\ntop_k = 3\n")
    assert api.configure("rag", "search", file=file).top_k == 3
    assert api.configure("rag", "index", file=file).chunk_tokens == 200


def test_a_file_may_not_hold_a_name_that_no_command_has(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text("top_kk = 3\n")
    with pytest.raises(SettingsError, match="top_kk") as fault:
        api.configure("rag", "search", file=file)
    assert str(file) in fault.value.what


def test_values_of_another_command_are_refused():
    with pytest.raises(SettingsError, match="port"):
        api.configure("rag", "search", values={"port": 1})


def test_a_broken_file_names_its_line(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text("a = 1\nb = = 2\n")
    with pytest.raises(SettingsError, match="TOML") as fault:
        api.configure("rag", "ask", file=file)
    assert "line 2" in fault.value.why


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        api.configure("rag", "ask", file=tmp_path / "none.toml")


def test_unknown_preset():
    with pytest.raises(NotFound, match="preset"):
        api.configure("rag", "ask", preset="13gb")


def test_unknown_task_and_command():
    with pytest.raises(NotFound) as fault:
        api.configure("rga", "ask")
    assert "rag" in fault.value.fix
    with pytest.raises(NotFound) as fault:
        api.configure("rag", "serach")
    assert "search" in fault.value.fix


def test_names_of_the_first_version_are_read():
    assert api.configure("finetune", "train", values={"model_name": "x"}).model == "x"
    assert api.configure_plan("qlora", values={"seq": 256}).max_seq_length == 256
    assert (
        api.configure("rag", "ask", values={"feedback": False}).pseudo_relevance_feedback is False
    )


def test_commands_of_the_first_version_are_read():
    assert api.configure("rag", "make-questions", values={"n_questions": 3}).num_questions == 3
    assert tasks.command_of(tasks.get("chat"), "talk").target == "chat:chat"


def test_configs_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        api.configure("rag", "ask").top_k = 3


def test_fields_are_grouped_by_the_class_that_first_defines_them():
    assert config.groups(Sample) == {
        "Second group": ["name", "path", "token"],
        "First group": ["speed"],
    }


def test_the_nearest_docstring_is_the_help():
    described = config.describe(Sample)
    assert described["speed"] == "Speed of this one (m/s)."
    assert described["name"] == "A name, over two lines."


def test_a_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load(Sample, Layer("", {"path": "a/../b"})).path == str(tmp_path / "b")
    assert config.load(Sample, Layer("", {"path": ""})).path == ""


def test_a_secret_comes_from_the_environment_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "from-the-environment")
    (tmp_path / "token").write_text("from-a-file\nsecond line\n")

    def token(text):
        return config.load(Sample, Layer("", {"token": text})).token.get_secret_value()

    assert token("env:MY_TOKEN") == "from-the-environment"
    assert token(f"file:{tmp_path / 'token'}") == "from-a-file"
    assert token("typed") == "typed"


@pytest.mark.parametrize("text", ["env:NO_SUCH_VARIABLE", "file:/no/such/file"])
def test_a_secret_that_cannot_be_read_is_refused(text):
    with pytest.raises(SettingsError, match="token"):
        config.load(Sample, Layer("", {"token": text}))


def test_a_wrong_secret_is_not_repeated():
    with pytest.raises(SettingsError) as fault:
        config.load(Sample, Layer("", {"token": ["hunter2-hunter2"]}))
    assert "hunter2" not in str(fault.value)


def test_public_values_hold_no_secret():
    values = {"token": "hunter2-hunter2", "name": "http://me:hunter2-hunter2@host/"}
    sample = config.load(Sample, Layer("", values))
    assert "hunter2" not in str(config.public_values(sample))
    assert "hunter2" not in repr(sample.token)
    assert "hunter2-hunter2" in config.secrets_of(sample)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:pass@host/v1", "https://***@host/v1"),
        ("see http://h/?token=abc&x=1 now", "see http://h/?token=***&x=1 now"),
        ("http://host/v1", "http://host/v1"),
        ("a:b@c", "a:b@c"),
    ],
)
def test_addresses_are_redacted(text, clean):
    assert redact(text) == clean


def test_flags_come_from_settings_and_back():
    values = {"question": "what, where?", "top_k": 7, "tools": ["date", "calculator"]}
    settings = config.load(AskConfig, Layer("", values))
    words = config.as_flags(values)
    tools = ["--tools", "date", "--tools", "calculator"]
    assert words == ["--question", "what, where?", "--top_k", "7", *tools]
    assert settings.tools == ("date", "calculator")


def test_an_error_says_what_why_fix():
    text = str(SettingsError("a is wrong", why="b", fix="c"))
    assert text == "a is wrong\n  why: b\n  fix: c"


@pytest.mark.parametrize("bad", ["", "12 parsecs", "-3gb", "gb"])
def test_sizes_that_are_none(bad):
    with pytest.raises(ValueError):
        parse_bytes(bad)
