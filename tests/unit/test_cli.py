"""The command line: names, switches, old names, help, completion, secrets, what is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from onecard import api, tasks
from onecard.cli.app import App, main
from onecard.cli.options import ConfigCommand
from onecard.config import Config
from onecard.errors import SettingsError
from onecard.tasks.rag.configs import IndexConfig, QueryConfig


def parsed(schema, words, positional=""):
    """What a command with this config is called with."""
    got = {}
    command = ConfigCommand(
        "x", lambda: schema, lambda values, flags: got.update(values), positional=positional
    )
    command.main(list(words), standalone_mode=False)
    return got


@pytest.mark.parametrize(
    "words", [["--top_k", "7"], ["--top-k", "7"], ["--top_k=7"], ["--top-k=7"]]
)
def test_dashes_and_underscores_are_the_same(words):
    assert parsed(QueryConfig, words) == {"top_k": "7"}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--watch"], True),
        (["--no-watch"], False),
        (["--no_watch"], False),
        (["--watch", "true"], True),
        (["--watch", "off"], False),
        (["--watch=off"], False),
    ],
)
def test_switches(words, value):
    assert parsed(IndexConfig, words) == {"watch": value}


def test_a_switch_with_two_words_has_both_spellings():
    off = {"pseudo_relevance_feedback": False}
    assert parsed(QueryConfig, ["--no_pseudo_relevance_feedback"]) == off
    assert parsed(QueryConfig, ["--no-pseudo-relevance-feedback"]) == off


def test_a_switch_does_not_eat_the_folder_behind_it():
    got = parsed(IndexConfig, ["--watch", "notes", "code"], "folders")
    assert got == {"watch": True, "folders": ["notes", "code"]}


def test_words_and_flags_of_the_same_field_are_joined():
    got = parsed(IndexConfig, ["--folders", "a", "b"], "folders")
    assert got == {"folders": ["a", "b"]}


def test_unknown_options_and_missing_values_are_told_together():
    with pytest.raises(SettingsError) as fault:
        parsed(QueryConfig, ["--topk", "3", "--indx", "5", "--mode"])
    assert "3 words" in fault.value.what
    for text in ("did you mean --top_k?", "did you mean --index?", "--mode needs a value"):
        assert text in fault.value.why


def test_an_unexpected_word_is_refused():
    with pytest.raises(SettingsError, match="not understood") as fault:
        parsed(QueryConfig, ["--top_k", "3", "stray"])
    assert "'stray'" in fault.value.why


def test_two_dashes_end_the_options():
    assert parsed(QueryConfig, ["--", "--top_k"], "question") == {"question": "--top_k"}


def test_a_switch_takes_on_or_off_only():
    with pytest.raises(SettingsError, match="watch"):
        parsed(IndexConfig, ["--watch=perhaps"])


def test_old_names_work_and_say_what_they_are_called_now(capsys):
    assert parsed(QueryConfig, ["--no_feedback"]) == {"pseudo_relevance_feedback": False}
    assert "--pseudo_relevance_feedback now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "option", "owner"),
    [
        (["rag", "search", "x", "--port", "1"], "--port", "rag serve"),
        (["rag", "search", "x", "--ablate"], "--ablate", "rag evaluate"),
        (["rag", "search", "x", "--num_questions", "3"], "--num_questions", "rag draft-questions"),
        (["finetune", "check", "x", "--lora_r", "8"], "--lora_r", "finetune train"),
        (["asr", "serve", "--dataset", "x"], "--dataset", "asr train"),
        (["chat", "evaluate", "q", "--token", "x"], "--token", "chat serve"),
    ],
)
def test_a_command_refuses_the_settings_of_another(words, option, owner, capsys):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert f"unknown option {option}" in told
    assert owner in told


@pytest.mark.parametrize("name", tasks.names())
def test_help_shows_exactly_what_a_command_accepts(name, capsys):
    for command in tasks.get(name).commands:
        assert main([name, command, "--help"]) == 0
        shown = capsys.readouterr().out
        schema = tasks.config_class(tasks.get(name), tasks.get(name).commands[command].config)
        options = {line.split()[0] for line in shown.splitlines() if line.startswith("  --")}
        common = {"--card", "--preset", "--config", "--json", "--traceback"}
        assert options - common == {f"--{field}" for field in schema.model_fields}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["plan", "--help"],
        ["plan", "qlora", "--help"],
        ["models", "--help"],
        ["runs", "--help"],
        ["doctor", "--help"],
        ["fit", "--help"],
        ["explain-oom", "--help"],
        ["completion", "--help"],
        ["rag"],
        ["rag", "plan", "--help"],
        ["detect"],
    ],
)
def test_help_everywhere(words, capsys):
    assert main(words) == 0
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["rga"], "rag"),
        (["rag", "serach"], "search"),
        (["plan", "qlra"], "qlora"),
        (["models", "pul"], "pull"),
        (["runs", "sohw"], "show"),
    ],
)
def test_a_wrong_word_is_told_the_nearest(words, near, capsys):
    assert main(words) in (2, 6)
    assert near in capsys.readouterr().err


def test_commands_that_are_gone_say_what_to_do(capsys):
    assert main(["kinds"]) == 2
    assert "--help" in capsys.readouterr().err


def test_a_task_plans_any_of_its_commands(capsys):
    assert main(["rag", "plan", "--card", "cpu", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main(["rag", "plan", "search", "--card", "cpu", "--json"]) == 0
    search = json.loads(capsys.readouterr().out)
    assert {term["name"] for term in search["terms"]} == {"embedder", "index"}
    assert search["total_bytes"] < whole["total_bytes"]


@pytest.mark.parametrize(
    ("short", "task", "command", "values"),
    [
        ("qlora", "finetune", "train", {"load_in_4bit": True, "bf16": True}),
        ("asr", "asr", "transcribe", {}),
        ("tinylm", "tinylm", "train", {}),
    ],
)
def test_the_short_plan_and_the_command_plan_the_same(short, task, command, values):
    model = {"qlora": "llama-3.2-1b", "asr": "small"}.get(short)
    given = values | ({"model": model} if model else {})
    if short == "qlora":
        given |= {"gradient_checkpointing": True, "max_seq_length": 2048}
    one = api.plan(task, api.configure_plan(short, values=given), card="12gb")
    two = api.plan(task, api.configure(task, command, values=given), card="12gb")
    assert one.total_bytes == two.total_bytes > 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_by_one_command(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert main(["completion", shell, "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["path"]
    assert path.startswith(str(tmp_path))
    assert "_ONECARD_COMPLETE" in Path(path).read_text()


def complete(words):
    """What the shell is offered for the last of the words."""
    from click.shell_completion import ShellComplete

    *before, last = words
    app = ShellComplete(App(), {}, "onecard", "_ONECARD_COMPLETE")
    return {item.value for item in app.get_completions(before, last)}


def test_commands_and_options_are_completed():
    assert {"rag", "runs"} <= complete(["r"])
    assert "search" in complete(["rag", "se"])
    assert "--top_k" in complete(["rag", "search", "--to"])
    assert "qlora" in complete(["plan", "ql"])


def loaded(words, env=None):
    """The modules that a command line loads."""
    code = (
        "import sys; from onecard.cli.app import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print('MODULES', *sorted(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    line = next(row for row in run.stderr.splitlines() if row.startswith("MODULES"))
    return set(line.split()[1:])


HEAVY = {"numpy", "torch", "transformers", "faiss", "onnxruntime", "openai", "matplotlib", "scipy"}


def test_help_loads_neither_pydantic_nor_numpy():
    modules = loaded(["--help"])
    assert not modules & (HEAVY | {"pydantic", "rich"})
    assert sum(name.startswith("onecard") for name in modules) < 30


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "qlora", "llama-3.1-8b", "--card", "12gb"],
        ["chat", "plan", "--model", "llama3.1:8b", "--card", "4070ti"],
        ["rag", "plan", "--card", "12gb"],
        ["detect", "plan", "yolov8n", "--card", "12gb"],
    ],
)
def test_a_plan_loads_nothing_heavy(words):
    modules = loaded(words)
    assert not modules & HEAVY
    assert sum(name.startswith("onecard.tasks.") for name in modules) <= 14


def test_a_plan_of_one_task_loads_no_config_of_another():
    modules = loaded(["plan", "qlora", "llama-3.1-8b", "--card", "12gb"])
    assert "onecard.tasks.finetune.configs" in modules
    assert "onecard.tasks.asr.configs" not in modules


def test_click_errors_are_told_like_all_others(capsys):
    assert main(["models", "pull"]) == 2
    told = capsys.readouterr().err
    assert "error:" in told
    assert "why:" in told
    assert "fix:" in told


def test_errors_are_json_where_it_was_asked_for(capsys):
    assert main(["rag", "search", "--nope", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 2


def test_an_unexpected_fault_is_kept_without_its_secrets(monkeypatch, capsys, tmp_path):
    def broken(*args, **more):
        raise RuntimeError("cannot reach http://me:hunter2-hunter2@host/")

    monkeypatch.setattr("onecard.api.machine.doctor", broken)
    assert main(["doctor"]) == 1
    told = capsys.readouterr().err
    assert "hunter2" not in told
    assert "this should not happen" in told


class Nothing(Config):
    """Nothing."""


def test_a_command_without_fields_takes_no_words():
    assert parsed(Nothing, []) == {}
    with pytest.raises((SettingsError, click.ClickException)):
        parsed(Nothing, ["x"])
