"""One grammar of model names, for plan, chat, rag, finetune and all others. Downloads nothing.

llama3.1:8b   llama-3.1-8b   meta-llama/Meta-Llama-3.1-8B-Instruct   the catalog, any spelling
org/name   hf:org/name[:quant]                                       a repository of the hub
./file.gguf   ./folder   https://host/file.gguf                      a file, folder or address; a
                                               bare word that the catalog has is never a folder
ollama:name   run:ID   a name given by `onecard models import`
auto                                                                 see hub/auto.py
"""

import json
import re
import tomllib
import unicodedata
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from onecard import paths
from onecard.errors import NotFound, SettingsError, not_found
from onecard.memory.architectures import config_json, gguf_model, lm
from onecard.memory.architectures.gguf import read_model
from onecard.memory.architectures.layers import LM
from onecard.memory.architectures.model_names import canonical, spellings

MAX_NAME = 4096
"""Letters of the longest path that Linux takes (PATH_MAX)."""
MAX_FOLDER = 240
"""Bytes of a folder's name: file systems take 255, and marks are added."""
OLLAMA_URL = "http://127.0.0.1:11434"
QUANT = re.compile(
    r"(?i)(?<![a-z0-9])(iq[1-4]_[a-z]+|q[2-8]_[0-9k](?:_[sml])?|bf16|f16|f32)(?![a-z0-9])"
)


@dataclass(frozen=True)
class Model:
    """Where a model lies or will lie.

    `path` may not exist yet: then `source` says how it is pulled.
    """

    name: str
    source: Literal["file", "catalog", "hub", "ollama", "run", "address"]
    path: Path | None = None
    quant: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The catalog's row; empty for models that have none."""
    repo: str = ""
    url: str = ""
    """Base address of the server that holds it, where it is not a file."""

    @property
    def here(self) -> bool:
        return self.path is not None and self.path.exists()

    def counts(self) -> LM | None:
        """What a plan needs: from the file's header with all its parts, a folder's config.json,
        else the table of known models; None when nothing is known."""
        if self.here and self.path and self.path.is_file():
            return gguf_model.from_header(read_model(self.path), self.name)
        if self.here and self.path and (self.path / "config.json").is_file():
            return config_json.from_file(self.path / "config.json")
        names = (self.name, str(self.facts.get("base", "")), self.repo)
        return next((model for name in names if name and (model := lm.named(name))), None)

    def quants(self) -> tuple[str, ...]:
        return tuple(self.facts.get("quants", ())) or ((self.quant,) if self.quant else ())


@cache
def catalog() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8"))


def model_dir(name: str) -> Path:
    """The folder of a pulled or imported model. Letters of all scripts stay; what a file system may
    not take becomes --. Two names share no folder unless they differ in such characters only.

    >>> model_dir("小模型").name, model_dir("../org/name").name
    ('小模型', 'org--name')
    """
    safe = re.sub(r"[^\w.-]+", "--", unicodedata.normalize("NFC", name)).strip(".-")
    if not safe:
        raise SettingsError(
            f"'{name}' is no name for a model",
            why="no letter of it can stand in a folder's name",
            fix="letters, digits, '.', '_' and '-'",
        )
    if len(safe.encode("utf-8", "replace")) > MAX_FOLDER:
        raise SettingsError(
            f"'{safe[:40]}...' is too long a name for a model",
            why=f"its folder would have more than {MAX_FOLDER} bytes in its name",
            fix="a shorter --name",
        )
    return paths.models() / safe


def check_length(name: str) -> None:
    """Raises SettingsError for what is longer than any path."""
    if len(name) > MAX_NAME:
        raise SettingsError(
            f"a model's name of {len(name)} letters is none",
            why=f"paths and addresses have at most {MAX_NAME}",
            fix="--model smollm2-135m, or another of: onecard models list",
        )


def _path(name: str) -> Path | None:
    """The name as a path; None for what no file system takes."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a NUL
        return None
    return path if name else None


def local_path(name: str, known: Container[str] = ()) -> Path | None:
    """The file or folder that a name stands for; None where there is none, or where a bare word is
    the catalog's or one of `known`.

    So that a folder `base` in the working directory takes no model's name; `./base` names it.
    """
    path = _path(name)
    if path is None or not path.exists():
        return None
    is_bare = "/" not in name and not name.startswith((".", "~"))
    return None if is_bare and (name in known or in_catalog(name)) else path


def find(name: str, quant: str = "") -> Model:
    """What a name stands for: see the grammar above.

    Raises NotFound with the nearest names, SettingsError for no name.
    """
    name = name.strip()
    check_length(name)
    if not name:
        raise SettingsError(
            "no model is named",
            why="the name is empty",
            fix="--model smollm2-135m, or another of: onecard models list",
        )
    if name.startswith("run:"):
        # loads what writes runs: only a run's name needs it
        from onecard.runs import store

        return Model(name, "run", store.result_model(name[4:]))
    if name.startswith("ollama:"):
        return _ollama(name)
    if name.startswith("hf:"):
        return _hub(name, quant)
    if name.lower().startswith(("http://", "https://")):
        return _address(name, quant)
    if local := local_path(name):
        return Model(name, "file", local.resolve(), quant_of(local.name))
    is_gguf = name.lower().endswith(".gguf")
    if row := in_catalog(name):
        return _catalog(row, quant)
    if imported := _imported(name, quant):
        return imported
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name) and not is_gguf:
        return _hub(f"hf:{name}", quant)
    if "/" in name or is_gguf:
        raise NotFound(
            f"there is no model file {name}",
            why="nothing lies at that path",
            fix="check the path, or give the model's name: onecard models list",
        )
    raise not_found("model", name, known_names(), "onecard models list")


def _address(name: str, quant: str) -> Model:
    """A GGUF file behind a web address. Raises SettingsError for another form."""
    try:
        parts = urlsplit(name)
    except ValueError as fault:  # brackets that do not close
        raise SettingsError(
            f"{name} is no web address", why=str(fault), fix="https://host/file.gguf"
        ) from None
    file = Path(parts.path).name
    if not file.lower().endswith(".gguf"):
        raise SettingsError(
            f"{name} is no GGUF file",
            why="only GGUF files are taken from a web address",
            fix="the address of a .gguf file, or hf:org/name",
        )
    host = parts.hostname or "address"
    path = model_dir(f"{host}-{Path(file).stem}") / file
    return Model(name, "address", path, quant or quant_of(file))


def in_catalog(name: str) -> str:
    """The catalog's name for a model in any spelling; empty for one that is not in it.

    >>> in_catalog("meta-llama/Meta-Llama-3.1-8B-Instruct"), in_catalog("llama-3.1-8b")
    ('llama3.1:8b', 'llama3.1:8b')
    >>> in_catalog("llama3.1"), in_catalog("llama3.1:80b")
    ('llama3.1:8b', '')
    """
    if name in catalog():
        return name
    return next((_index()[key] for key in spellings(name) if key in _index()), "")


@cache
def _index() -> dict[str, str]:
    index: dict[str, str] = {}
    for name, facts in catalog().items():
        for spelling in (name, *facts.get("aliases", ())):
            index.setdefault(canonical(spelling), name)
    return index


def known_names() -> list[str]:
    """Names to suggest: of the catalog's models that talk, and of imported ones."""
    hidden = ("embed", "rerank", "speech")
    rows = [name for name, facts in catalog().items() if facts["task"] not in hidden]
    return [*rows, *imported_names()]


def find_counts(name: str) -> LM | None:
    """The model's counts where they are known without a download; None else."""
    try:
        return counts(name)
    except (NotFound, SettingsError):
        return None


def counts(name: str) -> LM:
    """What a plan needs of a model: its layers, and the bytes of its weights where a file gives
    them.

    From a folder's config.json, a GGUF's header (on disk or by HTTP range), the table of known
    models, else the config.json of a repository of the hub, where it can be reached. Raises
    NotFound for an unknown model, DataError, SettingsError.
    """
    if name.lower().startswith(("http://", "https://")):
        # loads ssl and http: 30 ms that only an address needs
        from onecard.memory.architectures.gguf_remote import read_remote

        _address(name, "")  # refuses what is no GGUF file's address
        return gguf_model.from_header(read_remote(name), name.rpartition("/")[2])
    check_length(name)
    local = local_path(name)
    if local and local.suffix == ".json" and local.is_file():
        return config_json.from_file(local)
    unknown: NotFound | None = None
    if local is None and not name.lower().endswith(".gguf"):
        try:
            return lm.find(name)
        except NotFound as fault:
            unknown = fault
    try:
        model = find(name)
        known = model.counts()
    except NotFound as fault:
        raise unknown or fault from None
    if known is None and model.source == "hub":
        # loads http: only a name that no table knows needs it
        from onecard.hub.remote_facts import repository

        return repository(model.repo, model.quant)
    if known is None:
        raise unknown or not_found("model", name, known_names())
    return known


def imported_names() -> list[str]:
    """The folders of the model store that hold a model and are not the catalog's."""
    in_catalog = {model_dir(name) for name in catalog()}
    folders = paths.models().glob("*") if paths.models().is_dir() else []
    return sorted(
        p.name
        for p in folders
        if p not in in_catalog
        and p.is_dir()
        and is_whole(p)
        and any(not f.name.startswith(".") for f in p.iterdir())
    )


INCOMPLETE = ".incomplete"
"""A file in a folder of the model store while its files come one by one."""


def is_whole(folder: Path) -> bool:
    """Whether a folder of the model store was filled to its end."""
    return not (folder / INCOMPLETE).exists()


def quant_of(file_name: str) -> str:
    """The quantization in a file's name, lower case; empty when it names none.

    >>> quant_of("SmolLM2-135M-Instruct.Q4_1.gguf"), quant_of("Llama-3.1-8B-Q4_K_M.gguf")
    ('q4_1', 'q4_k_m')
    """
    quants = QUANT.findall(file_name)
    return quants[-1].lower() if quants else ""


def _catalog(name: str, quant: str) -> Model:
    facts = catalog()[name]
    quants = facts.get("quants", [])
    if quant and quant not in quants:
        raise not_found(f"quantization of {name}", quant, quants)
    if facts["task"] == "rerank":
        return _hub(f"hf:{facts['hub']}", quant)
    if "file" not in facts:
        return Model(name, "catalog", model_dir(name), facts=facts)
    here = [q for q in quants if (model_dir(name) / file_name(facts, q)).exists()]
    if not quant and (here or len(quants) == 1):
        quant = (here or quants)[0]
    path = model_dir(name) / file_name(facts, quant) if quant else None
    return Model(name, "catalog", path, quant, facts, facts.get("hub", ""))


def file_name(facts: Mapping[str, Any], quant: str) -> str:
    return str(facts["file"]).replace("{QUANT}", quant.upper())


def _hub(name: str, quant: str) -> Model:
    repo, _, tail = name[3:].partition(":")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise SettingsError(
            f"'{name}' is no model of the hub",
            why="such a name is an owner and a repository",
            fix="hf:org/name or hf:org/name:q4_k_m",
        )
    quant = quant or tail
    folder = model_dir(f"hf:{repo}")
    files = _gguf_files(folder, quant)
    if files:
        return Model(name, "hub", files[0], quant or quant_of(files[0].name), repo=repo)
    path = folder if (folder / "config.json").exists() and is_whole(folder) else None
    return Model(name, "hub", path, quant, repo=repo)


def _gguf_files(folder: Path, quant: str) -> list[Path]:
    """The folder's GGUF files, of one quantization where it is named; not the vision half that may
    lie beside them."""
    files = sorted(path for path in folder.glob("*.gguf") if "mmproj" not in path.name.lower())
    return [path for path in files if not quant or quant_of(path.name) == quant]


def _imported(name: str, quant: str) -> Model | None:
    folder = model_dir(name)
    files = _gguf_files(folder, quant)
    if files:
        return Model(name, "file", files[0], quant_of(files[0].name))
    whole = (folder / "config.json").exists() and is_whole(folder)
    return Model(name, "file", folder) if whole else None


def _ollama(name: str) -> Model:
    """Ollama keeps a model as a manifest that names blobs by sha256; the blob of type `model` is a
    GGUF file."""
    import os

    bare, _, tag = name[7:].partition(":")
    if not re.fullmatch(r"[\w./-]+", bare) or ".." in bare:
        raise SettingsError(
            f"'{name}' is no model of Ollama",
            why="such a name has letters, digits, '.', '-', '_', '/' and one ':'",
            fix="ollama:llama3.1:8b",
        )
    root = Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")
    space = bare if "/" in bare else f"library/{bare}"
    manifest = root / "manifests" / "registry.ollama.ai" / space / (tag or "latest")
    try:
        layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        digest = next(row["digest"] for row in layers if row["mediaType"].endswith(".model"))
        path = root / "blobs" / str(digest).replace(":", "-")
        if path.exists():
            return Model(name, "ollama", path, quant_of(tag))
    except (OSError, ValueError, KeyError, StopIteration, TypeError):
        pass  # not on this disk: the server may hold it
    url = os.environ.get("OLLAMA_HOST") or OLLAMA_URL
    return Model(name, "ollama", url=url if "://" in url else f"http://{url}")
