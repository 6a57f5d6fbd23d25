"""Configs: one frozen class per command, composed of mixins. Knows no task.

Values come in layers, later ones win: defaults < preset < file < command line. They are checked
once, all faults together. Secrets are `SecretStr` and never leave this process: see redaction.py.
"""

import ast
import inspect
import itertools
import os
import re
import textwrap
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr
from pydantic import ValidationError as PydanticError
from pydantic.fields import FieldInfo

from onecard.errors import NotFound, SettingsError, nearest
from onecard.redaction import SECRET_NAME, redact


class Config(BaseModel):
    """Settings.

    A field's docstring is its help on the command line, on the web page and in the reference; the
    first line of a mixin's docstring is the heading of its fields.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, protected_namespaces=()
    )


C = TypeVar("C", bound=Config)

RENAMED: dict[str, tuple[str, ...]] = {
    "model_name": ("model",),
    "batch": ("per_device_train_batch_size", "train_batch_size", "batch_size"),
    "seq": ("max_seq_length", "block_size"),
    "optimizer": ("optim",),
    "checkpointing": ("gradient_checkpointing",),
    "accumulation": ("gradient_accumulation_steps",),
    "targets": ("target_modules",),
    "format": ("quant",),
    "n_classes": ("num_classes",),
    "amp": ("bf16", "mixed_precision"),
    "cached": ("cache_latents",),
    "slicing": ("vae_slicing",),
    "tiling": ("vae_tiling",),
    "beam": ("beam_size",),
    "frozen_encoder": ("freeze_encoder",),
    "threads": ("n_threads",),
    "guards": ("hallucination_filter",),
    "edit": ("restore_punctuation",),
    "editor_model": ("punctuation_model",),
    "feedback": ("pseudo_relevance_feedback",),
    "flash_attention": ("flash_attn",),
    "experts_on_cpu": ("cpu_moe",),
    "utilization": ("gpu_memory_utilization",),
    "attention": ("attn_implementation",),
    "lora_r": ("rank",),
    "pairs": ("num_pairs",),
    "n_questions": ("num_questions",),
}
"""Names of onecard 0.1 and the names that took their place; the first one that a config has."""


@dataclass(frozen=True)
class Layer:
    """Values of one source: a preset, a file, the command line."""

    source: str
    values: Mapping[str, Any]
    shared: frozenset[str] = field(default_factory=frozenset)
    """Names that other commands of the task have: passed over here, as a file serves them all."""


def renamed(name: str, schema: type[Config]) -> str:
    """The field that `name` means, with dashes and the names of onecard 0.1 read as well.

    >>> class TrainConfig(Config):
    ...     max_seq_length: int = 1024
    >>> renamed("max-seq-length", TrainConfig), renamed("seq", TrainConfig)
    ('max_seq_length', 'max_seq_length')
    """
    plain = name.replace("-", "_")
    if plain in schema.model_fields:
        return plain
    return next((new for new in RENAMED.get(plain, ()) if new in schema.model_fields), plain)


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
            f"{path} is not valid TOML", why=str(fault), fix="see https://toml.io"
        ) from None


def load(schema: type[C], *layers: Layer) -> C:
    """Merge the layers, later ones win, and build `schema`; all faults are told at once.

    Raises SettingsError.
    """
    merged: dict[str, Any] = {}
    source: dict[str, str] = {}
    for layer in layers:
        for key, value in layer.values.items():
            name = renamed(key, schema)
            if name not in schema.model_fields and name in layer.shared:
                continue
            if name in schema.model_fields:
                value = _as_items(schema.model_fields[name], value)
            merged[name], source[name] = value, layer.source
    try:
        return schema.model_validate(merged)
    except PydanticError as fault:
        rows = [_fault(schema, error, source) for error in fault.errors()]
    if len(rows) == 1:
        what, why = f"{rows[0][0]} is not valid", rows[0][1]
    else:
        what, why = f"{len(rows)} settings are not valid", "; ".join(map(": ".join, rows))
    raise SettingsError(what, why=why, fix="--help lists every setting with what it takes")


def _fault(schema: type[Config], error: Any, source: Mapping[str, str]) -> tuple[str, str]:
    """(the setting and where it came from, what is wrong with it)."""
    name = str(error["loc"][0]) if error["loc"] else "settings"
    where = f" ({source[name]})" if source.get(name) else ""
    if error["type"] == "extra_forbidden":
        near = nearest(name, schema.model_fields)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        return f"{name}{where}", f"no setting has this name{hint}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    info = schema.model_fields.get(name)
    if error["type"] != "missing" and info is not None and not is_secret(info):
        message += f", not {error['input']!r:.80}"
    return f"{name}{where}", message


def groups(schema: type[Config]) -> dict[str, list[str]]:
    """Heading -> names of the fields, the command's own first, then each mixin's.

    A field belongs to the class that first defines it.
    """
    owner: dict[str, type] = {}
    for base in reversed(schema.__mro__):
        if isinstance(base, type) and issubclass(base, Config):
            for name in base.__annotations__ if "__annotations__" in vars(base) else ():
                owner.setdefault(name, base)
    out: dict[str, list[str]] = {}
    for base in schema.__mro__:
        own = [name for name in schema.model_fields if owner.get(name) is base]
        if own:
            out.setdefault(heading(base), []).extend(own)
    return out


def heading(schema: type) -> str:
    """What stands above the fields of a class."""
    return (inspect.getdoc(schema) or "Settings").splitlines()[0].rstrip(".:")


def describe(schema: type[Config]) -> dict[str, str]:
    """Field -> its docstring in one line, the nearest class first.

    Read from the source when it is asked for: pydantic's own reading costs every start 60 ms.
    """
    out: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if isinstance(base, type) and issubclass(base, Config):
            out |= _docstrings(base)
    return {name: out.get(name, "") for name in schema.model_fields}


@cache
def _docstrings(schema: type[Config]) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(schema)))
    except (OSError, TypeError):  # a class made in a notebook or a test has no file
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docstrings: dict[str, str] = {}
    for node, after in itertools.pairwise(body):
        match node, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                docstrings[name] = " ".join(str(text).split())
    return docstrings


def is_bool(info: FieldInfo) -> bool:
    return bool in _alternatives(info.annotation)


def is_list(info: FieldInfo) -> bool:
    return any(get_origin(kind) in (tuple, list) for kind in _alternatives(info.annotation))


class ShortName:
    """Marks the items of a list field as names: `--formats srt,json` is two of them.

    `words`: the names there are; empty where any word can be one. Texts and paths may hold commas,
    so an item without this mark is never cut.
    """

    def __init__(self, *words: str) -> None:
        self.words = words


NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A name where any word can be one: no dot, slash or dash, as files, runs and flags have."""


def short_names(info: FieldInfo) -> ShortName | None:
    """Of a list field whose items are names; None for texts and paths."""
    kinds = [kind for kind in _alternatives(info.annotation) if get_origin(kind) in (tuple, list)]
    for item in (get_args(kind)[0] for kind in kinds):
        if get_origin(item) is Literal:
            return ShortName(*map(str, get_args(item)))
        if get_origin(item) is Annotated:
            return next((mark for mark in item.__metadata__ if isinstance(mark, ShortName)), None)
    return None


def split_names(text: str) -> list[str]:
    """The names in a text, between commas or blanks; the text itself where it holds none.

    >>> split_names("srt, json"), split_names("")
    (['srt', 'json'], [''])
    """
    return [name for name in re.split(r"[,\s]+", text) if name] or [text]


def _as_items(info: FieldInfo, value: Any) -> Any:
    """A list field's value with each name on its own; every other value as it is. `--formats ""`
    on a command line is the empty list."""
    if not is_list(info):
        return value
    items = [value] if isinstance(value, str) else value
    if items in ([""], ("",)):
        return []
    if short_names(info) is None or not isinstance(items, list | tuple):
        return items
    return [
        name for item in items for name in (split_names(item) if isinstance(item, str) else [item])
    ]


def is_secret(info: FieldInfo) -> bool:
    return SecretStr in _alternatives(info.annotation)


def choices(info: FieldInfo) -> tuple[str, ...]:
    """The words that a field, or each item of its list, is limited to; empty when it is free."""
    if names := short_names(info):
        return names.words
    literals = [kind for kind in _alternatives(info.annotation) if get_origin(kind) is Literal]
    return tuple(str(word) for kind in literals for word in get_args(kind))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def absolute_path(path: str) -> str:
    """A run must find its files again from another folder."""
    return os.path.normpath(Path(path).expanduser().absolute()) if path else path


PathText = Annotated[str, AfterValidator(absolute_path)]
"""A path as text, made absolute; empty stays empty."""


def read_secret(value: Any) -> Any:
    """`env:NAME` is the value of an environment variable, `file:PATH` the first line of a file."""
    if not isinstance(value, str):
        return value
    scheme, _, rest = value.partition(":")
    if scheme == "env":
        if rest not in os.environ:
            raise ValueError(f"the environment has no variable {rest}")
        return os.environ[rest]
    if scheme == "file":
        try:
            lines = Path(rest).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as fault:
            raise ValueError(f"{rest} cannot be read: {fault}") from None
        if not lines or not lines[0].strip():
            raise ValueError(f"the first line of {rest} is empty")
        return lines[0].strip()
    return value


Secret = Annotated[SecretStr, BeforeValidator(read_secret)]
"""A token or key: `env:NAME`, `file:PATH`, or the text itself (which other users of the machine can
see in the list of processes)."""


def secrets_of(config: Config) -> tuple[str, ...]:
    """Texts that may not be written anywhere: secret fields, and the environment's tokens and keys
    (longer than 7 letters, so that no common word is blotted out)."""
    values = [
        value.get_secret_value()
        for name in type(config).model_fields
        if isinstance(value := getattr(config, name), SecretStr)
    ]
    values += [text for name, text in os.environ.items() if SECRET_NAME.search(name)]
    return tuple(sorted({text for text in values if len(text) > 7}, key=len, reverse=True))


def public_values(config: Config) -> dict[str, Any]:
    """The settings as plain values, secret fields left out and web addresses redacted."""
    secret = {name for name, info in type(config).model_fields.items() if is_secret(info)}
    values = config.model_dump(mode="json", exclude_none=True, exclude=secret)
    return {
        name: redact(value) if isinstance(value, str) else value for name, value in values.items()
    }


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line, for the `how to repeat` of a run.

    >>> as_flags({"top_k": 5, "watch": True, "folders": ["a", "b c"], "formats": []})
    ['--top_k', '5', '--watch', '--folders', 'a', '--folders', 'b c', '--formats', '']
    """
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, list | tuple):
            words += [word for item in value or [""] for word in (f"--{name}", str(item))]
        else:
            words += [f"--{name}", str(value)]
    return words
