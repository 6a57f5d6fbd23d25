"""Command-line words to a dictionary of settings, and settings to help text: flags are never
written by hand.

Knows nothing of kinds or of what a setting does.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticUndefined

from onecard import config
from onecard.errors import SettingsError, nearest

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Flag:
    """A word of the command line that is not a setting: it says how to run, not what."""

    name: str
    says: str
    takes_value: bool = True


@dataclass
class Words:
    """What was read: settings as given, the other flags, and the words that stand alone."""

    settings: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)


def parse(
    words: Sequence[str], schema: type[config.Settings], flags: Sequence[Flag], positional: str = ""
) -> Words:
    """Read the words of a verb; `--lora_r` and `--lora-r` are the same.

    Raises SettingsError with all faults at once.
    """
    fields, extra = schema.model_fields, {flag.name: flag for flag in flags}
    got, faults, rest = Words(), [], list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            got.plain += rest
            break
        if not word.startswith("--"):
            got.plain.append(word)
            continue
        name, has_value, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name in extra and not extra[name].takes_value:
            got.flags[name] = True
        elif name in fields and config.is_bool(fields[name]):
            if not has_value and rest and rest[0].lower() in (TRUE | FALSE) - {"0", "1"}:
                has_value, value = "=", rest.pop(0)
            got.settings[name] = value if has_value else True
        elif name.startswith("no_") and name[3:] in fields and config.is_bool(fields[name[3:]]):
            got.settings[name[3:]] = False
        elif name in fields or name in extra:
            if not has_value and not rest:
                faults.append(f"--{name} needs a value")
                continue
            value = value if has_value else rest.pop(0)
            if name in extra:
                got.flags[name] = value
            elif config.is_list(fields[name]):
                got.settings.setdefault(name, []).append(value)
            else:
                got.settings[name] = value
        else:
            near = nearest(name, [*fields, *extra])
            faults.append(
                f"unknown flag --{name}" + (f": did you mean --{near[0]}?" if near else "")
            )
            if not has_value and rest and not rest[0].startswith("--") and not positional:
                rest.pop(0)
    _place_plain(got, schema, positional, faults)
    if faults:
        what = (
            "the command line does not hold"
            if len(faults) == 1
            else f"{len(faults)} words of the command line do not hold"
        )
        raise SettingsError(what, why="; ".join(faults), fix="--help lists every flag")
    return got


def _place_plain(
    got: Words, schema: type[config.Settings], positional: str, faults: list[str]
) -> None:
    if not got.plain:
        return
    if not positional:
        faults.append(f"unexpected word '{got.plain[0]}'")
    elif config.is_list(schema.model_fields[positional]):
        got.settings[positional] = got.settings.get(positional, []) + got.plain
    else:
        got.settings[positional] = " ".join(got.plain)


def help_text(
    schema: type[config.Settings], flags: Sequence[Flag], names: Sequence[str] = ()
) -> str:
    """The settings, each with its default and meaning; `names` limits them."""
    rows = [
        (f"--{name}", _shape(info), info.description or "")
        for name, info in schema.model_fields.items()
        if not names or name in names
    ]
    rows += [(f"--{flag.name}", "VALUE" if flag.takes_value else "", flag.says) for flag in flags]
    out = []
    for name, shape, says in rows:
        out.append(f"  {name} {shape}".rstrip())
        out.append(textwrap.fill(says, 100, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(out)


def _shape(info: Any) -> str:
    words = config.choices(info)
    kind = (
        "|".join(words)
        if words
        else ""
        if config.is_bool(info)
        else "VALUE..."
        if config.is_list(info)
        else "VALUE"
    )
    default = "" if info.default is PydanticUndefined else _word(info.default)
    return f"{kind}  (default: {default})" if default else kind


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def as_words(values: Mapping[str, Any]) -> list[str]:
    """Settings back to the words that give them, for the `how to repeat` of a run.

    >>> as_words({"top_k": 5, "watch": True, "folders": ["a", "b c"]})
    ['--top_k', '5', '--watch', '--folders', 'a', '--folders', 'b c']
    """
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, list | tuple):
            words += [word for item in value for word in (f"--{name}", str(item))]
        else:
            words += [f"--{name}", str(value)]
    return words
