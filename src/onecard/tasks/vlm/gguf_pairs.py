"""The two files that llama.cpp reads a model from: its language model and its mmproj."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onecard.errors import DataError, NotFound, SettingsError
from onecard.hub import download, names, network
from onecard.inference.config import AUTO
from onecard.memory.architectures import mmproj
from onecard.reporting import Reporter
from onecard.tasks.vlm.configs import AnswerModelConfig

PREFERRED = ("f16", "bf16", "f32", "q8_0", "")
"""Types of an mmproj file, the first one that is there: the vision half is small, and it loses more
by quantization than the language model does."""


@dataclass(frozen=True)
class Pair:
    language: Path
    vision: Path | None
    """None where there is none: the model reads text only."""


def find(config: AnswerModelConfig, reporter: Reporter) -> Pair:
    """Downloads what is not here yet. Raises NotFound, DataError, SettingsError."""
    if config.model == AUTO:
        raise SettingsError(
            "no model is named for llama.cpp",
            why="which one fits the device is chosen for transformers only",
            fix="--model FILE.gguf or org/name-GGUF, with its mmproj file beside it",
        )
    model = names.find(config.model, config.quant)
    # a link is not followed: in the hub's cache the files lie together as links only
    local = names.local_path(config.model.strip())
    language = _language_file(local or download.pull(model, reporter))
    if config.mmproj:
        vision = Path(config.mmproj).expanduser()
        if not vision.is_file():
            raise NotFound(
                f"there is no mmproj file {config.mmproj}",
                why="nothing lies at that path",
                fix="check the path, or leave it out where the file lies beside the model's",
            )
        mmproj.check_pair(language, vision)
        return Pair(language, vision)
    language = language.absolute()
    beside = _files_of(language.parent.glob("*.gguf"))
    if not beside and model.source == "hub":
        return Pair(language, _downloaded(model, language, reporter))
    return Pair(language, _fitting(language, beside))


def _language_file(path: Path) -> Path:
    """The GGUF file of a folder; what llama.cpp splits is named by its first part."""
    if path.is_file():
        return path
    vision = set(_files_of(path.glob("*.gguf")))
    files = sorted(file for file in path.glob("*.gguf") if file not in vision)
    if not files:
        raise DataError(
            f"{path} holds no GGUF file",
            why="llama.cpp reads GGUF only",
            fix="--engine transformers, or a GGUF of the model",
        )
    return files[0]


def _files_of(files: Iterable[Path]) -> list[Path]:
    """Those that are vision halves by their names, the best type first."""
    halves = [file for file in files if "mmproj" in file.name.lower()]
    return sorted(halves, key=lambda file: (_rank(file.name), file.name))


def _rank(name: str) -> int:
    quant = names.quant_of(name)
    return PREFERRED.index(quant) if quant in PREFERRED else len(PREFERRED)


def _fitting(language: Path, files: list[Path]) -> Path | None:
    """The one that belongs to the language model. Raises DataError where there are files, and none
    of them does, or several models' do."""
    fitting, fault = [], None
    for file in files:
        try:
            mmproj.check_pair(language, file)
            fitting.append(file)
        except DataError as error:
            fault = fault or error
    if fault and not fitting:
        raise fault
    # several types of one model's vision half differ in the type alone
    if len({_without_type(file.name) for file in fitting}) > 1:
        shown = ", ".join(file.name for file in fitting[:4])
        raise DataError(
            f"which mmproj file belongs to {language.name} is not clear",
            why=f"beside it lie {shown}",
            fix="--mmproj with one of them",
        )
    return fitting[0] if fitting else None


def _without_type(name: str) -> str:
    return re.sub(r"[-_.]+", "", names.QUANT.sub("", name.lower()))


def _downloaded(model: names.Model, language: Path, reporter: Reporter) -> Path | None:
    """The vision half of the same repository; None where it has none."""
    if not network.hub_reachable():
        raise NotFound(
            f"the mmproj file of {model.name} is not on this machine",
            why="the hub cannot be reached",
            fix=f"put it beside {language}, or name it with --mmproj",
        )
    import huggingface_hub  # half a second, for a download only
    from huggingface_hub.errors import HfHubHTTPError

    try:
        listed = [Path(name) for name in huggingface_hub.list_repo_files(model.repo)]
    except (HfHubHTTPError, OSError) as fault:
        raise NotFound(
            f"the files of {model.repo} cannot be listed",
            why=str(fault).splitlines()[0][:300],
            fix="run the same command again, or name the file with --mmproj",
        ) from None
    files = _files_of(name for name in listed if name.suffix == ".gguf")
    if not files:
        return None
    with download.locked(language.parent, reporter):
        path = download.download(model.repo, files[0].as_posix(), language.parent, reporter)
    mmproj.check_pair(language, path)
    return path
