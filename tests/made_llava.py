"""A LLaVA as GGUF pair: the embedded language model with a tower and a projector of random weights,
and commands of vlm in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from onecard.export import mmproj
from onecard.hub import download, names
from onecard.reporting import Reporter

SIDE, PATCH, WIDTH, LAYERS = 64, 16, 96, 3
TOKENS = (SIDE // PATCH) ** 2
LM_WIDTH = 576
"""Of SmolLM2-135M."""
CONFIG = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "image_size": SIDE,
    "patch_size": PATCH,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}
PIXELS = mmproj.Preprocessing("crop", SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def tower(seed=0, width=WIDTH, ffn=2 * WIDTH, layers=LAYERS, class_token=False):
    """The state of a SiglipVisionModel, or with a class token of a CLIPVisionModel."""
    dice = np.random.default_rng(seed)

    def random(*shape, scale=0.12):
        return (dice.standard_normal(shape) * scale).astype(np.float32)

    state = {
        "embeddings.patch_embedding.weight": random(width, 3, PATCH, PATCH, scale=0.05),
        "embeddings.position_embedding.weight": random(TOKENS + class_token, width),
    }
    if class_token:
        state["embeddings.class_embedding"] = random(width)
        state["pre_layrnorm.weight"] = np.ones(width, np.float32)
        state["pre_layrnorm.bias"] = random(width)
    else:
        state["embeddings.patch_embedding.bias"] = random(width)
    for i in range(layers):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state[f"encoder.layers.{i}.self_attn.{name}.weight"] = random(width, width)
            state[f"encoder.layers.{i}.self_attn.{name}.bias"] = random(width)
        for name, shape in (("fc1", (ffn, width)), ("fc2", (width, ffn))):
            state[f"encoder.layers.{i}.mlp.{name}.weight"] = random(*shape)
            state[f"encoder.layers.{i}.mlp.{name}.bias"] = random(shape[0])
        for name in ("layer_norm1", "layer_norm2"):
            state[f"encoder.layers.{i}.{name}.weight"] = 1 + random(width)
            state[f"encoder.layers.{i}.{name}.bias"] = random(width)
    return state


def projector(seed=1, width=WIDTH, out=LM_WIDTH, n_layers=1):
    dice = np.random.default_rng(seed)
    return {
        "linear_1.weight": (dice.standard_normal((out, n_layers * width)) * 0.05).astype("f4"),
        "linear_1.bias": (dice.standard_normal(out) * 0.05).astype("f4"),
        "linear_2.weight": (dice.standard_normal((out, out)) * 0.05).astype("f4"),
        "linear_2.bias": (dice.standard_normal(out) * 0.05).astype("f4"),
    }


def language_file():
    """SmolLM2-135M as GGUF, from the tests' cache."""
    return download.pull(names.find("smollm2-135m"), Reporter())


def write_pair(folder: Path, **changed) -> Path:
    """model.gguf with mmproj-f16.gguf beside it; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    language = folder / "model.gguf"
    language.symlink_to(language_file())
    write_vision(folder / "mmproj-f16.gguf", **changed)
    return language


def write_vision(path: Path, *, out=LM_WIDTH, layers=(-1,), outtype="f16") -> Path:
    mmproj.write_clip_llava(
        CONFIG,
        tower(),
        projector(out=out, n_layers=len(layers)),
        PIXELS,
        path,
        layers=layers,
        outtype=outtype,
    )
    return path


PROGRAM = """
import json, sys
from onecard.errors import OneCardError
from onecard.memory import devices
from onecard.memory.plan import Plan
from onecard.reporting import TerminalReporter
from onecard.runs.record import Run
from onecard.tasks.vlm import {command}, configs
config = configs.{command_title}Config(**json.loads(sys.argv[1]))
try:
    run = Run(None, TerminalReporter(), Plan((), devices.find("cpu")))
    result = {command}.{command}(config, run)
    print("\\nRESULT " + json.dumps(result.data))
except OneCardError as fault:
    print(f"error: {fault}", file=sys.stderr)
    sys.exit(fault.code)
"""


def words_of(command, **values):
    """A command line that runs `vlm COMMAND` without its plan."""
    program = PROGRAM.replace("{command_title}", command.title()).replace("{command}", command)
    return [sys.executable, "-c", program, json.dumps(values)]


def run(command, *, stdin="", cwd=None, **values):
    """(exit code, data of its result or None, stdout, stderr)."""
    process = subprocess.run(
        words_of(command, **values),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )
    assert "Traceback" not in process.stderr, process.stderr
    answer, _, result = process.stdout.partition("\nRESULT ")
    return process.returncode, json.loads(result) if result else None, answer, process.stderr
