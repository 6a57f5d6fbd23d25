"""A Config's fields as click options: flags are never written by hand. Knows no task.

`--lora_r` and `--lora-r` are the same, `--watch`, `--no_watch`, `--watch=off` too. A list is
written `--formats srt json`, `--formats srt,json` or with the flag repeated. All faults of a
command line are told at once, with the nearest name.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic_core import PydanticUndefined

from onecard import config as configs
from onecard.cli.help_format import HelpContext
from onecard.config import Config
from onecard.errors import SettingsError, nearest
from onecard.i18n import gettext

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
WORDS = "_words"
"""Name of the click argument that takes the words without a flag."""


class ConfigOption(click.Option):
    """One field of a Config. Values stay text: pydantic reads them, all faults together."""

    def __init__(self, name: str, info: Any, heading: str) -> None:
        self.heading = heading
        self.is_switch, self.is_list = configs.is_bool(info), configs.is_list(info)
        dashed = name.replace("_", "-")
        names = [f"--{name}"] if dashed == name else [f"--{name}", f"--{dashed}"]
        if self.is_switch:
            # " /--no-x" is click's form of one more name for the off switch
            pairs = [f"--{name}/--no_{name}", f" /--no-{name}"]
            if dashed != name:
                pairs = [f"--{name}/--no_{name}", f"--{dashed}/--no-{dashed}"]
            super().__init__([*pairs, name], default=None)
        else:
            super().__init__([*names, name], multiple=self.is_list, default=None)
        self.names = configs.short_names(info)
        self.metavar_text = self._metavar(info)

    def _metavar(self, info: Any) -> str:
        words = configs.choices(info)
        shape = "|".join(words) if words else "VALUE"
        if self.is_switch:
            shape = ""
        elif self.is_list:
            shape += "..."
        default = "" if info.default is PydanticUndefined else _word(info.default)
        if configs.is_secret(info):
            default = ""
        note = gettext("(default: {value})").format(value=default)
        return f"{shape}  {note}".strip() if default else shape

    def takes(self, word: str, first: str, *, positional: bool) -> bool:
        """Is `word` one more item of this list, whose first item is `first`?

        `positional`: the command takes words of its own, so that a word that may be a file, a run
        or a sentence is left to it.
        """
        if word.startswith("-"):
            return False
        names = configs.split_names(word)
        if self.names and self.names.words:
            return all(name.lower() in self.names.words for name in names)
        if self.names and not all(configs.NAME.fullmatch(name) for name in names):
            return False
        is_pair = re.match(r"\w+=", word) is not None
        if is_pair or re.match(r"\w+=", first):  # prompt=question: pairs follow pairs
            return is_pair
        return not positional or not (_PATH_LIKE.search(word) or Path(word).exists())


_PATH_LIKE = re.compile(r"[/\\*?:]|\.\w{1,5}$")
"""Of a word that is a file, a pattern of files, an address or a run's name."""


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return str(value).encode("unicode_escape").decode()


def config_options(schema: type[Config]) -> list[click.Parameter]:
    """The options of every field, in the order of the mixins' groups."""
    return [
        ConfigOption(name, schema.model_fields[name], heading)
        for heading, names in configs.groups(schema).items()
        for name in names
    ]


class ConfigCommand(click.Command):
    """A command whose options are a Config's fields, made when it is asked for.

    `run(values, flags)` is called with what was given: field -> text, and the other options.
    """

    context_class = HelpContext

    def __init__(
        self,
        name: str,
        schema: Callable[[], type[Config]],
        run: Callable[[dict[str, Any], dict[str, Any]], None],
        *,
        help: str = "",
        positional: str = "",
        metavar: str = "",
        flags: Sequence[click.Parameter] = (),
        elsewhere: Callable[[str], str] | None = None,
    ) -> None:
        self._schema, self._run, self._flags = schema, run, list(flags)
        self._positional, self._metavar = positional, metavar or f"{positional.upper()}..."
        self._elsewhere = elsewhere or (lambda name: "")
        self._made = False
        super().__init__(name, callback=self._call, help=help, short_help=help)

    def _make(self) -> None:
        if self._made:
            return
        self._made = True
        self.params = [*config_options(self._schema()), *self._flags]
        if self._positional:
            self.params.append(click.Argument([WORDS], nargs=-1, metavar=self._metavar))

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        self._make()
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises SettingsError with every unknown flag and missing value."""
        self._make()
        return super().parse_args(ctx, self._normalize(args))

    def _normalize(self, args: list[str]) -> list[str]:
        """Old names to new ones, `--watch=off` and `--watch off` to `--no_watch`."""
        options = self._options()
        schema, faults, out = self._schema(), [], []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            if word == "--":
                out += [word, *rest]
                break
            if not word.startswith("--"):
                out.append(word)
                continue
            name, has_value, value = word.partition("=")
            if name not in options:
                field = configs.renamed(name[2:], schema)
                negated = configs.renamed(name[5:], schema) if name[:5] in _NO else ""
                if field in schema.model_fields:
                    _note(name, field)
                    name = f"--{field}"
                elif negated in schema.model_fields:
                    _note(f"--{name[5:]}", negated)
                    name = f"--no_{negated}"
                else:
                    faults.append(self._unknown(name))
                    value_follows = not has_value and rest and not rest[0].startswith("-")
                    if value_follows and not self._positional:
                        rest.pop(0)
                    continue
            option = options.get(name) or options[f"--{name[5:]}"]
            if _takes_no_value(option):
                out.append(_switch(name, option, has_value, value, rest))
            elif has_value:
                out += [name, value]
            elif not rest or (_is_list(option) and rest[0].partition("=")[0] in options):
                faults.append(f"{name} needs a value")
            elif isinstance(option, ConfigOption) and option.is_list:
                out += self._list_items(name, option, rest)
            else:
                out += [name, rest.pop(0)]
        if not self._positional:
            words = [word for word in _words(out, options) if word]
            faults += [f"unexpected word '{word}'" for word in words[:1]]
        if faults:
            what = f"{len(faults)} words of the command line are not understood"
            if len(faults) == 1:
                what = "the command line is not understood"
            raise SettingsError(what, why="; ".join(faults), fix="--help lists every option")
        return out

    def _list_items(self, name: str, option: ConfigOption, rest: list[str]) -> list[str]:
        """`--formats srt json` as the flag repeated; what is no item stays in `rest`."""
        first = rest.pop(0)
        out = [name, first]
        if option.name == self._positional:  # its words are joined with the flag's anyway
            return out
        while rest and option.takes(rest[0], first, positional=bool(self._positional)):
            out += [name, rest.pop(0)]
        return out

    def _options(self) -> dict[str, click.Option]:
        rows = [param for param in self.params if isinstance(param, click.Option)]
        help_option = click.Option(["--help", "-h"], is_flag=True)
        return {
            name: row for row in [*rows, help_option] for name in [*row.opts, *row.secondary_opts]
        }

    def _unknown(self, name: str) -> str:
        plain = name[2:].replace("-", "_")
        names = (plain, *configs.RENAMED.get(plain, ()))
        where = next((owner for each in names if (owner := self._elsewhere(each))), "")
        if where:
            return f"unknown option {name}: it belongs to {where}"
        known = [*self._schema().model_fields, *(flag.name or "" for flag in self._flags)]
        near = nearest(plain, known)
        return f"unknown option {name}" + (f": did you mean --{near[0]}?" if near else "")

    def _call(self, **values: Any) -> None:
        words = list(values.pop(WORDS, ()) or ())
        flags = {param.name: values.pop(param.name, None) for param in self._flags if param.name}
        schema = self._schema()
        chosen = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None and value != () and name in schema.model_fields
        }
        if words and self._positional:
            if configs.is_list(schema.model_fields[self._positional]):
                chosen[self._positional] = [*chosen.get(self._positional, []), *words]
            else:
                chosen[self._positional] = " ".join(words)
        self._run(chosen, flags)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options under the headings of their mixins."""
        # read from the source: only a help text pays for it
        help_of = configs.describe(self._schema())
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, ConfigOption):
                left = f"--{param.name} {param.metavar_text}".strip()
                groups.setdefault(param.heading, []).append((left, help_of[param.name or ""]))
            elif isinstance(param, click.Option):
                row = param.get_help_record(ctx)
                if row:
                    groups.setdefault("Command line", []).append(row)
        for heading, rows in groups.items():
            with formatter.section(heading):
                for left, help in rows:
                    formatter.write_text(left)
                    formatter.indent()
                    formatter.indent()
                    formatter.write_text(help)
                    formatter.dedent()
                    formatter.dedent()


_NO = ("--no-", "--no_")


def _is_list(option: click.Option) -> bool:
    return isinstance(option, ConfigOption) and option.is_list


def _takes_no_value(option: click.Option) -> bool:
    return option.is_flag or bool(option.secondary_opts) or option.count


def _switch(name: str, option: click.Option, has_value: str, value: str, rest: list[str]) -> str:
    """The switch as one word. `--watch off` takes the next word only where it is no number."""
    words = (TRUE | FALSE) - {"0", "1"} if isinstance(option, ConfigOption) else set()
    if not has_value and rest and rest[0].lower() in words:
        has_value, value = "=", rest.pop(0)
    if not has_value:
        return name
    if value.lower() in TRUE:
        return name
    if value.lower() in FALSE and isinstance(option, ConfigOption):
        return f"--no_{option.name}"
    raise SettingsError(
        f"{name}={value} is not valid",
        why="a switch takes on or off",
        fix=f"{name}, --no_{option.name}, {name}=on or {name}=off",
    )


def _words(out: Iterable[str], options: dict[str, click.Option]) -> list[str]:
    """The words that no option takes."""
    words: list[str] = []
    rest = list(out)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return words + rest
        option = options.get(word)
        if option is None and not word.startswith("-"):
            words.append(word)
        elif option is not None and not _takes_no_value(option) and rest:
            rest.pop(0)
    return words


def _note(old: str, new: str) -> None:
    """A name of onecard 0.1 still works, and says what it is called now."""
    if old[2:].replace("-", "_") != new:
        note = gettext("note: {old} is called --{new} now").format(old=old, new=new)
        click.echo(note, err=True)
