"""One settings object per run: defaults < preset < file < command line, checked once, then frozen.

Knows no kind.
"""

import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from onecard.errors import NotFound, SettingsError, nearest


class Settings(BaseModel):
    """What one may choose for a kind; a field's docstring is its help, its web hint and its line in
    the reference."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


S = TypeVar("S", bound=Settings)
Layer = tuple[str, Mapping[str, Any]]
"""Where the values come from, in words, and the values."""


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a settings file. Raises NotFound and SettingsError with the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"there is no settings file {path}",
            why="nothing lies at that path",
            fix="give an existing TOML file to --config",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as fault:
        raise SettingsError(
            f"{path} does not read as TOML", why=str(fault), fix="see https://toml.io"
        ) from None


def load(schema: type[S], *layers: Layer) -> S:
    """Merge the layers, later ones win, and build `schema`; all faults are told at once.

    Raises SettingsError.
    """
    merged: dict[str, Any] = {}
    source: dict[str, str] = {}
    for where, values in layers:
        for key, value in values.items():
            name = key.replace("-", "_")
            merged[name], source[name] = value, where
    try:
        return schema.model_validate(merged)
    except ValidationError as fault:
        rows = [_row(schema, error, source) for error in fault.errors()]
    head = f"{rows[0][0]} does not hold" if len(rows) == 1 else f"{len(rows)} settings do not hold"
    raise SettingsError(
        head,
        why=rows[0][1] if len(rows) == 1 else "; ".join(map(": ".join, rows)),
        fix="--help lists every setting with what it takes",
    )


def _row(schema: type[Settings], error: Any, source: Mapping[str, str]) -> tuple[str, str]:
    """The setting with where it came from, and what is wrong with it."""
    name = str(error["loc"][0]) if error["loc"] else "settings"
    where = f" ({source[name]})" if source.get(name) else ""
    if error["type"] == "extra_forbidden":
        near = nearest(name, schema.model_fields)
        return f"{name}{where}", "no setting has this name" + (
            f": did you mean {' or '.join(near)}?" if near else ""
        )
    said = error["msg"].removeprefix("Value error, ")
    given = repr(error["input"])
    return f"{name}{where}", said[0].lower() + said[1:] + (
        f", not {given[:80]}" if error["type"] != "missing" else ""
    )


def is_bool(info: FieldInfo) -> bool:
    return bool in _alternatives(info.annotation)


def is_list(info: FieldInfo) -> bool:
    return any(get_origin(kind) in (tuple, list) for kind in _alternatives(info.annotation))


def choices(info: FieldInfo) -> tuple[str, ...]:
    """The words a field is limited to; empty when it is free."""
    return tuple(
        str(w)
        for kind in _alternatives(info.annotation)
        if get_origin(kind) is Literal
        for w in get_args(kind)
    )


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)
