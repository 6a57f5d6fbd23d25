"""List settings on the command line: the three ways to write one mean the same for every command,
and nothing else is taken for an item. Made from the Configs: a new list field is tested too."""

import pytest

from onecard import config, tasks
from onecard.cli.options import ConfigCommand
from onecard.config import Config, Layer
from onecard.errors import SettingsError
from onecard.tasks.asr.configs import TranscribeConfig
from onecard.tasks.finetune.configs import TrainConfig

SCHEMAS = {
    (name, row.config): (tasks.config_class(tasks.get(name), row.config), row.positional)
    for name in tasks.names()
    for row in tasks.get(name).commands.values()
}
LISTS = [
    pytest.param(schema, positional, field, id=f"{task} {target.partition(':')[2]} {field}")
    for (task, target), (schema, positional) in SCHEMAS.items()
    for field, info in schema.model_fields.items()
    if config.is_list(info)
]


def values(schema, words, positional=""):
    """The settings that a command line makes."""
    got = {}
    command = ConfigCommand(
        "x", lambda: schema, lambda chosen, flags: got.update(chosen), positional=positional
    )
    command.main(list(words), standalone_mode=False)
    return config.load(schema, Layer("command line", got))


def items_of(info):
    """Two items that the field takes."""
    names = config.short_names(info)
    if names is None:
        return ["first", "second"]
    return list(names.words[:2]) or ["q_proj", "v_proj"]


def free_text(schema):
    """The name of a setting that takes any text."""
    return next(
        name
        for name, info in schema.model_fields.items()
        if info.annotation is str and not info.metadata  # a path is made whole
    )


@pytest.mark.parametrize(("schema", "positional", "field"), LISTS)
def test_items_follow_the_flag_or_repeat_it(schema, positional, field):
    a, b = items_of(schema.model_fields[field])
    repeated = values(schema, [f"--{field}", a, f"--{field}", b], positional)
    assert len(getattr(repeated, field)) == 2
    assert values(schema, [f"--{field}", a, b], positional) == repeated


@pytest.mark.parametrize(("schema", "positional", "field"), LISTS)
def test_names_are_cut_at_commas_and_texts_and_paths_are_not(schema, positional, field):
    info = schema.model_fields[field]
    a, b = items_of(info)
    together = getattr(values(schema, [f"--{field}", f"{a},{b}"], positional), field)
    if config.short_names(info):
        assert together == (a, b)
    else:
        assert len(together) == 1 and together[0].endswith(f"{a},{b}")


@pytest.mark.parametrize(("schema", "positional", "field"), LISTS)
def test_a_flag_behind_a_list_is_no_item(schema, positional, field):
    a, b = items_of(schema.model_fields[field])
    other = free_text(schema)
    read = values(schema, [f"--{field}", a, b, f"--{other}", "text"], positional)
    assert (len(getattr(read, field)), getattr(read, other)) == (2, "text")


@pytest.mark.parametrize(("schema", "positional", "field"), LISTS)
def test_a_flag_in_the_place_of_the_first_item_is_refused(schema, positional, field):
    other = free_text(schema)
    with pytest.raises(SettingsError) as fault:
        values(schema, [f"--{field}", f"--{other}", "text"], positional)
    assert f"--{field} needs a value" in fault.value.why


@pytest.mark.parametrize(
    ("schema", "positional", "field"),
    [
        row
        for row in LISTS
        if row.values[1] and row.values[1] != row.values[2] and "enroll" not in str(row.id)
    ],
)
@pytest.mark.parametrize("word", ["notes.txt", "folder/book", "run:last", "here"])
def test_the_commands_own_word_behind_a_list_is_no_item(
    schema, positional, field, word, tmp_path, monkeypatch
):
    """A file or folder that exists, a path, or a run's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    a, b = items_of(schema.model_fields[field])
    read = values(schema, [f"--{field}", a, b, word], positional)
    assert len(getattr(read, field)) == 2
    own = getattr(read, positional)
    assert word in (own if isinstance(own, str) else own[0])


def test_pairs_with_commas_stay_whole():
    words = ["--columns", "prompt=a,b", "completion=c d", "pairs.jsonl"]
    read = values(TrainConfig, words, "dataset")
    assert (read.columns, read.dataset) == (("prompt=a,b", "completion=c d"), "pairs.jsonl")


def test_a_word_that_is_no_name_of_the_list_is_the_commands_own():
    read = values(TranscribeConfig, ["--formats", "srt", "json", "talk"], "audio")
    assert (read.formats, read.audio) == (("srt", "json"), ("talk",))


def test_a_settings_file_may_write_a_list_as_one_text():
    read = config.load(TranscribeConfig, Layer("x.toml", {"formats": "srt, json", "audio": "a,b"}))
    assert (read.formats, read.audio) == (("srt", "json"), ("a,b",))


def test_the_help_shows_the_names_of_a_list():
    names = config.choices(TranscribeConfig.model_fields["formats"])
    assert names == ("txt", "srt", "vtt", "tsv", "json", "rttm")


class _Unmarked(Config):
    words: tuple[str, ...] = ()


def test_a_list_of_texts_in_a_command_without_words_takes_all_up_to_a_flag():
    assert values(_Unmarked, ["--words", "Node.js", "a,b"]).words == ("Node.js", "a,b")


def test_the_words_of_quants_are_those_that_can_be_made():
    gguf_types = pytest.importorskip("onecard.tasks.tinylm.export").QUANTS
    from onecard.export import quantize
    from onecard.tasks.finetune import configs as finetune
    from onecard.tasks.tinylm import configs as tinylm

    assert set(tinylm.QUANTS) == set(gguf_types)
    assert set(finetune.QUANTS) == set(quantize.MIXTURES)
