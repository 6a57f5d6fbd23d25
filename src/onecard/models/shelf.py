"""The models on this machine: list, show, pull, import, remove, and the way to GGUF and to fewer bits. Knows no engine."""

import shutil
from pathlib import Path
from typing import Any

from onecard import places
from onecard.errors import DataError, NotFound, SettingsError
from onecard.memory.gguf import read_header
from onecard.models import convert, fetch, resolve
from onecard.runs.record import fingerprint
from onecard.screen import Answer, Screen, table
from onecard.units import size


def listing() -> Answer:
    """Every model of the catalog and every one that lies here."""
    rows: list[dict[str, Any]] = []
    for name, facts in resolve.catalog().items():
        files = _files(resolve.shelf(name))
        rows.append({"name": name, "task": facts["task"], "here": bool(files), "bytes": sum(p.stat().st_size for p in files),
                     "license": facts["license"], "says": facts["says"]})
    for name in resolve.imported_names():
        files = _files(places.models() / name)
        rows.append({"name": name, "task": "", "here": True, "bytes": sum(p.stat().st_size for p in files), "license": "", "says": "imported"})
    cells = [[r["name"], r["task"], size(r["bytes"]) if r["here"] else "–", r["license"], r["says"]] for r in rows]
    return Answer({"models": rows}, table(cells, ["name", "task", "on disk", "licence", "what"]))


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")] if folder.is_dir() else []


def show(name: str) -> Answer:
    """What is known of one model; a GGUF's header is read. Raises NotFound."""
    model = resolve.find(name)
    data: dict[str, Any] = {"name": name, "source": model.source, "here": model.here, "path": str(model.path or ""), "url": model.url, **model.facts}
    if model.here and model.path and model.path.suffix == ".gguf":
        header = read_header(model.path)
        counts = model.counts()
        data |= {"architecture": header.architecture, "bytes": model.path.stat().st_size, "weight_bytes": header.data_bytes,
                 "tensors": len(header.tensors), "has_chat_template": header.has_chat_template, "max_tokens": header.number("context_length"),
                 "n_params": counts[0].n_params if counts else 0}
    return Answer(data, "\n".join(f"{key:18} {value}" for key, value in data.items() if value not in ("", None)))


def pull(name: str, quant: str, screen: Screen) -> Answer:
    """Bring a model here. Raises NotFound with what was tried."""
    model = resolve.find(name, quant)
    if model.source == "catalog" and not model.path:
        model = resolve.find(name, "q4_k_m" if "q4_k_m" in model.quants() else model.quants()[0])
    path = fetch.pull(model, screen)
    return Answer({"name": name, "path": str(path)}, f"{name} lies in {path}")


def take_in(file: str, name: str, screen: Screen) -> Answer:
    """Copy a GGUF file or a folder of safetensors onto the shelf under a name. Raises DataError for anything else."""
    source = Path(file).expanduser()
    if not source.exists():
        raise NotFound(f"there is no file {file}", why="nothing lies at that path", fix="give the path of a .gguf file or a folder with config.json and .safetensors")
    name = name or source.stem
    if name in resolve.catalog():
        raise SettingsError(f"'{name}' is a name of the catalog", why="a model of your own would hide it", fix="--name another")
    target = resolve.shelf(name)
    with fetch.locked(target, screen):
        if source.is_file():
            read_header(source)
            with places.whole_file(target / source.name) as draft:
                shutil.copyfile(source, draft)
        elif (source / "config.json").exists() and list(source.glob("*.safetensors")):
            for path in sorted(source.iterdir()):
                if path.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja"):
                    with places.whole_file(target / path.name) as draft:
                        shutil.copyfile(path, draft)
        else:
            raise DataError(f"{file} holds no model", why="weights load as .gguf or .safetensors only: pickled ones can run code", fix="convert it to safetensors first")
    return Answer({"name": name, "path": str(target)}, f"imported as {name}: onecard chat --model {name}")


def remove(name: str, screen: Screen) -> Answer:
    """Delete a model's folder from the shelf; never a file of the user's own. Raises NotFound."""
    target = resolve.shelf(name)
    if not target.is_dir():
        raise NotFound(f"no model {name} lies here", why=f"{target} is no folder", fix="onecard models list")
    freed = sum(path.stat().st_size for path in _files(target))
    with fetch.locked(target, screen):
        shutil.rmtree(target)
    return Answer({"name": name, "freed_bytes": freed}, f"removed {name}: {size(freed)} freed")


def to_gguf(name: str, out: str, outtype: str, screen: Screen) -> Answer:
    """A folder of safetensors to one GGUF file. Raises DataError with the converter's last lines."""
    model = resolve.find(name)
    path = fetch.pull(model, screen)
    target = Path(out) if out else resolve.shelf(path.name) / f"{path.name}-{outtype.upper()}.gguf"
    convert.to_gguf(path, target, outtype, screen)
    return Answer({"path": str(target), "sha256": fingerprint(target)}, f"wrote {target} ({size(target.stat().st_size)})")


def quantize(name: str, out: str, quant: str, screen: Screen) -> Answer:
    """A GGUF file to fewer bits. Raises DataError, NotFound."""
    from onecard.models import quantize as quantize_file  # loads numpy and gguf, which no plan needs

    path = fetch.pull(resolve.find(name), screen)
    if path.suffix != ".gguf" and path.is_dir():
        raise DataError(f"{name} is not a GGUF file", why="only GGUF files are quantized", fix=f"onecard models convert {name}")
    stem = resolve.QUANT.sub("", path.stem).rstrip(".-_")
    target = Path(out) if out else resolve.shelf(stem) / f"{stem}-{quant.upper()}.gguf"
    quantize_file.quantize(path, target, quant, screen)
    return Answer({"path": str(target), "sha256": fingerprint(target), "bytes": target.stat().st_size},
                  f"wrote {target} ({size(path.stat().st_size)} -> {size(target.stat().st_size)})")
