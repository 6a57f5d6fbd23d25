"""The one door for command line, web page and notebook: configure, plan, run, runs, compare.

Prints nothing.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onecard import config, paths, tasks
from onecard import doctor as doctor_module
from onecard.errors import DoesNotFit, MissingExtra, NotFound, SettingsError, not_found
from onecard.hub import names
from onecard.hub import store as models
from onecard.memory import (
    calibration,
    devices,
    fallbacks,
    formats,
    oom,
    truth,
    workloads,
    workloads_nets,
)
from onecard.memory.architectures import lm
from onecard.memory.estimators import training
from onecard.memory.plan import Plan, Term
from onecard.reporting import Reporter, Result, table
from onecard.runs import record, store
from onecard.tasks.base import Task
from onecard.units import gib, size


def presets(kind: str) -> list[str]:
    """The names of a kind's presets."""
    return sorted(path.stem for path in _preset_folder(kind).glob("*.toml"))


def _preset_folder(kind: str) -> Path:
    return Path(tasks.__path__[0]) / tasks.get(kind).name / "presets"


def configure(
    kind: str,
    *,
    preset: str = "",
    file: Path | None = None,
    values: Mapping[str, Any] | None = None,
) -> config.Settings:
    """The settings of a kind: defaults < preset < file < values.

    Raises SettingsError with all faults, NotFound.
    """
    layers: list[config.Layer] = []
    if preset:
        if preset not in presets(kind):
            raise not_found(f"preset of {kind}", preset, presets(kind))
        layers.append(
            (f"preset {preset}", config.read_toml(_preset_folder(kind) / f"{preset}.toml"))
        )
    if file:
        layers.append((str(file), config.read_toml(file)))
    layers.append(("", dict(values or {})))
    return config.load(tasks.get(kind).settings, *layers)


def plan(kind: str, settings: config.Settings, *, card: str = "auto") -> Plan:
    """What it will need on a card: 'auto', 'cpu', '4070ti', '12gb'."""
    return tasks.get(kind).plan(settings, devices.find(card))


def _workload_settings(name: str, values: Mapping[str, Any], file: Path | None = None) -> Any:
    layers: list[config.Layer] = [(str(file), config.read_toml(file))] if file else []
    return config.load(workloads.get(name).settings, *layers, ("", dict(values)))


def plan_workload(
    name: str, values: Mapping[str, Any], *, card: str = "auto", file: Path | None = None
) -> Plan:
    """What a workload will need, whether or not its kind exists yet.

    Raises NotFound, SettingsError.
    """
    settings = _workload_settings(name, values, file)
    try:
        return workloads.get(name).plan(settings, devices.find(card))
    except lm.UnknownFamily as fault:
        return _traced_plan(name, settings, devices.find(card), fault)


TRACED_KNOBS = frozenset({"format", "batch", "seq", "n_ctx", "optimizer"})
"""What a traced plan reads of the settings."""


def _traced_plan(name: str, settings: Any, device: devices.Device, fault: lm.UnknownFamily) -> Plan:
    """Of an architecture that no formula knows: its real class on fake tensors.

    Raises the fault where torch is missing.
    """
    try:
        room = importlib.import_module("onecard.memory.fake_tensor")
    except ModuleNotFoundError:
        raise fault from None
    method = "infer" if name == "llm-infer" else name
    form = settings.format or ("nf4-dq" if name == "qlora" else "bf16")
    each = formats.PLAIN.get(form) or formats.LINEAR.get(form)
    if each is None:
        raise SettingsError(
            f"the format '{form}' cannot be traced",
            why=f"{fault.what}, so that only plain formats and quantized linear layers can be "
            "counted",
            fix="--format bf16, --format nf4 or --format int8",
        )
    batch, tokens = settings.batch, settings.n_ctx if method == "infer" else settings.seq
    n_params, held, passing = room.of_config(fault.path, method, batch, tokens, each)
    terms = [
        Term("weights", held, f"{n_params / 1e9:.2f}e9 in {form}"),
        Term(
            "one pass",
            passing,
            f"traced: {batch} x {tokens} tokens"
            + (
                ""
                if method == "infer"
                else ", forward and back" + (", without adapters" if method != "full" else "")
            ),
        ),
    ]
    if method == "full":
        terms.append(
            Term(
                "optimizer",
                round(n_params * training.OPTIMIZER[settings.optimizer][1]),
                settings.optimizer,
            )
        )
    return Plan(
        (*terms, *workloads_nets.context(device)),
        device,
        {"model": fault.path.parent.name},
        (f"{fault.what}: its real class was traced instead",),
        0.12,
    )


def fit_workload(
    name: str, values: Mapping[str, Any], *, card: str = "auto", file: Path | None = None
) -> Result:
    """Change the settings, smallest loss first, until the plan fits.

    Raises NotFound, SettingsError, DoesNotFit when no rung is left.
    """
    settings = _workload_settings(name, values, file)
    held = devices.find(card)
    try:
        changed, made, rungs = fallbacks.fit(name, settings, held)
    except lm.UnknownFamily as fault:
        unknown = fault
        changed, made, rungs = fallbacks.fit(
            name, settings, held, lambda s, on: _traced_plan(name, s, on, unknown), TRACED_KNOBS
        )
    if not made.fits:
        largest = made.largest()
        raise DoesNotFit(
            f"{name} does not fit on {made.device.name}, whatever is changed",
            why=f"with every rung taken it needs {gib(made.total_bytes)}; the largest part is "
            f"{largest.name}, {gib(largest.bytes)}",
            fix="a smaller model, or a larger card",
        )
    words = (
        "nothing needs to change"
        if not rungs
        else "\n".join(["changes, smallest loss first:", *(f"  {rung.render()}" for rung in rungs)])
    )
    data = {
        **made.as_dict(),
        "settings": changed.model_dump(mode="json"),
        "changes": [
            {"changes": r.changes, "saved_bytes": r.saved_bytes, "cost": r.cost} for r in rungs
        ],
    }
    return Result(data, f"{words}\n\n{made.render()}")


def trace_workload(name: str, values: Mapping[str, Any]) -> Result:
    """The plan of a training step held against the real model class on fake tensors.

    Raises SettingsError for what cannot be traced, MissingExtra.
    """
    settings = _workload_settings(name, values)
    if name in NETS_TRACED:
        return _trace_net(name, settings)
    if not isinstance(settings, workloads.TuneSettings):
        raise SettingsError(
            f"{name} cannot be traced",
            why="a trace runs one training step of lora, qlora, full, detect, segment, classify, "
            "diffusion or asr",
            fix="onecard plan qlora MODEL --trace; llama.cpp's own buffers are printed by onecard "
            "chat",
        )
    if (
        settings.optimizer != "adamw"
        or settings.loss != "upcast"
        or settings.rest_fp32
        or settings.zero
    ):
        raise SettingsError(
            "these settings cannot be traced",
            why="the trace knows AdamW, the model's own loss and one card, with embeddings in the "
            "model's type",
            fix="leave --optimizer, --loss, --rest_fp32 and --zero out",
        )
    recipe = workloads.recipe_of(name, settings)  # type: ignore[arg-type]
    model = lm.find(settings.model)
    traced = _heavy("trace").step(model, recipe)
    planned = sum(term.bytes for term in training.step(model, recipe))
    error = planned / traced.peak_bytes - 1
    words = (
        f"traced peak  {gib(traced.peak_bytes)}  ({gib(traced.static_bytes)} before the "
        f"step)\nplanned      {gib(planned)}  ({error:+.1%}; without fragments and CUDA context)"
    )
    return Result(
        {
            "traced_bytes": traced.peak_bytes,
            "static_bytes": traced.static_bytes,
            "planned_bytes": planned,
            "error": error,
        },
        words,
    )


NETS_TRACED = ("detect", "segment", "classify", "diffusion", "asr")


def _heavy(room: str) -> Any:
    """A room of memory/ that loads torch. Raises MissingExtra."""
    try:
        return importlib.import_module(f"onecard.memory.{room}")
    except ModuleNotFoundError as fault:
        raise MissingExtra(
            f"--trace needs {fault.name}",
            why="it runs the real model class on fake tensors",
            fix="pip install 'onecard[finetune]'",
        ) from None


def _trace_net(name: str, settings: Any) -> Result:
    room = _heavy("trace_nets")
    try:
        traced, planned = (
            room.check_speech(settings) if name == "asr" else room.check(name, settings)
        )
    except ModuleNotFoundError as fault:
        raise MissingExtra(
            f"--trace needs {fault.name}",
            why="it runs the real class of that library on fake tensors",
            fix=f"pip install 'onecard[{name}]'",
        ) from None
    error = planned / traced - 1
    words = (
        f"traced peak  {gib(traced)}  (one pass forward and back of the real class in fp32, "
        f"weights not counted)\ncounted      {gib(planned)}  ({error:+.1%}; what the plan's tape "
        "counts for the same pass)"
    )
    return Result({"traced_bytes": traced, "planned_bytes": planned, "error": error}, words)


def plan_check() -> Result:
    """Planned against measured peak of every past run that kept both: the driver's figure on a
    card, else the program's resident memory."""
    rows = _measured_runs()
    cells = [
        [
            row["id"],
            row["kind"],
            row["verb"],
            row["card"],
            size(row["planned_bytes"]),
            size(row["measured_bytes"]),
            f"{row['error']:+.0%}",
        ]
        for row in rows
    ]
    words = (
        table(cells, ["run", "kind", "verb", "card", "planned", "measured", "error"])
        + "\nmeasured on a CPU: the largest process's resident memory, Python and its libraries "
        "included; onecard plan --calibrate learns them"
        if rows
        else f"no run in {paths.runs()} kept both figures yet"
    )
    return Result({"rows": rows}, words)


def _measured_runs() -> list[dict[str, Any]]:
    rows = []
    for past in store.recent(1000):
        memory = record.read_json(past.folder / "memory.json")
        made = record.read_json(past.folder / "plan.json")
        measured = memory.get("device_bytes") or memory.get("peak_rss_bytes", 0)
        if past.status == "done" and memory.get("planned_bytes") and measured:
            figures = {key: value for key, value in memory.items() if key.endswith("_bytes")}
            rows.append(
                {
                    "id": past.id,
                    "kind": str(past.about.get("kind")),
                    "verb": str(past.about.get("verb")),
                    "card": str(made.get("card", {}).get("name", "")),
                    **figures,
                    "measured_bytes": measured,
                    "error": memory["planned_bytes"] / measured - 1,
                }
            )
    return rows


def plan_calibrate() -> Result:
    """Learn each card's own constants from the runs on it; later plans use them and their band
    narrows."""
    rows = _measured_runs()
    if not rows:
        raise NotFound(
            "there is no run to learn from",
            why=f"no finished run in {paths.runs()} kept planned and measured bytes",
            fix="run something first: onecard rag index FOLDER",
        )
    learned = calibration.learn(rows)
    calibration.save(learned)
    cells = [
        [
            device,
            str(facts["runs"]),
            *(
                size(facts[key]) if key in facts else "–"
                for key in ("context_bytes", "program_bytes")
            ),
            f"{facts['segments']:.1%}" if "segments" in facts else "–",
            ", ".join(f"{kind} ±{band:.0%}" for kind, band in facts["bands"].items())
            or f"from {calibration.FEWEST} runs of a kind on",
        ]
        for device, facts in learned.items()
    ]
    return Result(
        {"cards": learned, "file": str(calibration.file())},
        table(cells, ["card", "runs", "context", "program", "segments", "bands"])
        + f"\nkept in {calibration.file()}; later plans use it",
    )


def explain_oom(
    path: Path, name: str = "", values: Mapping[str, Any] | None = None, *, card: str = "auto"
) -> Result:
    """What a traceback or a run folder tells of the memory that lacked; with a workload, the next
    three things to change. Raises NotFound, DataError."""
    file = path / "traceback.txt" if path.is_dir() else path
    if not file.is_file():
        raise NotFound(
            f"there is no {file}",
            why="a run folder that failed has a traceback.txt"
            if path.is_dir()
            else "nothing lies at that path",
            fix="give a text file with the traceback, or a run's folder",
        )
    found = oom.read(file.read_text(encoding="utf-8", errors="replace"))
    data: dict[str, Any] = {
        "term": found.term,
        "asked_bytes": found.asked_bytes,
        "free_bytes": found.free_bytes,
        "total_bytes": found.total_bytes,
        "allocated_bytes": found.allocated_bytes,
        "fragmented": found.fragmented,
        "line": found.line,
        "changes": [],
    }
    words = [found.render()]
    if name:
        settings = _workload_settings(name, values or {})
        rungs = fallbacks.next_changes(name, settings, devices.find(card))
        data["changes"] = [
            {"changes": r.changes, "saved_bytes": r.saved_bytes, "cost": r.cost} for r in rungs
        ]
        words.append(
            "change next, smallest loss first:\n"
            + "\n".join(f"  {rung.render()}" for rung in rungs)
        )
    else:
        words.append(
            "with --workload and its settings the next things to change are told with what each "
            "saves: onecard explain-oom FILE --workload qlora --model llama-3.1-8b"
        )
    return Result(data, "\n\n".join(words))


def fit_card(card: str = "auto") -> Result:
    """What fits on this card, over all workloads."""
    held = devices.find(card)
    rows = fallbacks.largest(held)
    cells = [
        [
            row["workload"],
            row["says"],
            row["model"] or "–",
            row["what"],
            gib(row["bytes"]) if row["bytes"] else "–",
        ]
        for row in rows
    ]
    return Result(
        {"card": held.as_dict(), "rows": rows},
        f"{held.render()}\n\n{table(cells, ['workload', 'what', 'largest usual model', 'with', 'needs'])}",
    )


def plan_bench(path: Path) -> Result:
    """Every row of a table of published measurements beside its plan.

    Raises NotFound, DataError.
    """
    return truth.bench(path)


def run(
    kind: str,
    verb: str,
    settings: config.Settings,
    *,
    card: str = "auto",
    reporter: Reporter | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Result:
    """Plan, refuse what cannot fit, open a record, do the work.

    Raises what the work raises, and DoesNotFit.
    """
    the_kind = tasks.get(kind)
    the_verb = tasks.command_of(the_kind, verb)
    reporter = reporter or Reporter()
    needed = the_kind.plan(settings, devices.find(card))
    if not needed.fits:
        largest = needed.largest()
        raise DoesNotFit(
            f"{kind} needs {gib(needed.total_bytes)}; {gib(needed.device.free_bytes)} is free on "
            f"{needed.device.name}",
            why=f"the largest part is {largest.name}, {gib(largest.bytes)}: {largest.reason}",
            fix=f"onecard {kind} plan  shows every part; make that one smaller, or free memory on "
            "the card",
        )
    work = tasks.work(the_kind, the_verb)
    if not the_verb.records:
        answer: Result = work(settings, record.Run(None, reporter, needed))
        return answer
    the_run = record.start(kind, verb, settings, needed, reporter)
    try:
        with the_run:
            the_run.track(getattr(settings, "report_to", "none"), settings.model_dump(mode="json"))
            answer = _work_with_room(the_kind, work, settings, the_run, devices.find(card))
    finally:
        if the_run.folder:
            report(the_run.folder.name)
    return Result(
        {**answer.data, "run": str(the_run.folder)},
        f"{answer.text}\nrun: {the_run.folder}".lstrip("\n"),
    )


MOST_RUNGS = 12


def _work_with_room(
    kind: Task, work: Any, settings: config.Settings, the_run: record.Run, device: devices.Device
) -> Result:
    """The work; when memory runs out the next rung of the kind's ladder is taken and the work goes
    on from its last checkpoint. The one place that catches an out-of-memory.

    The run keeps what was changed in changes.json. Without a rung left, or for a kind without a
    ladder, DoesNotFit tells what lacked.
    """
    taken: list[dict[str, Any]] = []
    while True:
        try:
            answer: Result = work(settings, the_run)
            return (
                Result({**answer.data, "memory_changes": taken}, answer.text) if taken else answer
            )
        except Exception as fault:
            if type(fault).__name__ not in ("OutOfMemoryError", "MemoryError"):
                raise
            the_run.measure()
            told = str(fault).splitlines()[0][:200] if str(fault) else type(fault).__name__
            rung = next(
                (
                    (changes, cost)
                    for changes, cost in (
                        kind.smaller(settings) if kind.smaller and len(taken) < MOST_RUNGS else ()
                    )
                    if kind.plan(settings.model_copy(update=changes), device).total_bytes
                    < kind.plan(settings, device).total_bytes
                ),
                None,
            )
            if rung is None:
                largest = kind.plan(settings, device).largest()
                raise DoesNotFit(
                    f"memory ran out in {kind.name}: {told}",
                    why=f"the plan's largest part is {largest.name}, {gib(largest.bytes)}, and no "
                    "change is left that saves anything",
                    fix=f"onecard explain-oom {the_run.folder}",
                ) from fault
            changes, cost = rung
            settings = settings.model_copy(update=changes)
            taken.append({"changes": changes, "cost": cost, "after": told})
            the_run.changed(taken, settings, kind.plan(settings, device))


def runs(limit: int = 50) -> list[store.RunRecord]:
    """The newest first."""
    return store.recent(limit)


def report(run_id: str) -> Path:
    """Make README.md, notebook.ipynb and report.html of a run anew; the path of the page.

    Raises NotFound.
    """
    past = store.find(run_id)
    importlib.import_module("onecard.runs.report").write(
        past
    )  # draws with matplotlib: only when asked
    return past.folder / "report.html"


def compare(old: str, new: str) -> Result:
    """Two runs side by side with a paired test. Raises NotFound."""
    answer: Result = importlib.import_module("onecard.runs.compare").compare(
        store.find(old), store.find(new)
    )
    return answer


def rerun(run_id: str, *, reporter: Reporter | None = None) -> Result:
    """The same work with the same settings, as a run of its own, held against the first.

    Raises NotFound.
    """
    past = store.find(run_id)
    about = past.about
    settings = configure(about["kind"], file=past.folder / "settings.toml")
    answer = run(about["kind"], about["verb"], settings, reporter=reporter)
    held = compare(past.id, Path(answer.data["run"]).name)
    return Result({**answer.data, "against": held.data}, f"{answer.text}\n\n{held.text}")


def pull(name: str, quant: str = "", reporter: Reporter | None = None) -> Result:
    """Bring a model to this machine, ready to run. Raises NotFound with what was tried."""
    if names.catalog().get(name, {}).get("task") == "embed":
        folder = importlib.import_module("onecard.inference.embeddings").e5_folder(
            reporter or Reporter()
        )  # converts it: heavy
        return Result({"name": name, "path": str(folder)}, f"{name} lies in {folder}")
    return models.pull(name, quant, reporter or Reporter())


def doctor() -> Result:
    """What this machine has and lacks, each fault with its fix."""
    return doctor_module.examine()


__all__ = [
    "compare",
    "configure",
    "doctor",
    "explain_oom",
    "fit_card",
    "fit_workload",
    "models",
    "plan",
    "plan_bench",
    "plan_calibrate",
    "plan_check",
    "plan_workload",
    "presets",
    "pull",
    "report",
    "rerun",
    "run",
    "runs",
    "store",
    "trace_workload",
    "workloads",
]
