"""Configs and plans of every task. Light: nothing is loaded, run or recorded."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from onecard import config as configs
from onecard import tasks
from onecard.config import Config, Layer
from onecard.errors import (
    DoesNotFit,
    MissingExtra,
    NotFound,
    OneCardError,
    SettingsError,
    not_found,
)
from onecard.memory import devices, fallbacks, oom
from onecard.memory.architectures.config_json import UnknownFamily
from onecard.memory.devices import Device
from onecard.memory.estimators import training
from onecard.memory.estimators.llm_inference import LLAMACPP
from onecard.memory.plan import Plan
from onecard.memory.terms import cuda_context
from onecard.reporting import Result, table
from onecard.tasks.base import PlanPreset, Task
from onecard.units import MIB, gib, size


def presets(task: str) -> list[str]:
    """The names of a task's presets."""
    return sorted(path.stem for path in _preset_dir(task).glob("*.toml"))


def preset_values(task: str, preset: str) -> dict[str, Any]:
    """The settings of a preset. Raises NotFound."""
    if preset not in presets(task):
        raise not_found(f"preset of {task}", preset, presets(task))
    return configs.read_toml(_preset_dir(task) / f"{preset}.toml")


def device(card: str = "auto") -> Device:
    """A device with what is free on it now. Raises NotFound, SettingsError."""
    return devices.find(card)


def _preset_dir(task: str) -> Path:
    return tasks.folder(tasks.get(task)) / "presets"


def configure(
    task: str,
    command: str = "",
    *,
    preset: str = "",
    file: Path | None = None,
    values: Mapping[str, Any] | None = None,
) -> Config:
    """The config of a command: defaults < preset < file < values.

    Without a command, of what `onecard TASK plan` plans. Raises SettingsError with all faults,
    NotFound.
    """
    the_task = tasks.get(task)
    if not command:
        return configure_plan(next(iter(the_task.plans)), preset=preset, file=file, values=values)
    target = tasks.command_of(the_task, command).config
    return _load(the_task, target, preset=preset, file=file, values=values)


def _load(
    task: Task,
    target: str,
    *,
    preset: str = "",
    file: Path | None = None,
    values: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """`base`: values below the preset. A preset and a file may hold values of other commands."""
    schema = tasks.config_class(task, target)
    layers = [Layer("", dict(base or {}))]
    if preset or file:
        shared = frozenset(
            name for other in tasks.configs(task).values() for name in other.model_fields
        )
        if preset:
            if preset not in presets(task.name):
                raise not_found(f"preset of {task.name}", preset, presets(task.name))
            path = _preset_dir(task.name) / f"{preset}.toml"
            layers.append(Layer(f"preset {preset}", configs.read_toml(path), shared))
        if file:
            layers.append(Layer(str(file), configs.read_toml(file), shared))
    layers.append(Layer("", dict(values or {})))
    return cast(Config, configs.load(schema, *layers))


def load_values(task: Task, target: str, values: Mapping[str, Any]) -> Config:
    """A Config of a task by its target, as 'configs:PlanConfig'. Raises SettingsError."""
    return _load(task, target, values=values)


def plans() -> dict[str, PlanPreset]:
    """Every short name of `onecard plan`."""
    return {name: row for task in tasks.all_tasks().values() for name, row in task.plans.items()}


def plan_task(name: str) -> Task:
    """The task behind a short name. Raises NotFound."""
    for task in sorted(tasks.names(), key=lambda task: not name.startswith(task)):
        if name in tasks.get(task).plans:
            return tasks.get(task)
    raise not_found("plan", name, plans(), "onecard plan --help")


def configure_plan(
    name: str,
    *,
    preset: str = "",
    file: Path | None = None,
    values: Mapping[str, Any] | None = None,
) -> Config:
    """The config behind a short name of `onecard plan`. Raises NotFound, SettingsError."""
    task = plan_task(name)
    row = task.plans[name]
    return _load(task, row.config, preset=preset, file=file, values=values, base=row.values)


def plan(task: str, config: Config, *, card: str = "auto") -> Plan:
    """What a config will need on a device: 'auto', 'cpu', '4070ti', '12gb'.

    Raises NotFound, SettingsError. An architecture that no formula knows is traced.
    """
    return plan_config(tasks.get(task), config, devices.find(card))


def plan_config(task: Task, config: Config, device: Device) -> Plan:
    """The same for a device that was found."""
    try:
        return cast(Plan, tasks.memory(task).plan(config, device))
    except UnknownFamily as fault:
        if getattr(config, "engine", "") in LLAMACPP:
            raise fault from None  # a trace of transformers' class says nothing of these
        return _traced_plan(config, device, fault)


def plan_levers(task: str, config: Config, *, card: str = "auto") -> list[dict[str, Any]]:
    """The settings that move a plan, the strongest first: name, and the change of its total (bytes)
    when a number is doubled, a switch turned or another choice taken.

    Raises what `plan` raises of the config itself; a neighbour that cannot be planned is passed
    over.
    """
    the_task, device = tasks.get(task), devices.find(card)
    base = plan_config(the_task, config, device).total_bytes
    rows = []
    for name, info in type(config).model_fields.items():
        changes = []
        for value in _neighbours(getattr(config, name), info):
            try:
                other = type(config).model_validate({**config.model_dump(), name: value})
                changes.append(plan_config(the_task, other, device).total_bytes - base)
            except (OneCardError, ValidationError, ArithmeticError):
                continue
        if changes and (largest := max(changes, key=abs)):
            rows.append({"name": name, "bytes": largest})
    return sorted(rows, key=lambda row: -abs(row["bytes"]))


def _neighbours(value: Any, info: FieldInfo) -> list[Any]:
    """Values beside a setting's own."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value * 2 or 1]
    return [word for word in configs.choices(info) if word != value]


def compare_plan(task: str, config: Config, *, card: str = "auto") -> Result:
    """The plan beside what other programs' formulas say of the same case, and for a GGUF file on
    this disk what the embedded llama.cpp itself takes on a CPU.

    Raises NotFound, SettingsError where nothing is there to compare with.
    """
    the_task, device = tasks.get(task), devices.find(card)
    memory = tasks.memory(the_task)
    rows = list(memory.peers(config, device)) if hasattr(memory, "peers") else []
    if not rows:
        raise SettingsError(
            f"no other program's estimate of {task} is known",
            why="formulas exist for GGUF files and for training language models",
            fix="onecard plan llm-infer MODEL --compare, or lora, qlora, full",
        )
    planned = plan_config(the_task, config, device)
    cells = [["onecard", size(planned.total_bytes), "1.00", ""]]
    for row in rows:
        ratio = f"{row.bytes / planned.total_bytes:.2f}"
        cells.append([row.name, size(row.bytes), ratio, f"leaves out {row.leaves_out}"])
    engine = _engine_itself(config)
    if engine:
        cells.append(["llama.cpp itself, on a CPU", size(engine), "", "loaded and asked"])
    text = f"{planned.render()}\n\n{table(cells, ['estimate', 'total', 'ratio', ''])}"
    data = planned.as_dict() | {
        "peers": [{"name": r.name, "bytes": r.bytes, "leaves_out": r.leaves_out} for r in rows],
        "engine_bytes": engine,
    }
    return Result(data, text)


def _engine_itself(config: Any) -> int:
    """Bytes of the buffers that the embedded engine makes of a file; 0 for a model that is none."""
    path = Path(str(getattr(config, "model", ""))).expanduser()
    if path.suffix.lower() != ".gguf" or not path.is_file():
        return 0
    engine = importlib.import_module("onecard.inference.llamacpp")
    with engine.LlamaCpp(path, n_ctx=config.n_ctx, n_ubatch=config.n_ubatch) as running:
        return int(sum(running.buffers().values()) * MIB)


TRACED_SETTINGS = frozenset(
    {"quant", "n_ctx", "n_parallel", "per_device_train_batch_size", "max_seq_length", "optim"}
)
"""What a traced plan reads of a config."""


def _traced_plan(config: Any, device: Device, fault: UnknownFamily) -> Plan:
    """Of an architecture that no formula knows: its real class on fake tensors.

    Raises the fault where torch is missing.
    """
    try:
        fake_tensor = importlib.import_module("onecard.memory.fake_tensor")
    except ModuleNotFoundError:
        raise fault from None
    terms, choices = fake_tensor.plan_terms(config, fault.path)
    note = f"{fault.what}: its real class was traced instead"
    return Plan((*terms, *cuda_context(device)), device, choices, (note,), TRACED_BAND)


TRACED_BAND = 0.14
"""Half-width of the band of a traced plan, as of full fine-tuning."""


def fit(task: str, config: Config, *, card: str = "auto") -> Result:
    """Change the settings, smallest loss first, until the plan fits.

    Raises NotFound, SettingsError, DoesNotFit when no change is left.
    """
    the_task, device = tasks.get(task), devices.find(card)
    memory = tasks.memory(the_task)
    only: frozenset[str] = frozenset()
    try:
        memory.plan(config, device)
    except UnknownFamily:
        only = TRACED_SETTINGS  # each plan is a trace that takes seconds

    def planner(changed: Any, on: Device) -> Plan:
        return plan_config(the_task, changed, on)

    fitted = fallbacks.fit(config, device, planner, memory.fallbacks(config), only)
    if not fitted.plan.fits:
        largest = fitted.plan.largest()
        raise DoesNotFit(
            f"{task} does not fit on {device.name}, whatever is changed",
            why=f"with every change it needs {gib(fitted.plan.total_bytes)}; the largest part is "
            f"{largest.name}, {gib(largest.bytes)}",
            fix="a smaller model, or a larger card",
        )
    lines = [row.render() for row in fitted.fallbacks]
    text = "nothing needs to change"
    if lines:
        text = "\n".join(["changes, smallest loss first:", *(f"  {line}" for line in lines)])
    data = {
        **fitted.plan.as_dict(),
        "settings": configs.public_values(fitted.config),
        "changes": [row.as_dict() for row in fitted.fallbacks],
    }
    return Result(data, f"{text}\n\n{fitted.plan.render()}")


def trace(task: str, config: Config) -> Result:
    """The plan of a training step against the real model class on fake tensors.

    Raises SettingsError for what cannot be traced, MissingExtra.
    """
    memory = tasks.memory(tasks.get(task))
    if hasattr(memory, "traced") and hasattr(config, "gradient_checkpointing"):
        lm, recipe = memory.traced(config)
        step = _heavy("fake_tensor").step(lm, recipe)
        planned = sum(term.bytes for term in training.step(lm, recipe))
        traced, static = step.peak_bytes, step.static_bytes
        error = planned / traced - 1
        text = (
            f"traced peak  {gib(traced)}  ({gib(static)} before the step)\n"
            f"planned      {gib(planned)}  ({error:+.1%}; without fragments and CUDA context)"
        )
        data = {"traced_bytes": traced, "static_bytes": static}
        return Result({**data, "planned_bytes": planned, "error": error}, text)
    if not hasattr(memory, "TRACER"):
        raise SettingsError(
            f"{task} cannot be traced",
            why="a trace runs one training step of a fine-tune, a detector, a segmenter, a "
            "classifier, a denoiser or Whisper",
            fix="onecard plan qlora MODEL --trace; llama.cpp's own buffers are printed by onecard "
            "chat -v",
        )
    try:
        tracer = _heavy(getattr(memory, "TRACE_MODULE", "fake_tensor_nets"))
        traced, planned = tracer.check(memory.TRACER, config)
    except ModuleNotFoundError as fault:
        raise _no_trace(fault, task) from None
    error = planned / traced - 1
    text = (
        f"traced peak  {gib(traced)}  ({tracer.NOTE})\n"
        f"simulated    {gib(planned)}  ({error:+.1%}; the same in the plan's simulator)"
    )
    return Result({"traced_bytes": traced, "planned_bytes": planned, "error": error}, text)


def _heavy(module: str) -> Any:
    """A module of memory/ that loads torch. Raises MissingExtra."""
    try:
        return importlib.import_module(f"onecard.memory.{module}")
    except ModuleNotFoundError as fault:
        raise _no_trace(fault, "finetune") from None


def _no_trace(fault: ModuleNotFoundError, extra: str) -> MissingExtra:
    return MissingExtra(
        f"--trace needs {fault.name}",
        why="it runs the real class of a library on fake tensors",
        fix=f"pip install 'onecard[{extra}]'",
    )


def explain_oom(
    path: Path, name: str = "", values: Mapping[str, Any] | None = None, *, card: str = "auto"
) -> Result:
    """What a traceback or a run folder tells of the memory that lacked; with a plan's short name,
    the next three things to change. Raises NotFound, DataError."""
    file = path / "traceback.txt" if path.is_dir() else path
    if not file.is_file():
        why = "nothing lies at that path"
        if path.is_dir():
            why = "a run folder that failed has a traceback.txt"
        raise NotFound(
            f"there is no {file}",
            why=why,
            fix="give a text file with the traceback, or a run's folder",
        )
    text = file.read_text(encoding="utf-8", errors="replace")
    cause = oom.read(text)
    data: dict[str, Any] = {**cause.as_dict(), "changes": []}
    parts = [cause.render()]
    if name:
        task, config = plan_task(name), configure_plan(name, values=values)
        memory = tasks.memory(task)
        if "onecard/tasks" not in text and hasattr(memory, "usual_script"):
            config = memory.usual_script(config, values or {})
        changes = memory.fallbacks(config)
        rows = fallbacks.next_changes(config, devices.find(card), memory.plan, changes)
        data["changes"] = [row.as_dict() for row in rows]
        lines = [f"  {row.render()}" for row in rows]
        parts.append("\n".join(["change next, smallest loss first:", *lines]))
    else:
        parts.append(
            "with --plan and its settings the next things to change are told with what each "
            "saves: onecard explain-oom FILE --plan qlora --model llama-3.1-8b"
        )
    return Result(data, "\n\n".join(parts))


def fit_card(card: str = "auto") -> Result:
    """What fits on this device, over all tasks."""
    device = devices.find(card)
    rows = []
    for task in tasks.all_tasks().values():
        memory = tasks.memory(task)
        for row in memory.fit_rows() if hasattr(memory, "fit_rows") else ():
            rows.append(fallbacks.largest(row, device, memory.plan))
    cells = [
        [
            row["workload"],
            row["summary"],
            row["model"] or "–",
            row.get("format") or "–",
            row["what"],
            gib(row["bytes"]) if row["bytes"] else "–",
            f"{row['tokens_per_s']:.0f}" if row.get("tokens_per_s") else "–",
        ]
        for row in rows
    ]
    head = ["plan", "what", "largest usual model", "format", "with", "needs", "tokens/s"]
    commands = "\n".join(row["command"] for row in rows if row.get("command"))
    data = {"card": device.as_dict(), "rows": rows}
    text = f"{device.render()}\n\n{table(cells, head)}\n\neach row's plan:\n{commands}"
    return Result(data, text)
