"""The configs of an image generator on the hub, some kB, so that it can be planned before it is
downloaded."""

import os
from pathlib import Path

from onecard.errors import NotFound
from onecard.hub import network
from onecard.hub.remote_facts import facts_folder, no_facts

INDEX = "model_index.json"
PATTERNS = [INDEX, "*/config.json"]


def _cached(repo: str) -> Path | None:
    """The newest snapshot in the cache of the hub's client, by its layout
    (https://huggingface.co/docs/huggingface_hub/guides/manage-cache); importing it takes 0.3 s."""
    cache = (
        os.environ.get("HF_HUB_CACHE")
        or Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    )
    name = f"models--{repo.replace('/', '--')}"
    indices = list((Path(cache).expanduser() / name / "snapshots").glob(f"*/{INDEX}"))
    return max(indices, key=lambda path: path.stat().st_mtime).parent if indices else None


def configs(repo: str) -> Path:
    """A folder with model_index.json and the configs of all parts; one that was read once stays in
    the cache folder. Raises NotFound where the hub has none or is out of reach."""
    folder = facts_folder(repo)
    if (folder / INDEX).is_file():
        return folder
    if cached := _cached(repo):
        return cached
    if not network.hub_reachable():
        raise NotFound(
            f"the parts of '{repo}' are not known here",
            why="it is in no table of this program, and the hub is out of reach",
            fix="give a folder in diffusers' form, or a name as sd-1.5 or sdxl",
        )
    # the hub's own client: it knows tokens, mirrors and proxies, and takes 0.3 s to load
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        huggingface_hub.snapshot_download(repo, allow_patterns=PATTERNS, local_dir=folder)
    except (HfHubHTTPError, OSError, ValueError) as fault:
        raise no_facts(repo, fault) from None
    return folder
