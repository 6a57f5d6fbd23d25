"""Plans held against a table of published measurements, row by row: `onecard plan-bench FILE.csv`.

A row gives a command's own settings and what was measured; no words are read. Like is compared with
like: each kind of figure is a prediction of its own (PREDICTIONS below). Knows no row, no source
and no formula.
"""

import csv
import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard import tasks
from onecard.api.planning import configure, configure_plan, load_values, plan_task, plans
from onecard.config import Config, renamed
from onecard.errors import DataError, NotFound, OneCardError, SettingsError
from onecard.inference.config import AUTO
from onecard.memory import devices
from onecard.memory.devices import Device
from onecard.memory.plan import Plan
from onecard.reporting import Result, table
from onecard.tasks.base import Task
from onecard.units import GIB, KIB, MIB, size

COLUMNS = (
    "id",
    "task",
    "command",
    "model",
    "settings",
    "device",
    "component",
    "kind",
    "measured_value",
    "unit",
    "source",
    "build",
)
NEEDED = ("model", "component", "measured_value", "unit")
BESIDE = ("tier", "note")
"""Columns that may stand at the end: A pinned, B something assumed, C not counted, and why."""
UNITS = {
    "b": 1,
    "bytes": 1,
    "kib": KIB,
    "kb": 10**3,
    "mib": MIB,
    "mb": 10**6,
    "gib": GIB,
    "gb": 10**9,
}
COMPONENTS = {
    "peak": "peak",
    "total": "total",
    "weights": "weights",
    "model": "weights",
    "kv": "kv",
    "kvcache": "kv",
    "cache": "kv",
    "compute": "compute",
    "state": "state",
    "recurrentstate": "state",
}
KINDS = {
    "allocated": "allocated",
    "maxmemoryallocated": "allocated",
    "reserved": "reserved",
    "maxmemoryreserved": "reserved",
    "log": "log",
    "nvidiasmi": "nvidia-smi",
    "driver": "nvidia-smi",
    "claimed": "claimed",
    "": "claimed",
}
WEIGHTS = frozenset({"weights", "trained weights", "vision tower", "encoders", "repacked weights"})
"""Parts of a plan that lie there before a step or an answer, adapters among them."""
BEYOND = frozenset({"CUDA context", "fragments", "program"})
"""Parts of a plan that torch's allocator does not count."""
EXACT = ("allocated", "log")
VISION = ("detect", "segment", "classify")
PLAN_OF = {
    "full-ft": "full",
    "llm": "llm-infer",
    "infer": "llm-infer",
    "generate": "diffusion",
    "vlm-infer": "vlm",
    "vlm-train": "vlm-lora",
    "whisper-infer": "asr",
    "whisper-lora": "asr-lora",
    "whisper-train": "asr-full",
    "diffusion-infer": "diffusion",
    "diffusion-train": "diffusion-lora",
}
"""Other words for the short names of plans."""
CARDS_GIB = {
    "t4": 16,
    "p100": 16,
    "v100": 16,
    "a10": 24,
    "a10g": 24,
    "l4": 24,
    "l40": 48,
    "l40s": 48,
    "a6000": 48,
    "a100": 80,
    "h100": 80,
    "h20": 96,
    "h200": 141,
    "b200": 180,
}
"""Cards of servers and workstations, without a desktop; a size in the name wins."""
USUAL_GIB = 80


@dataclass(frozen=True)
class Row:
    """One line of the file, its fields stripped."""

    values: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    @property
    def measured_bytes(self) -> int:
        """Raises SettingsError for what is no size."""
        unit = UNITS.get(self["unit"].lower())
        if unit is None:
            raise SettingsError(
                f"the unit '{self['unit']}' is not known",
                why="known are: MiB, GiB, KiB, B (2^10), MB, GB, KB (10^3)",
                fix="give the unit that the source used",
            )
        try:
            value = float(re.sub(r"[,\s~≈]", "", self["measured_value"]))
        except ValueError:
            value = 0.0
        if not 0 < value < 1e18:
            raise SettingsError(
                f"the measurement '{self['measured_value']}' is no size",
                why="it must be a number above 0",
                fix="give a number as 1152.00",
            )
        return round(value * unit)

    @property
    def settings(self) -> dict[str, Any]:
        """Raises SettingsError for what is no JSON object."""
        try:
            values = json.loads(self["settings"] or "{}")
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise SettingsError(
                "the settings are no JSON object",
                why=f"they read: {self['settings'][:80]}",
                fix='give fields of the command\'s own Config as {"n_ctx": 8192}',
            )
        return values


def read(path: Path) -> Iterator[Row]:
    """Raises NotFound, DataError."""
    if not path.is_file():
        raise NotFound(
            f"there is no file {path}", why="nothing lies at that path", fix="check the path"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            head = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = head
            rows = [
                Row({k: v.strip() for k, v in row.items() if k and isinstance(v, str)})
                for row in reader
            ]
    except (csv.Error, UnicodeDecodeError, OSError) as fault:
        raise DataError(
            f"{path} is no CSV", why=str(fault), fix="save it as CSV in UTF-8"
        ) from None
    missing = [name for name in NEEDED if name not in head]
    if "task" not in head and "command" not in head:
        missing.append("command")
    if missing or not rows:
        why = f"its head line lacks: {', '.join(missing)}" if missing else "it has no line"
        raise DataError(
            f"{path} has no rows to plan", why=why, fix=f"give the columns {', '.join(COLUMNS)}"
        )
    yield from rows


def plan_bench(path: Path) -> Result:
    """Every row with its planned and measured bytes, then the errors of each task and kind.

    Raises NotFound, DataError for a file that is no such table; a row that cannot be planned says
    why.
    """
    lines_of_file = list(read(path))
    rows = [_judged(row) for row in lines_of_file]
    counted = [row for row in rows if row["tier"] != "C"]
    groups: dict[str, Callable[[dict[str, Any]], bool]] = {
        "exact: allocated, log": lambda r: r["kind"] in EXACT,
        "others: reserved, nvidia-smi, claimed": lambda r: r["kind"] not in EXACT,
        "all": lambda r: True,
    }
    for name in sorted({row["plan"] for row in counted}):
        groups[name] = lambda r, name=name: r["plan"] == name  # type: ignore[misc]
    summary = {name: summarize([r for r in counted if keep(r)]) for name, keep in groups.items()}
    lines = table(
        [_line(row) for row in rows],
        ["id", "plan", "component", "kind", "planned", "measured", "error"],
    )
    head = ["rows", "number", "planned", "median", "90 %", "low by > 5 %", "within the band"]
    figures = table([_figures(name, s) for name, s in summary.items()], head)
    notes = [f"tier C, not counted: {len(rows) - len(counted)} rows"]
    ignored = sorted({*lines_of_file[0].values} - {*COLUMNS, *BESIDE})
    if ignored:
        notes.append(f"columns that say nothing to a plan: {', '.join(ignored)}")
    text = "\n\n".join([str(lines), str(figures), "\n".join(notes)])
    return Result({"rows": rows, "summary": summary}, text, (lines, figures))


def _line(row: Mapping[str, Any]) -> list[str]:
    error = f"{row['error']:+.1%}" if row["error"] is not None else f"cannot: {row['cannot']}"
    return [
        row["id"],
        row["plan"],
        row["component"],
        row["kind"],
        size(row["planned_bytes"]) if row["planned_bytes"] else "–",
        size(row["measured_bytes"]) if row["measured_bytes"] else "–",
        error,
    ]


def _figures(name: str, s: Mapping[str, Any]) -> list[str]:
    shares = (f"{s[k]:.1%}" if s[k] is not None else "–" for k in ("median", "p90", "under_5"))
    inside = f"{s['inside']:.0%}" if s["inside"] is not None else "–"
    return [name, str(s["count"]), f"{s['planned_share']:.0%}", *shares, inside]


def _judged(row: Row) -> dict[str, Any]:
    """One row as values; what keeps it from a plan stands in `cannot`."""
    out: dict[str, Any] = {
        "id": row["id"],
        "plan": "/".join(word for word in (row["task"], row["command"]) if word) or "?",
        "model": row["model"],
        "component": row["component"],
        "kind": row["kind"],
        "tier": row["tier"].upper()[:1],
        "source": row["source"],
        "planned_bytes": None,
        "measured_bytes": None,
        "error": None,
        "band": None,
        "inside": None,
        "cannot": "",
    }
    try:
        out["measured_bytes"] = measured = row.measured_bytes
        planned, band = predict(row)
        out |= {"planned_bytes": planned, "error": planned / measured - 1, "band": band}
        if band:
            out["inside"] = abs(measured / planned - 1) <= band
    except OneCardError as fault:
        out["cannot"] = f"{fault.what}: {fault.why}"
    except Exception as fault:
        # one bad row must not take the others with it, whatever is wrong with it
        out["cannot"] = f"{type(fault).__name__}: {fault}"
    return out


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a group: how many were planned, their errors, and how many lie in their
    band."""
    planned = [row for row in rows if row["error"] is not None]
    errors = sorted(abs(row["error"]) for row in planned)
    banded = [row["inside"] for row in planned if row["inside"] is not None]
    return {
        "count": len(rows),
        "planned_share": len(planned) / len(rows) if rows else 0.0,
        "median": statistics.median(errors) if errors else None,
        "p90": errors[min(int(len(errors) * 0.9), len(errors) - 1)] if errors else None,
        "under_5": sum(row["error"] < -0.05 for row in planned) / len(planned) if planned else None,
        "inside": sum(banded) / len(banded) if banded else None,
    }


def predict(row: Row) -> tuple[int, float]:
    """(the planned bytes of what the row measured, the plan's band). Raises OneCardError."""
    component = _word("component", row["component"], COMPONENTS)
    kind = _word("kind", row["kind"], KINDS)
    device, desktop = device_of(row["device"])
    task, name, config = config_of(row)
    plan: Plan = tasks.memory(task).plan(config, device)
    engine = getattr(config, "engine", "")
    driver = _counts_all(task.name, name, engine)
    planned = part(plan, component) if component not in ("peak", "total") else 0
    if component in ("peak", "total"):
        planned = whole(plan, kind, task.name, driver, desktop)
    if not planned:
        raise SettingsError(
            f"the plan has no part '{row['component']}'",
            why=f"its parts are: {', '.join(term.name for term in plan.terms)}",
            fix="name another component",
        )
    return planned, plan.band


def part(plan: Plan, component: str) -> int:
    """Bytes of one component, by the names of the plan's parts."""
    names = {"kv": {"KV cache"}, "state": {"recurrent state"}, "weights": WEIGHTS}
    if component != "compute":
        return sum(term.bytes for term in plan.terms if term.name in names[component])
    own = sum(term.bytes for term in plan.terms if term.name == "compute")
    other = BEYOND | WEIGHTS | {"KV cache", "recurrent state", "optimizer"}
    return own or sum(term.bytes for term in plan.terms if term.name not in other)


def whole(plan: Plan, kind: str, task: str, driver: bool, desktop: bool) -> int:
    """Bytes of a peak or a total, as its kind of counter sees them.

    allocated, log   what the allocator hands out: all parts but segments and context
    reserved         with the segments that are held and not full; ultralytics' log prints these
    nvidia-smi       with the context, and on a card with a screen what a desktop holds
    claimed          a figure whose counter is not named: the whole plan where a trainer's script or
                     an engine outside torch is told of, for the driver shows it; else as allocated
    """
    allocated = sum(term.bytes for term in plan.terms if term.name not in BEYOND)
    segments = sum(term.bytes for term in plan.terms if term.name == "fragments")
    if kind == "reserved" or (kind == "log" and task in VISION):
        return allocated + segments
    if kind == "nvidia-smi":
        return plan.total_bytes + (devices.DESKTOP_BYTES if desktop else 0)
    if kind == "claimed" and driver:
        return plan.total_bytes
    return allocated


def _counts_all(task: str, name: str, engine: str) -> bool:
    """Is a figure of this command without its counter the driver's?"""
    trains = any(word in name for word in ("train", "lora", "full"))
    return (trains and task not in VISION) or engine == "ctranslate2"


def _word(column: str, text: str, known: Mapping[str, str]) -> str:
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    if plain not in known:
        raise SettingsError(
            f"the {column} '{text}' is not known",
            why=f"known are: {', '.join(sorted(set(known.values())))}",
            fix=f"name one of these as {column}",
        )
    return known[plain]


def device_of(name: str) -> tuple[Device, bool]:
    """(the device, whether a desktop runs on it): a named card, else one of the size in the name,
    else one of 80 GB.

    >>> device_of("NVIDIA A100-SXM4-40GB")[0].total_bytes // GIB, device_of("RTX 3090 24GB")[1]
    (40, True)
    """
    plain = re.sub(r"\(.*|nvidia|geforce|tesla|quadro", "", name.lower()).strip()
    if plain == "cpu" or plain.startswith("cpu "):
        return devices.find("cpu"), False
    sized = re.search(r"(\d+)\s*gi?b", plain)
    bare = re.sub(r"\d+\s*gi?b|vram|laptop|gpu", "", plain).strip(" -")
    for candidate in (plain, bare) if re.search(r"\b\d{4}\b", plain) else ():
        try:
            return devices.find(candidate.replace(" ", "")), True
        except OneCardError:
            continue
    words = re.split(r"[^a-z0-9]+", plain)
    known = next((CARDS_GIB[word] for word in words if word in CARDS_GIB), 0)
    gib = min(max(int(sized[1]) if sized else known or USUAL_GIB, 1), 4096)
    desktop = bool(re.search(r"rtx|gtx|\b[1-5]0[5-9]0\b", plain)) and not known
    total = gib * GIB
    return Device(name or f"a card of {gib} GiB", total, total, real=False), desktop


def config_of(row: Row) -> tuple[Task, str, Config]:
    """(the task, the command's or plan's name, its Config), through the same checks as the command
    line.

    Raises NotFound, SettingsError.
    """
    values = {"model": row["model"], **row.settings} if row["model"] else row.settings
    words = [w for w in re.split(r"[/\s]+", f"{row['task']}/{row['command']}".lower()) if w]
    words = [word.replace("_", "-") for word in words]
    task_name = next((word for word in words if word in tasks.names()), "")
    command = next((word for word in reversed(words) if word != task_name), "")
    name = plan_name(task_name, command)
    if name:
        task = plan_task(name)
        schema = tasks.config_class(task, task.plans[name].config)
        return task, name, named(configure_plan(name, values=_built(row, values, schema)))
    task = tasks.get(task_name or (words[0] if words else ""))
    if command == "plan":
        command = task.default_command
    tasks.command_of(task, command)
    try:
        return task, command, named(configure(task.name, command, values=values))
    except SettingsError as fault:
        # settings of a what-if: the plan of the task whose Config has them all
        for plan in task.plans.values():
            schema = tasks.config_class(task, plan.config)
            if all(renamed(field, schema) in schema.model_fields for field in values):
                values = _built(row, values, schema)
                return task, command, named(load_values(task, plan.config, values))
        raise fault


def named(config: Config) -> Config:
    """A config with a model of its own. Raises SettingsError."""
    if getattr(config, "model", "") == AUTO:
        raise SettingsError(
            "no model is named",
            why="a measurement is of one model",
            fix="name it in the column model",
        )
    return config


def plan_name(task: str, command: str) -> str:
    """The short name of the plan that a task's word means; empty where it is a command."""
    known = plans()
    if task and command in tasks.get(task).commands:
        return ""
    names = [command, PLAN_OF.get(command, ""), f"{task}-{command}"]
    names += [PLAN_OF.get(f"{task}-{command}", "")]
    own = tasks.get(task).plans if task else {}
    for name in [n for n in names if n in own] + [n for n in names if n in known]:
        return name
    if command in ("", "train", "plan", "answer", "ask"):
        return next(iter(own), "")
    return ""


def _built(row: Row, values: dict[str, Any], schema: type[Config]) -> dict[str, Any]:
    """The settings with what the build's name decides: the number of a build of llama.cpp, or the
    embedded engine; a program that is not named is another one than onecard's own."""
    if "build" not in schema.model_fields:
        return values
    program = row["build"].lower()
    number = re.search(r"\bb(\d{3,6})\b", program)
    build = {"build": int(number[1])} if number else {}
    if "engine" in values:
        return {**build, **values} if values["engine"] == "llama.cpp" else values
    if program.startswith("embedded"):
        return {**values, "engine": "embedded"}
    for engine in ("transformers", "vllm"):
        if engine in program:
            return {**values, "engine": engine}
    return {**build, **values, "engine": "llama.cpp"}
