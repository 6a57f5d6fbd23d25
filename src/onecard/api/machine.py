"""Models and packages of this machine."""

import importlib
from types import ModuleType

from onecard import doctor as examination
from onecard import tasks
from onecard.hub import names, store
from onecard.memory import devices
from onecard.reporting import Reporter, Result
from onecard.tasks import loading


def models() -> ModuleType:
    """The model store: listing, show, pull, import_model, remove."""
    return store


def missing_packages(task: str, command: str) -> tuple[list[str], str]:
    """What a command needs and is not installed, and how to mend it. Raises NotFound."""
    the_task = tasks.get(task)
    lacking = loading.missing(tasks.command_of(the_task, command).requires)
    return lacking, loading.missing_extra(the_task, lacking).fix if lacking else ""


def model_names() -> list[str]:
    """Catalogued models and those that lie in the store."""
    return [row["name"] for row in store.listing().data["models"]]


def card_names() -> list[str]:
    """Devices that a plan knows by name."""
    return ["auto", "cpu", *devices.named()]


def pull(name: str, quant: str = "", reporter: Reporter | None = None) -> Result:
    """Bring a model to this machine, ready to run. Raises NotFound with what was tried."""
    reporter = reporter or Reporter()
    if names.catalog().get(name, {}).get("task") == "embed":
        # loads onnx: the embedder is converted once
        folder = importlib.import_module("onecard.inference.embeddings").e5_folder(reporter)
        return Result({"name": name, "path": str(folder)}, f"{name} lies in {folder}")
    return store.pull(name, quant, reporter)


def convert(name: str, out: str, outtype: str, reporter: Reporter | None = None) -> Result:
    """A folder of safetensors to one GGUF file. Raises NotFound, DataError."""
    result = _export().convert(name, out, outtype, reporter or Reporter())
    return result  # type: ignore[no-any-return]


def quantize(name: str, out: str, quant: str, reporter: Reporter | None = None) -> Result:
    """A GGUF file in fewer bits. Raises NotFound, DataError."""
    result = _export().quantize(name, out, quant, reporter or Reporter())
    return result  # type: ignore[no-any-return]


def _export() -> ModuleType:
    """Loads numpy and gguf, which no plan needs."""
    return importlib.import_module("onecard.export.stored_models")


def doctor() -> Result:
    """What this machine has and lacks, each fault with its fix."""
    extras: dict[str, list[str]] = {}
    for task in tasks.all_tasks().values():
        extras.setdefault(task.extra or task.name, []).extend(loading.missing(task.packages))
    return examination.examine(extras)
