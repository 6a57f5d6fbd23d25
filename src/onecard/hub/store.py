"""The model store: list, show, pull, import, remove models on this machine. Knows no engine."""

import shutil
from pathlib import Path
from typing import Any

from onecard import fsio, paths
from onecard.errors import DataError, NotFound, SettingsError
from onecard.hub import download, names
from onecard.memory import formats
from onecard.memory.architectures.gguf import read_header
from onecard.reporting import Reporter, Result, table
from onecard.units import size


def listing() -> Result:
    """Every model of the catalog and every one that lies here; what killed processes left
    half-written is removed."""
    for folder in paths.models().glob("*/"):
        fsio.remove_dead_drafts(folder)
    rows: list[dict[str, Any]] = []
    for name, facts in names.catalog().items():
        files = _files(names.model_dir(name))
        rows.append(
            {
                "name": name,
                "task": facts["task"],
                "here": bool(files) and names.find(name).here,
                "bytes": sum(p.stat().st_size for p in files),
                "license": facts["license"],
                "summary": facts["summary"],
            }
        )
    for name in names.imported_names():
        files = _files(paths.models() / name)
        rows.append(
            {
                "name": name,
                "task": "",
                "here": True,
                "bytes": sum(p.stat().st_size for p in files),
                "license": "",
                "summary": "imported",
            }
        )
    cells = [
        [
            row["name"],
            row["task"],
            size(row["bytes"]) if row["here"] else "–",
            row["license"],
            row["summary"],
        ]
        for row in rows
    ]
    drawn = table(cells, ["name", "task", "on disk", "licence", "what"])
    return Result({"models": rows}, drawn, (drawn,))


def _files(folder: Path) -> list[Path]:
    return (
        [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
        if folder.is_dir()
        else []
    )


def show(name: str) -> Result:
    """What is known of one model: licence, context, sizes by quantization; a GGUF's header is read.

    Raises NotFound.
    """
    model = names.find(name)
    data: dict[str, Any] = {
        "name": name,
        "source": model.source,
        "here": model.here,
        "path": str(model.path or ""),
        "url": model.url,
        **model.facts,
    }
    counts = model.counts()
    if counts:
        data["n_params"] = counts.n_params
        data["max_tokens"] = counts.max_tokens
        data["sizes"] = sizes_by_quant(model)
    if model.here and model.path and model.path.suffix == ".gguf":
        header = read_header(model.path)
        data |= {
            "architecture": header.architecture,
            "bytes": model.path.stat().st_size,
            "weight_bytes": header.data_bytes,
            "tensors": len(header.tensors),
            "has_chat_template": header.has_chat_template,
            "max_tokens": header.number("context_length"),
        }
    lines = []
    for key, value in data.items():
        if key == "sizes":
            value = ", ".join(f"{quant} {size(n)}" for quant, n in value.items())
        if value not in ("", None):
            lines.append(f"{key:18} {value}")
    return Result(data, "\n".join(lines))


def sizes_by_quant(model: names.Model) -> dict[str, int]:
    """Quantization -> bytes of the weights, by the model's counts; empty where they are unknown."""
    counts = model.counts()
    if not counts:
        return {}
    return {
        quant: round(formats.gguf(counts, quant).total)
        for quant in model.quants()
        if quant in formats.MIXTURES
    }


def pull(name: str, quant: str, reporter: Reporter) -> Result:
    """Bring a model here. Raises NotFound with what was tried."""
    model = names.find(name, quant)
    if model.source == "catalog" and not model.path:
        model = names.find(name, "q4_k_m" if "q4_k_m" in model.quants() else model.quants()[0])
    path = download.pull(model, reporter)
    return Result({"name": name, "path": str(path)}, f"{name} lies in {path}")


def import_model(file: str, name: str, reporter: Reporter) -> Result:
    """Copy a GGUF file or a folder of safetensors into the model store under a name.

    Raises DataError for anything else.
    """
    source = Path(file).expanduser()
    if not source.exists():
        raise NotFound(
            f"there is no file {file}",
            why="nothing lies at that path",
            fix="give the path of a .gguf file or a folder with config.json and .safetensors",
        )
    name = name or source.stem
    if name in names.catalog():
        raise SettingsError(
            f"'{name}' is a name of the catalog",
            why="a model of your own would hide it",
            fix="--name another",
        )
    target = names.model_dir(name)
    with download.locked(target, reporter):
        _refuse_other_model(target, source, name)
        if source.is_file():
            read_header(source)
            with fsio.atomic_write(target / source.name) as draft:
                shutil.copyfile(source, draft)
        elif (source / "config.json").exists() and list(source.glob("*.safetensors")):
            with download.filling(target):
                for path in sorted(source.iterdir()):
                    if path.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja"):
                        with fsio.atomic_write(target / path.name) as draft:
                            shutil.copyfile(path, draft)
        else:
            raise DataError(
                f"{file} holds no model",
                why="weights load as .gguf or .safetensors only: pickled ones can run code",
                fix="convert it to safetensors first",
            )
    return Result(
        {"name": name, "path": str(target)}, f"imported as {name}: onecard chat --model {name}"
    )


def _refuse_other_model(target: Path, source: Path, name: str) -> None:
    """Raises SettingsError where another model lies under the name."""
    others = [path for path in _files(target) if path.suffix in (".gguf", ".safetensors")]
    for path in others:
        same = source if source.is_file() else source / path.name
        if not same.is_file() or same.stat().st_size != path.stat().st_size:
            raise SettingsError(
                f"a model named {name} is here already",
                why=f"{path} is another one",
                fix=f"--name another, or first: onecard models remove {name}",
            )


def remove(name: str, reporter: Reporter) -> Result:
    """Delete a model's folder from the model store; never a file of the user's own.

    Raises NotFound.
    """
    target = names.model_dir(name)
    if not target.is_dir():
        raise NotFound(
            f"no model {name} lies here", why=f"{target} is no folder", fix="onecard models list"
        )
    freed = sum(path.stat().st_size for path in _files(target))
    with download.locked(target, reporter):
        shutil.rmtree(target)
    return Result({"name": name, "freed_bytes": freed}, f"removed {name}: {size(freed)} freed")
