"""A model's name to a folder that transformers opens: config.json, safetensors and tokenizer.
Downloads where it may; knows no training.

What the catalog carries as GGUF is dequantized once and kept in the cache folder.
"""

import io
import json
import logging
import os
import re
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from onecard import paths
from onecard.errors import DataError, MissingExtra, NotFound
from onecard.hub import download, names
from onecard.reporting import Reporter
from onecard.runs import store

PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def folder(name: str, reporter: Reporter) -> Path:
    """Raises NotFound with what to do (a gated licence too), DataError for what holds no
    safetensors."""
    path = names.local_path(name)
    if path and path.is_dir():
        return _whole(path)
    if name.startswith("run:"):
        for out in store.output_folders(store.find(name[4:])):
            if (out / "merged").is_dir():
                return _whole(out / "merged")
        return _whole(store.result_model(name[4:]))
    known = names.catalog().get(name, {})
    repo = (
        name.removeprefix("hf:")
        if re.fullmatch(r"(hf:)?[\w.-]+/[\w.-]+", name)
        else str(known.get("base", ""))
    )
    if repo and not known.get("packages"):
        return _download(repo)
    model = names.find(name)
    if model.path and model.path.is_dir() and (model.path / "config.json").exists():
        return _whole(model.path)
    return _dequantized(download.pull(model, reporter), reporter)


def _whole(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise DataError(
            f"{path} is no model's folder",
            why="it has no config.json",
            fix="give a folder in Hugging Face form",
        )
    if not list(path.glob("*.safetensors")):
        raise DataError(
            f"{path} has no safetensors",
            why="weights load as safetensors only: pickled ones can run code",
            fix="save the model again with save_pretrained",
        )
    return path


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(repo, allow_patterns=PATTERNS))
    except (OSError, ValueError) as fault:
        raise refusal(
            repo, fault, "go online once, or give the folder of a model, or --model smollm2-135m"
        ) from None
    return _whole(path)


def refusal(repo: str, fault: Exception, fix: str) -> NotFound:
    """What the hub's client meant; `fix`: for a hub that is out of reach."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(fault, GatedRepoError):
        return NotFound(
            f"{repo} is gated",
            why="its owner wants its licence accepted first",
            fix=f"accept it on the page of {repo}, then: hf auth login  (or set HF_TOKEN)",
        )
    if isinstance(fault, RepositoryNotFoundError):
        return NotFound(
            f"the hub has no {repo}",
            why="no such repository, or it is private",
            fix="check the name; for a private one: hf auth login",
        )
    reason = (str(fault).strip() or type(fault).__name__).splitlines()[0][:150]
    return NotFound(
        f"{repo} is not on this machine",
        why=f"and the hub cannot be reached: {reason}",
        fix=fix,
    )


def _dequantized(gguf: Path, reporter: Reporter) -> Path:
    """safetensors in fp32 beside nothing else: made once from a GGUF file, by transformers' own
    reader."""
    target = paths.home() / "dense" / gguf.stem
    with download.locked(target, reporter):
        if (target / ".whole").exists():
            return target
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        except ModuleNotFoundError as fault:
            raise MissingExtra(
                f"opening {gguf.name} for training needs {fault.name}",
                why="it is not installed",
                fix="pip install 'onecard[finetune]'",
            ) from None
        reporter.line(f"turning {gguf.name} into safetensors, once")
        try:
            with redirect_stderr(io.StringIO()):  # its bar cannot be switched off
                model: Any = AutoModelForCausalLM.from_pretrained(
                    gguf.parent,
                    gguf_file=gguf.name,
                    quantization_config=GgufConfig(dequantize=True),
                    dtype=torch.float32,
                )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except (ValueError, KeyError, NotImplementedError) as fault:
            raise DataError(
                f"{gguf.name} cannot be opened for training",
                why=str(fault).splitlines()[0][:200],
                fix="take the model in Hugging Face form: --model org/name",
            ) from None
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        (target / ".whole").touch()
    return target


def about(path: Path) -> dict[str, Any]:
    """config.json's values; empty where there are none."""
    try:
        return dict(json.loads((path / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def quiet() -> None:
    """Before transformers is asked: no progress bars of its own, no waiting for a hub that cannot
    be reached."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("bitsandbytes", "transformers", "trl", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
