"""A decoder language model by name, folder or config: the table of known models, and what a name
that is not in it is told.

models.jsonl is written by scripts/model_facts.py from configs whose counted weights equal the
published ones.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from onecard.errors import NotFound, nearest
from onecard.memory.architectures import config_json
from onecard.memory.architectures.layers import LM
from onecard.memory.architectures.model_names import canonical, spellings

USUAL = (
    "smollm2-135m",
    "qwen3-0.6b",
    "llama-3.2-1b",
    "qwen3-1.7b",
    "llama-3.2-3b",
    "qwen3-4b",
    "llama-3.1-8b",
    "gemma-3-12b",
    "qwen3-14b",
    "gpt-oss-20b",
    "gemma-3-27b",
    "qwen3-30b-a3b",
    "qwen3-32b",
    "llama-3.3-70b",
)
"""What `onecard fit` tries, smallest first: the models that people use."""


MAX_NAME = 200
"""Letters of the longest name that is looked up: repositories of the hub have at most 96 each side.
"""


@cache
def configs() -> dict[str, dict[str, Any]]:
    """Canonical name -> config of every known model."""
    text = Path(__file__).with_name("models.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return {name: row["config"] for row in rows for name in row["names"]}


@cache
def named(name: str) -> LM | None:
    """The model of the table with this name, in any spelling; None for an unknown one.

    >>> named("Qwen/Qwen2.5-1.5B-Instruct").L, named("meta-llama/Llama-3.1-8B").G
    (28, 8)
    >>> named("llama-3.1-80b"), named("gpt2-xxl")
    (None, None)
    """
    if len(name) > MAX_NAME or name.startswith(("/", ".", "~")) or "\\" in name:
        return None  # a path is no name
    known = configs()
    key = next((key for key in spellings(name) if key in known), None)
    return None if key is None else config_json.from_values(known[key], key)


def find(name: str) -> LM:
    """By name, or a folder with a config.json, or that file.

    Raises NotFound with the nearest names and how to give a config.
    """
    path = Path(name)
    try:
        here = path.suffix == ".json" or (path / "config.json").is_file()
    except (OSError, ValueError):  # longer than a file's name may be, or with a NUL
        here = False
    if here:
        return config_json.from_file(path if path.suffix == ".json" else path / "config.json")
    known = named(name)
    if known is None:
        near = nearest(canonical(name), set(configs()))
        raise NotFound(
            f"no config of a model '{name}' is known",
            why="it is not in the table of known models, and no folder of that name has a "
            "config.json",
            fix=(f"did you mean {' or '.join(near)}? Else give" if near else "give")
            + " the model's folder, its config.json or a GGUF file",
        )
    return known
