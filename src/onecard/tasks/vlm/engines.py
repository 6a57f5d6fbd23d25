"""Opens the engine of the settings. The heavy ones are loaded only where they are needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onecard.hub import checkpoints
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.tasks.vlm.configs import AnswerModelConfig
from onecard.tasks.vlm.engine import Engine


def kind_of(config: AnswerModelConfig) -> str:
    """`server`, `llama.cpp` or `transformers`."""
    if config.base_url:
        return "server"
    if config.engine != "auto":
        return config.engine
    is_gguf = config.mmproj or Path(config.model).suffix == ".gguf"
    return "llama.cpp" if is_gguf else "transformers"


@contextmanager
def open_engine(config: AnswerModelConfig, plan: Plan, reporter: Reporter) -> Iterator[Engine]:
    """A model that is ready; what was started for it ends with the block.

    Raises NotFound, DataError, EngineError, SettingsError, MissingExtra.
    """
    if kind_of(config) == "transformers":
        checkpoints.quiet()
        reporter.line("loading torch")
        # torch takes seconds to load, and the other engines do without
        from onecard.tasks.vlm import engine_transformers

        with engine_transformers.opened(config, plan, reporter) as engine:
            yield engine
        return
    from onecard.tasks.vlm import engine_http  # the openai client takes half a second

    with engine_http.opened(config, plan, reporter) as engine:
        yield engine
