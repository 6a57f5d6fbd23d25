"""What a repository of the hub says of its model before anything is downloaded: its config.json,
the size in its safetensors index, or the header of a GGUF file by range. Some kB to some MB.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from onecard import paths
from onecard.errors import NotFound
from onecard.hub import network
from onecard.memory.architectures import config_json, gguf_model
from onecard.memory.architectures.gguf_remote import read_remote
from onecard.memory.architectures.layers import LM

INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20


def repository(repo: str, quant: str = "") -> LM:
    """The model of a repository; a config that was read once stays in the cache folder.

    Raises NotFound where the hub does not answer or has no such repository, DataError.
    """
    folder = facts_folder(repo)
    if (folder / "config.json").is_file():
        return _with_index(folder, repo)
    if not network.hub_reachable():
        raise NotFound(
            f"the counts of '{repo}' are not known here",
            why="it is in no table of this program, and the hub is out of reach",
            fix="give the model's folder, its config.json or a GGUF file of it",
        )
    # the hub's own client: it knows tokens, mirrors and proxies, and takes 0.3 s to load
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        files = huggingface_hub.list_repo_files(repo)
        if "config.json" not in files:
            return _gguf(repo, files, quant)
        for name in ("config.json", INDEX):
            if name in files:
                huggingface_hub.hf_hub_download(repo, name, local_dir=folder)
    except (HfHubHTTPError, OSError, ValueError) as fault:
        raise no_facts(repo, fault) from None
    return _with_index(folder, repo)


def facts_folder(repo: str) -> Path:
    """Where what was read of a repository stays."""
    return paths.home() / "facts" / repo.replace("/", "--")


def no_facts(repo: str, fault: Exception) -> NotFound:
    return NotFound(
        f"the hub gives no facts of '{repo}'",
        why=str(fault).strip().splitlines()[0][:200],
        fix="check the name on its page; a gated model needs its licence accepted and: "
        "hf auth login",
    )


def _with_index(folder: Path, repo: str) -> LM:
    """The config's model with the bytes that the index gives its files."""
    values = config_json.read(folder / "config.json")
    model = config_json.from_values(values, repo, folder / "config.json")
    return replace(model, stored_bytes=_index_bytes(folder / INDEX))


def _index_bytes(path: Path) -> int:
    """`total_size` of a safetensors index; 0 where it says none."""
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            return 0
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        total = values["metadata"]["total_size"]
        return int(total) if isinstance(total, int | float) and 0 < total < 1 << 50 else 0
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0


def _gguf(repo: str, files: list[str], quant: str) -> LM:
    """From the header of the file that a quantization names. Raises NotFound."""
    from huggingface_hub import hf_hub_url

    wanted = (quant or "q4_k_m").lower().replace("-", "_")
    names = sorted(
        name
        for name in files
        if name.lower().endswith(".gguf")
        and "mmproj" not in name.lower()
        and wanted in name.lower().replace("-", "_")
    )
    if not names:
        raise NotFound(
            f"'{repo}' holds no config.json and no GGUF file in {wanted}",
            why="files: " + ", ".join(files[:5]),
            fix="hf:OWNER/NAME:QUANT with a quantization that it has",
        )
    header = read_remote(hf_hub_url(repo, names[0]))
    return gguf_model.from_header(header, repo)
