"""The counts of a vision-language model by what a setting names: the table, a repository of the
hub, a folder, a config.json, or a training. Light; no weight is read."""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onecard.errors import DataError, NotFound, SettingsError
from onecard.hub import names, network, remote_facts
from onecard.memory.architectures import config_json, vlm, vlms
from onecard.memory.architectures.vlm import VLM, Tower
from onecard.runs import store
from onecard.tasks.vlm.configs import ProjectorConfig
from onecard.tasks.vlm.model_names import repository_of

REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
TOWERS = {
    "openai/clip-vit-base-patch32": (Tower(768, 12, 12, 3072, 32), 224),
    "openai/clip-vit-base-patch16": (Tower(768, 12, 12, 3072, 16), 224),
    "openai/clip-vit-large-patch14": (vlms.CLIP_L, 224),
    "openai/clip-vit-large-patch14-336": (vlms.CLIP_L, 336),
    "google/siglip-base-patch16-224": (vlms.SIGLIP_B, 224),
    "google/siglip-so400m-patch14-384": (vlms.SO400M, 384),
}
"""Vision towers of the hub: their counts, and the side of a picture (px)."""


@dataclass(frozen=True)
class Known:
    name: str
    model: VLM
    adapter_bytes: int = 0
    """Of an adapter's file beside the model's weights."""


def find(name: str) -> Known:
    """Raises NotFound, DataError, SettingsError for no name."""
    name = name.strip()
    names.check_length(name)
    if not name:
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="onecard plan vlm qwen2.5-vl-3b",
        )
    if name.startswith("run:"):
        return _of_run(name.removeprefix("run:"))
    path = names.local_path(name)
    if path and path.is_dir() and (path / "adapter_config.json").is_file():
        return _of_adapter(path)
    if path:
        model = vlms.find(str(path))
        return Known(model.name, model)
    repo = name.removeprefix("hf:")
    try:
        model = vlms.named(repo)
        return Known(model.name, model)
    except NotFound:
        if not REPO.fullmatch(repo) or vlms.why_not(repo):
            raise
    return Known(repo, _of_hub(repo))


def _of_run(run_id: str) -> Known:
    for out in store.output_folders(store.find(run_id)):
        if (out / "model" / "config.json").is_file():
            model = vlms.find(str(out / "model"))
            return Known(f"run:{run_id}", model)
        if (out / "adapter" / "adapter_config.json").is_file():
            return replace(_of_adapter(out / "adapter"), name=f"run:{run_id}")
    raise NotFound(
        f"run {run_id} holds no vision-language model",
        why="neither model/ nor adapter/ is in its folder: the training did not end",
        fix="onecard runs list  shows the finished ones",
    )


def _of_adapter(folder: Path) -> Known:
    """The base that an adapter names, and the adapter's own weights."""
    base: dict[str, Any] = {}
    for file in ("base.json", "adapter_config.json"):
        try:
            values = json.loads((folder / file).read_text(encoding="utf-8"))
            base |= values if isinstance(values, dict) else {}
        except (OSError, ValueError):
            continue
    wanted = [base.get("folder"), base.get("model"), base.get("base_model_name_or_path")]
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    for name in (str(value) for value in wanted if value):
        if Path(name).is_absolute() and not (Path(name) / "config.json").is_file():
            continue
        return replace(find(name), adapter_bytes=size)
    raise DataError(
        f"{folder} does not say what it is an adapter of",
        why="its base lies at no path that is here, and has no name",
        fix="give the base's folder as --model",
    )


def _of_hub(repo: str) -> VLM:
    """By its config.json, some kB, which is read once. Raises NotFound, DataError."""
    folder = next((f for f in _folders(repo) if (f / "config.json").is_file()), None)
    if folder is None:
        folder = remote_facts.facts_folder(repo)
        if not network.hub_reachable():
            raise NotFound(
                f"the counts of '{repo}' are not known here",
                why="it is in no table of this program, and the hub is out of reach",
                fix="give the model's folder or its config.json",
            )
        # the hub's own client: it knows tokens, mirrors and proxies, and takes 0.3 s to load
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError

        try:
            huggingface_hub.hf_hub_download(repo, "config.json", local_dir=folder)
        except (HfHubHTTPError, OSError, ValueError) as fault:
            raise remote_facts.no_facts(repo, fault) from None
    file = folder / "config.json"
    return vlm.from_values(config_json.read(file), repo, file)


def _folders(repo: str) -> list[Path]:
    """Where a repository's files lie, if they do: this program's store, the cache of the hub's
    client (https://huggingface.co/docs/huggingface_hub/guides/manage-cache), facts read before."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    snapshots = cache / f"models--{repo.replace('/', '--')}" / "snapshots"
    newest = sorted(snapshots.glob("*"), key=lambda path: path.name)
    return [names.model_dir(f"hf:{repo}"), *newest, remote_facts.facts_folder(repo)]


def is_here(name: str) -> bool:
    """Whether the weights of a model of the table lie on this machine."""
    repo = repository_of(name)
    return bool(repo) and any(
        (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
        for folder in _folders(repo)[:-1]
    )


# A tower and a language model that are joined


def joined(config: ProjectorConfig) -> VLM:
    """LLaVA's form of the two. Raises NotFound, DataError."""
    tower, side, has_class_token = _tower(config.vision_model)
    words = names.counts(config.model)
    family = "llava" if has_class_token else "llava-siglip"
    tokens = max((side // tower.patch) ** 2, 1)
    model = VLM(f"{words.name} that sees", tower, words, 0, side, tokens, family=family)
    places = tokens * tower.D
    return replace(model, beside=tower.n_params + places + model.projector)


def _tower(name: str) -> tuple[Tower, int, bool]:
    """(counts, side of a picture, whether it is CLIP's)."""
    repo = name.removeprefix("hf:")
    path = names.local_path(name)
    if path is None and repo in TOWERS:
        tower, side = TOWERS[repo]
        return tower, side, "clip" in repo
    if path is None:
        path = next((f for f in _folders(repo) if (f / "config.json").is_file()), None)
    if path is None:
        raise NotFound(
            f"the vision tower '{name[:80]}' is not known here",
            why="no folder of that name lies here, and it is not in the table",
            fix=f"--vision_model with a folder, or one of: {', '.join(TOWERS)}",
        )
    file = path if path.is_file() else path / "config.json"
    values = config_json.read(file)
    inner = values.get("vision_config")
    part = inner if isinstance(inner, dict) and inner else values
    family = str(part.get("model_type") or values.get("model_type") or "")
    if not family.startswith(("clip", "siglip")):
        raise DataError(
            f"{path.name} is no vision tower that can be joined",
            why=f"its model_type is '{family[:60]}'",
            fix="a CLIP or SigLIP vision model, as openai/clip-vit-large-patch14-336",
        )
    is_clip = family.startswith("clip")
    usual = Tower(768, 12, 12, 3072, 32 if is_clip else 16)
    tower, side = vlm.tower_of(part, usual, file)
    return tower, side or 224, is_clip
