"""Opens the language model of the settings: the embedded engine, Ollama or an OpenAI server."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onecard.errors import DataError, EngineError
from onecard.hub import download, names
from onecard.inference import llamacpp, ollama
from onecard.inference.client import Client
from onecard.inference.config import AUTO, EngineConfig, LlmConfig
from onecard.inference.planning import model_of, resolve_auto
from onecard.memory.plan import Plan
from onecard.reporting import Reporter


@contextmanager
def language_model(
    config: LlmConfig,
    plan: Plan,
    reporter: Reporter,
    *,
    n_parallel: int = 1,
    tell: bool = True,
) -> Iterator[Client]:
    """A client of the model; an engine that was started for it ends with the block.

    `tell` writes a line with the model, its layers and threads. Raises NotFound, EngineError,
    DataError.
    """
    if config.base_url:
        yield served(config.base_url, config.api_key_env, config.model, config)
        return
    config, _ = resolve_auto(config, plan.device, check_hub=True)
    model = names.find(config.model, config.quant)
    if model.url:
        name = config.model.removeprefix("ollama:")
        ollama.ensure_model(model.url, name, reporter)
        yield Client(f"{model.url}/v1", "ollama", name, config)
        return
    chosen = model_of(config, plan.device) or model
    path = download.pull(chosen, reporter)
    with embedded(path, config, plan, reporter, n_parallel=n_parallel, name=config.model) as engine:
        if tell:
            reporter.line(f"{config.model} {chosen.quant}".strip() + f": {engine.placement()}")
        if warning := llamacpp.unused_gpu_warning(engine.devices):
            reporter.warn(warning)
        yield Client(engine.base_url, engine.api_key, engine.name, config, engine)


def embedded(
    path: Path,
    config: EngineConfig,
    plan: Plan,
    reporter: Reporter,
    *,
    n_parallel: int = 1,
    name: str = "",
    **vision: Any,
) -> llamacpp.LlamaCpp:
    """The embedded engine on a GGUF file, with the plan's number of layers on the GPU. `vision`:
    LlamaCpp's own arguments for a model that sees.

    Raises DataError for a file of another format.
    """
    if path.suffix != ".gguf":
        gguf = sorted(path.glob("*.gguf")) if path.is_dir() else []
        if not gguf:
            raise DataError(
                f"{path.name} is no GGUF file",
                why="the embedded engine reads GGUF only",
                fix=f"onecard models convert {path}",
            )
        path = gguf[0]
    layers = int(plan.choices.get("n_gpu_layers", 0)) if plan.device.real else 0
    return llamacpp.LlamaCpp(
        path,
        n_ctx=config.n_ctx * n_parallel,
        n_gpu_layers=layers,
        n_threads=config.n_threads,
        n_ubatch=config.n_ubatch,
        n_parallel=n_parallel,
        kv_type=config.kv_type,
        reporter=reporter,
        name=name,
        **vision,
    )


def served(
    base_url: str, api_key_env: str, model: str, config: LlmConfig, flag: str = "--model"
) -> Client:
    """A client of a server; without a name, or with "auto", of the first model that it lists.

    `flag`: the setting that names one. Raises EngineError for a server that lists none.
    """
    url, key = base_url.rstrip("/"), os.environ.get(api_key_env, "")
    client = Client(url, key, model, config)
    if model in ("", AUTO):
        models = client.models()
        if not models:
            raise EngineError(
                f"{base_url} serves no model",
                why="its list of models is empty",
                fix=f"load one there, or name it with {flag}",
            )
        client.model = models[0]
    return client
