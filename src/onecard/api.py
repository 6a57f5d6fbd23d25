"""The one door for command line, web page and notebook: configure, plan, run, runs, compare. Prints nothing."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onecard import checkup, config, kinds, places
from onecard.errors import DoesNotFit, MissingExtra, NotFound, SettingsError, not_found
from onecard.memory import card as cards
from onecard.memory import ladder, lm, oom, train, truth, workloads
from onecard.memory.plan import Plan
from onecard.models import resolve
from onecard.models import shelf as models
from onecard.runs import record, store
from onecard.screen import Answer, Screen, table
from onecard.units import gib, size


def presets(kind: str) -> list[str]:
    """The names of a kind's presets."""
    return sorted(path.stem for path in _preset_folder(kind).glob("*.toml"))


def _preset_folder(kind: str) -> Path:
    return Path(kinds.__path__[0]) / kinds.get(kind).name / "presets"


def configure(kind: str, *, preset: str = "", file: Path | None = None, values: Mapping[str, Any] | None = None) -> config.Settings:
    """The settings of a kind: defaults < preset < file < values. Raises SettingsError with all faults, NotFound."""
    layers: list[config.Layer] = []
    if preset:
        if preset not in presets(kind):
            raise not_found(f"preset of {kind}", preset, presets(kind))
        layers.append((f"preset {preset}", config.read_toml(_preset_folder(kind) / f"{preset}.toml")))
    if file:
        layers.append((str(file), config.read_toml(file)))
    layers.append(("", dict(values or {})))
    return config.load(kinds.get(kind).settings, *layers)


def plan(kind: str, settings: config.Settings, *, card: str = "auto") -> Plan:
    """What it will need on a card: 'auto', 'cpu', '4070ti', '12gb'."""
    return kinds.get(kind).plan(settings, cards.find(card))


def plan_workload(name: str, values: Mapping[str, Any], *, card: str = "auto", file: Path | None = None) -> Plan:
    """What a workload will need, whether or not its kind exists yet. Raises NotFound, SettingsError."""
    workload = workloads.get(name)
    layers: list[config.Layer] = [(str(file), config.read_toml(file))] if file else []
    return workload.plan(config.load(workload.settings, *layers, ("", dict(values))), cards.find(card))


def fit_workload(name: str, values: Mapping[str, Any], *, card: str = "auto", file: Path | None = None) -> Answer:
    """Change the settings, smallest loss first, until the plan fits. Raises NotFound, SettingsError, DoesNotFit when no rung is left."""
    workload = workloads.get(name)
    layers: list[config.Layer] = [(str(file), config.read_toml(file))] if file else []
    settings = config.load(workload.settings, *layers, ("", dict(values)))
    changed, made, rungs = ladder.fit(name, settings, cards.find(card))
    if not made.fits:
        largest = made.largest()
        raise DoesNotFit(f"{name} does not fit on {made.card.name}, whatever is changed", why=f"with every rung taken it needs {gib(made.total_bytes)}; the largest part is {largest.name}, {gib(largest.bytes)}",
                         fix="a smaller model, or a larger card")
    words = "nothing needs to change" if not rungs else "\n".join(["changes, smallest loss first:", *(f"  {rung.words()}" for rung in rungs)])
    data = {**made.as_dict(), "settings": changed.model_dump(mode="json"), "changes": [{"changes": r.changes, "saved_bytes": r.saved_bytes, "cost": r.cost} for r in rungs]}
    return Answer(data, f"{words}\n\n{made.words()}")


def trace_workload(name: str, values: Mapping[str, Any]) -> Answer:
    """The plan of a training step held against the real model class on fake tensors. Raises SettingsError for what cannot be traced, MissingExtra."""
    workload = workloads.get(name)
    settings = config.load(workload.settings, ("", dict(values)))
    if name in NETS_TRACED:
        return _trace_net(name, settings)
    if not isinstance(settings, workloads.TuneSettings):
        raise SettingsError(f"{name} cannot be traced", why="a trace runs one training step of lora, qlora, full, detect, segment, classify, diffusion or asr", fix="onecard plan qlora MODEL --trace; llama.cpp's own buffers are printed by onecard chat")
    if settings.optimizer != "adamw" or settings.loss != "upcast" or settings.rest_fp32 or settings.zero:
        raise SettingsError("these settings cannot be traced", why="the trace knows AdamW, the model's own loss and one card, with embeddings in the model's type", fix="leave --optimizer, --loss, --rest_fp32 and --zero out")
    recipe = workloads.recipe_of(name, settings)  # type: ignore[arg-type]
    model = lm.find(settings.model)
    traced = _heavy("trace").step(model, recipe)
    planned = sum(term.bytes for term in train.step(model, recipe))
    error = planned / traced.peak_bytes - 1
    words = f"traced peak  {gib(traced.peak_bytes)}  ({gib(traced.static_bytes)} before the step)\nplanned      {gib(planned)}  ({error:+.1%}; without fragments and CUDA context)"
    return Answer({"traced_bytes": traced.peak_bytes, "static_bytes": traced.static_bytes, "planned_bytes": planned, "error": error}, words)


NETS_TRACED = ("detect", "segment", "classify", "diffusion", "asr")


def _heavy(room: str) -> Any:
    """A room of memory/ that loads torch. Raises MissingExtra."""
    try:
        return importlib.import_module(f"onecard.memory.{room}")
    except ModuleNotFoundError as fault:
        raise MissingExtra(f"--trace needs {fault.name}", why="it runs the real model class on fake tensors", fix="pip install 'onecard[finetune]'") from None


def _trace_net(name: str, settings: Any) -> Answer:
    room = _heavy("trace_nets")
    try:
        traced, planned = room.check_speech(settings) if name == "asr" else room.check(name, settings)
    except ModuleNotFoundError as fault:
        raise MissingExtra(f"--trace needs {fault.name}", why="it runs the real class of that library on fake tensors", fix=f"pip install 'onecard[{name}]'") from None
    error = planned / traced - 1
    words = f"traced peak  {gib(traced)}  (one pass forward and back of the real class in fp32, weights not counted)\ncounted      {gib(planned)}  ({error:+.1%}; what the plan's tape counts for the same pass)"
    return Answer({"traced_bytes": traced, "planned_bytes": planned, "error": error}, words)


def plan_check() -> Answer:
    """Planned against measured peak of every past run that kept both."""
    rows = []
    for past in store.recent(1000):
        memory = record.read_json(past.folder / "memory.json")
        planned, measured = memory.get("planned_bytes", 0), memory.get("peak_rss_bytes", 0)
        if past.status == "done" and planned and measured:
            rows.append({"id": past.id, "kind": past.about.get("kind"), "verb": past.about.get("verb"), "planned_bytes": planned, "measured_bytes": measured, "error": planned / measured - 1})
    cells = [[row["id"], str(row["verb"]), size(row["planned_bytes"]), size(row["measured_bytes"]), f"{row['error']:+.0%}"] for row in rows]
    words = table(cells, ["run", "verb", "planned", "measured", "error"]) + "\nmeasured: the largest process's resident memory, Python and its libraries included" if rows else f"no run in {places.runs()} kept both figures yet"
    return Answer({"rows": rows}, words)


def explain_oom(path: Path, name: str = "", values: Mapping[str, Any] | None = None, *, card: str = "auto") -> Answer:
    """What a traceback or a run folder tells of the memory that lacked; with a workload, the next three things to change. Raises NotFound, DataError."""
    file = path / "traceback.txt" if path.is_dir() else path
    if not file.is_file():
        raise NotFound(f"there is no {file}", why="a run folder that failed has a traceback.txt" if path.is_dir() else "nothing lies at that path", fix="give a text file with the traceback, or a run's folder")
    found = oom.read(file.read_text(encoding="utf-8", errors="replace"))
    data: dict[str, Any] = {"term": found.term, "asked_bytes": found.asked_bytes, "free_bytes": found.free_bytes, "total_bytes": found.total_bytes, "allocated_bytes": found.allocated_bytes,
                            "fragmented": found.fragmented, "line": found.line, "changes": []}
    words = [found.words()]
    if name:
        settings = config.load(workloads.get(name).settings, ("", dict(values or {})))
        rungs = ladder.next_changes(name, settings, cards.find(card))
        data["changes"] = [{"changes": r.changes, "saved_bytes": r.saved_bytes, "cost": r.cost} for r in rungs]
        words.append("change next, smallest loss first:\n" + "\n".join(f"  {rung.words()}" for rung in rungs))
    else:
        words.append("with --workload and its settings the next things to change are told with what each saves: onecard explain-oom FILE --workload qlora --model llama-3.1-8b")
    return Answer(data, "\n\n".join(words))


def fit_card(card: str = "auto") -> Answer:
    """What fits on this card, over all workloads."""
    held = cards.find(card)
    rows = ladder.largest(held)
    cells = [[row["workload"], row["says"], row["model"] or "–", row["what"], gib(row["bytes"]) if row["bytes"] else "–"] for row in rows]
    return Answer({"card": held.as_dict(), "rows": rows}, f"{held.words()}\n\n{table(cells, ['workload', 'what', 'largest usual model', 'with', 'needs'])}")


def plan_bench(path: Path) -> Answer:
    """Every row of a table of published measurements beside its plan. Raises NotFound, DataError."""
    return truth.bench(path)


def run(kind: str, verb: str, settings: config.Settings, *, card: str = "auto", screen: Screen | None = None, extra: Mapping[str, Any] | None = None) -> Answer:
    """Plan, refuse what cannot fit, open a record, do the work. Raises what the work raises, and DoesNotFit."""
    the_kind = kinds.get(kind)
    the_verb = kinds.verb_of(the_kind, verb)
    screen = screen or Screen()
    needed = the_kind.plan(settings, cards.find(card))
    if not needed.fits:
        largest = needed.largest()
        raise DoesNotFit(
            f"{kind} needs {gib(needed.total_bytes)}; {gib(needed.card.free_bytes)} is free on {needed.card.name}",
            why=f"the largest part is {largest.name}, {gib(largest.bytes)}: {largest.because}",
            fix=f"onecard {kind} plan  shows every part; make that one smaller, or free memory on the card",
        )
    work = kinds.work(the_kind, the_verb)
    if not the_verb.records:
        answer: Answer = work(settings, record.Run(None, screen, needed))
        return answer
    the_run = record.start(kind, verb, settings, needed, screen)
    try:
        with the_run:
            the_run.track(getattr(settings, "report_to", "none"), settings.model_dump(mode="json"))
            answer = work(settings, the_run)
    finally:
        if the_run.folder:
            report(the_run.folder.name)
    return Answer({**answer.data, "run": str(the_run.folder)}, f"{answer.words}\nrun: {the_run.folder}".lstrip("\n"))


def runs(limit: int = 50) -> list[store.Past]:
    """The newest first."""
    return store.recent(limit)


def report(run_id: str) -> Path:
    """Make README.md, notebook.ipynb and report.html of a run anew; the path of the page. Raises NotFound."""
    past = store.find(run_id)
    importlib.import_module("onecard.runs.report").write(past)  # draws with matplotlib: only when asked
    return past.folder / "report.html"


def compare(old: str, new: str) -> Answer:
    """Two runs side by side with a paired test. Raises NotFound."""
    answer: Answer = importlib.import_module("onecard.runs.compare").compare(store.find(old), store.find(new))
    return answer


def rerun(run_id: str, *, screen: Screen | None = None) -> Answer:
    """The same work with the same settings, as a run of its own, held against the first. Raises NotFound."""
    past = store.find(run_id)
    about = past.about
    settings = configure(about["kind"], file=past.folder / "settings.toml")
    answer = run(about["kind"], about["verb"], settings, screen=screen)
    held = compare(past.id, Path(answer.data["run"]).name)
    return Answer({**answer.data, "against": held.data}, f"{answer.words}\n\n{held.words}")


def pull(name: str, quant: str = "", screen: Screen | None = None) -> Answer:
    """Bring a model to this machine, ready to run. Raises NotFound with what was tried."""
    if resolve.catalog().get(name, {}).get("task") == "embed":
        folder = importlib.import_module("onecard.engines.embed").e5_folder(screen or Screen())  # converts it: heavy
        return Answer({"name": name, "path": str(folder)}, f"{name} lies in {folder}")
    return models.pull(name, quant, screen or Screen())


def doctor() -> Answer:
    """What this machine has and lacks, each fault with its fix."""
    return checkup.examine()


__all__ = ["compare", "configure", "doctor", "explain_oom", "fit_card", "fit_workload", "models", "plan", "plan_bench", "plan_check", "plan_workload", "presets", "pull", "report", "rerun", "run", "runs", "store", "trace_workload", "workloads"]
