"""Words to calls, results to words: with screen.py the one place that prints, and the one that
exits. No work is done here."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onecard import __version__, api, flags, fsio, paths, tasks
from onecard.config import Settings
from onecard.errors import NotFound, OneCardError, SettingsError, not_found
from onecard.reporting import Reporter, Result, TerminalReporter, plain, table
from onecard.tasks.base import Task

GLOBAL = [
    flags.Flag("card", "the card to plan for: auto, cpu, 4070ti, 12gb ..."),
    flags.Flag("preset", "settings for a card: 8gb, 12gb, 16gb, 24gb or cpu"),
    flags.Flag("config", "a TOML file with settings"),
    flags.Flag("json", "print the result as JSON", takes_value=False),
    flags.Flag("trace", "show the traceback of an error", takes_value=False),
    flags.Flag("help", "show this help", takes_value=False),
]


class NoSettings(Settings):
    """For the words above the kinds, which have none."""


class ModelWords(Settings):
    """The settings of `onecard models`."""

    name: str = ""
    """For import: the name to give."""
    out: str = ""
    """For convert and quantize: the file to write."""
    quant: str = ""
    """For pull and quantize: the quantization, as q4_k_m."""
    outtype: str = "f16"
    """For convert: f32, f16, bf16 or q8_0."""
    words: list[str] = []
    """What to do, and to which model."""


class RunWords(Settings):
    """The settings of `onecard runs`."""

    words: list[str] = []
    """list | show ID | compare OLD NEW | rerun ID | report ID"""


class FileWords(Settings):
    """The settings of `onecard plan-bench`."""

    file: str = ""
    """A CSV of measurements."""


def entry() -> None:
    """The console script."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OneCardError as fault:
        return _tell(fault, words)
    except Exception as fault:
        kept = paths.home() / "last-error.txt"
        try:
            fsio.write_text(kept, traceback.format_exc())
        except OneCardError:
            kept = Path("nowhere: the disk is full")
        what = OneCardError(
            f"onecard failed: {type(fault).__name__}: {str(fault)[:300]}",
            why="this should not happen",
            fix=f"report it with {kept}",
        )
        return _tell(what, words)


def _tell(fault: OneCardError, words: Sequence[str]) -> int:
    if "--trace" in words and words[0] != "plan":  # there it is the truth check
        traceback.print_exc()
    if "--json" in words:
        print(
            json.dumps(
                {
                    "error": {
                        "what": fault.what,
                        "why": fault.why,
                        "fix": fault.fix,
                        "code": fault.code,
                    }
                },
                ensure_ascii=False,
            )
        )
    print(plain(f"error: {fault}"), file=sys.stderr)
    return fault.code


def _dispatch(words: list[str]) -> int:
    above: dict[str, Callable[[list[str]], None]] = {
        "models": _models,
        "runs": _runs,
        "doctor": _doctor,
        "kinds": _kinds,
        "plan": _plan,
        "fit": _fit,
        "explain-oom": _explain_oom,
        "plan-bench": _plan_bench,
    }
    if not words or words[0] in ("--help", "-h", "help"):
        print(_help())
    elif words[0] == "--version":
        print(f"onecard {__version__}")
    elif words[0] in above:
        above[words[0]](words[1:])
    elif words[0] in tasks.all_tasks():
        _kind(tasks.get(words[0]), words[1:])
    else:
        raise not_found("command", words[0], [*tasks.all_tasks(), *above], "onecard --help")
    return 0


def _help() -> str:
    rows = "\n".join(f"  {kind.name:10} {kind.says}" for kind in tasks.all_tasks().values())
    return f"""onecard {__version__}: AI projects on one consumer graphics card, planned, run and proven

usage: onecard KIND VERB [words] [--setting value ...]     onecard KIND plan     onecard KIND --help

kinds of project:
{rows}

above the kinds:
  plan       what a workload will need, before anything is loaded: onecard plan qlora llama-3.1-8b --card 4070ti
  fit        the largest that fits on this card, over all workloads
  explain-oom what an out-of-memory message means, and what to change
  plan-bench hold the plan against a table of published measurements
  doctor     what this machine has, what is missing, and how to mend it
  models     list, pull, show, import, remove, convert, quantize
  runs       list, show, compare, rerun, report
  kinds      the table of kinds

try: onecard chat ask "What is a KV cache?"      onecard rag index ~/notes && onecard rag ask "..." """.rstrip()


def _kind_help(kind: Task, verb: str = "") -> str:
    if verb and verb != "plan":
        the_verb = tasks.command_of(kind, verb)
        place = f" {the_verb.positional.upper()}..." if the_verb.positional else ""
        return (
            f"usage: onecard {kind.name} {verb}{place} [--setting value "
            f"...]\n\n{the_verb.says}\n\n{flags.help_text(kind.settings, GLOBAL, the_verb.fields)}"
        )
    commands = {
        **{name: v.says for name, v in kind.commands.items()},
        "plan": "what it will need, before anything is loaded",
    }
    rows = "\n".join(f"  {name:15} {says}" for name, says in commands.items())
    return (
        f"usage: onecard {kind.name} VERB [words] [--setting value ...]\n\n{kind.says}\n\nverbs "
        f"(onecard {kind.name} VERB --help shows its settings):\n{rows}\n\npresets: "
        f"{', '.join(api.presets(kind.name))}"
    )


def _kind(kind: Task, words: list[str]) -> None:
    name = words[0] if words and not words[0].startswith("-") else ""
    rest = words[1:] if name else words
    if not name and (not kind.default_verb or {"--help", "-h"} & set(words)):
        print(_kind_help(kind))
        return
    name = name or kind.default_verb
    verb = None if name == "plan" else tasks.command_of(kind, name)
    if {"--help", "-h"} & set(rest):
        print(_kind_help(kind, name) if verb else flags.help_text(kind.settings, GLOBAL))
        return
    got = flags.parse(rest, kind.settings, GLOBAL, verb.positional if verb else "")
    if (
        verb
        and verb.positional
        and (verb.positional not in got.settings or got.settings[verb.positional] == "-")
        and not sys.stdin.isatty()
    ):
        got.settings.pop(verb.positional, None)
    file = Path(got.flags["config"]) if "config" in got.flags else None
    settings = api.configure(
        kind.name, preset=got.flags.get("preset", ""), file=file, values=got.settings
    )
    card = got.flags.get("card", "auto")
    if verb is None:
        plan = api.plan(kind.name, settings, card=card)
        _show(Result(plan.as_dict(), plan.render()), got)
        return
    reporter = Reporter() if "json" in got.flags else TerminalReporter()
    _show(api.run(kind.name, name, settings, card=card, reporter=reporter), got)


def _show(answer: Result, got: flags.Words) -> None:
    if "json" in got.flags:
        print(
            json.dumps(answer.data, ensure_ascii=False, indent=2)
            .encode("utf-8", "backslashreplace")
            .decode()
        )  # half a surrogate is valid JSON as \udc80
    elif answer.text:
        print(plain(answer.text))


def _asked(
    words: list[str], schema: type[Settings], positional: str, usage: str
) -> tuple[Any, flags.Words] | None:
    """The settings of a command above the kinds; None when its help was wanted and shown."""
    if {"--help", "-h"} & set(words):
        print(
            "usage: onecard "
            f"{usage}\n\n{flags.help_text(schema, [f for f in GLOBAL if f.name in ('json', 'trace', 'card')])}"
        )
        return None
    got = flags.parse(words, schema, GLOBAL, positional)
    return schema.model_validate(got.settings), got


def _kinds(words: list[str]) -> None:
    asked = _asked(words, NoSettings, "", "kinds [--json]")
    if asked:
        rows = [
            [kind.name, kind.says, " ".join([*kind.commands, "plan"])]
            for kind in tasks.all_tasks().values()
        ]
        data = {"kinds": [dict(zip(("name", "says", "verbs"), row, strict=True)) for row in rows]}
        _show(Result(data, table(rows, ["kind", "what it makes", "verbs"])), asked[1])


def _plan(words: list[str]) -> None:
    name = words[0] if words and not words[0].startswith("-") else ""
    if "--check" in words:
        got = flags.parse([word for word in words if word != "--check"], NoSettings, GLOBAL)
        return _show(api.plan_check(), got)
    if "--calibrate" in words:
        got = flags.parse([word for word in words if word != "--calibrate"], NoSettings, GLOBAL)
        return _show(api.plan_calibrate(), got)
    if not name:
        rows = [[key, workload.says] for key, workload in api.workloads.WORKLOADS.items()]
        print(
            "usage: onecard plan WORKLOAD MODEL [--card 12gb] [--setting value "
            f"...]\n\n{table(rows, ['workload', 'what it is'])}\n\nonecard plan WORKLOAD --help  "
            "shows its settings; onecard KIND plan  plans a kind\nonecard plan --check      shows "
            "planned against measured for every past run\nonecard plan --calibrate  learns this "
            "card's own constants from them"
        )
        return
    schema = api.workloads.get(name).settings
    flagged = [
        *(flag for flag in GLOBAL if flag.name not in ("preset", "trace")),
        flags.Flag(
            "trace",
            "run one step of the real model class on fake tensors beside the formulas",
            takes_value=False,
        ),
        flags.Flag(
            "fit",
            "change what must be changed until it fits, smallest loss first",
            takes_value=False,
        ),
    ]
    if {"--help", "-h"} & set(words):
        print(
            f"usage: onecard plan {name} MODEL [--setting value "
            f"...]\n\n{flags.help_text(schema, flagged)}"
        )
        return
    got = flags.parse(words[1:], schema, flagged, "model")
    if "trace" in got.flags:
        return _show(api.trace_workload(name, got.settings), got)
    asked: dict[str, Any] = {
        "card": got.flags.get("card", "auto"),
        "file": Path(got.flags["config"]) if "config" in got.flags else None,
    }
    if "fit" in got.flags:
        return _show(api.fit_workload(name, got.settings, **asked), got)
    plan = api.plan_workload(name, got.settings, **asked)
    _show(Result(plan.as_dict(), plan.render()), got)


def _fit(words: list[str]) -> None:
    asked = _asked(words, NoSettings, "", "fit [--card 12gb] [--json]")
    if asked:
        _show(api.fit_card(asked[1].flags.get("card", "auto")), asked[1])


def _explain_oom(words: list[str]) -> None:
    usage = (
        "usage: onecard explain-oom FILE|RUN_FOLDER [--workload NAME --model MODEL --setting value "
        "...] [--json]"
    )
    file = words[0] if words and not words[0].startswith("-") else ""
    at = words.index("--workload") if "--workload" in words else -1
    name = words[at + 1] if 0 <= at < len(words) - 1 else ""
    rest = words[1:at] + words[at + 2 :] if at >= 0 else words[1:]
    if {"--help", "-h"} & set(words) or not file:
        print(
            f"{usage}\n\nReads a traceback and names the part that grew; with a workload (onecard "
            "plan lists them) it tells what to change next."
        )
        return
    got = flags.parse(rest, api.workloads.get(name).settings if name else NoSettings, GLOBAL)
    _show(
        api.explain_oom(
            Path(file).expanduser(), name, got.settings, card=got.flags.get("card", "auto")
        ),
        got,
    )


def _plan_bench(words: list[str]) -> None:
    asked = _asked(words, FileWords, "file", "plan-bench FILE.csv [--json]")
    if not asked:
        return
    if not asked[0].file:
        raise SettingsError(
            "there is no table to hold the plan against",
            why="no file was named",
            fix="onecard plan-bench FILE.csv",
        )
    _show(api.plan_bench(Path(asked[0].file)), asked[1])


def _doctor(words: list[str]) -> None:
    asked = _asked(words, NoSettings, "", "doctor [--json]")
    if asked:
        _show(api.doctor(), asked[1])


def _models(words: list[str]) -> None:
    usage = (
        "models list | pull NAME | show NAME | import FILE [--name N] | remove NAME | convert "
        "FOLDER | quantize NAME --quant q4_k_m"
    )
    asked = _asked(words, ModelWords, "words", usage)
    if not asked:
        return
    given, got = asked
    verb, *rest = given.words or ["list"]
    if verb == "list":
        return _show(api.models.listing(), got)
    known = ("list", "pull", "show", "import", "remove", "convert", "quantize")
    if verb not in known:
        raise not_found("verb of models", verb, known)
    if len(rest) != 1:
        raise SettingsError(
            f"models {verb} takes one name",
            why=f"{len(rest)} were given",
            fix=f"usage: onecard {usage}",
        )
    name, reporter = rest[0], Reporter() if "json" in got.flags else TerminalReporter()
    calls: dict[str, Callable[[], Result]] = {
        "pull": lambda: api.pull(name, given.quant, reporter),
        "show": lambda: api.models.show(name),
        "import": lambda: api.models.import_model(name, given.name, reporter),
        "remove": lambda: api.models.remove(name, reporter),
        "convert": lambda: api.models.to_gguf(name, given.out, given.outtype, reporter),
        "quantize": lambda: api.models.quantize(name, given.out, given.quant or "q4_k_m", reporter),
    }
    _show(calls[verb](), got)


def _runs(words: list[str]) -> None:
    usage = (
        "runs list | show ID | compare OLD NEW | rerun ID | report ID     (an ID may be shortened, "
        "or 'last')"
    )
    asked = _asked(words, RunWords, "words", usage)
    if not asked:
        return
    given, got = asked
    verb, *rest = given.words or ["list"]
    wanted = {"list": 0, "show": 1, "compare": 2, "rerun": 1, "report": 1}
    if verb not in wanted:
        raise not_found("verb of runs", verb, wanted)
    if len(rest) != wanted[verb]:
        raise SettingsError(
            f"runs {verb} takes {wanted[verb]} IDs",
            why=f"{len(rest)} were given",
            fix=f"usage: onecard {usage}",
        )
    reporter = Reporter() if "json" in got.flags else TerminalReporter()
    if verb == "list":
        _show(_run_list(), got)
    elif verb == "show":
        _show(_run_show(rest[0]), got)
    elif verb == "compare":
        _show(api.compare(*rest), got)
    elif verb == "rerun":
        _show(api.rerun(rest[0], reporter=reporter), got)
    else:
        path = api.report(rest[0])
        _show(Result({"path": str(path)}, str(path)), got)


def _run_list() -> Result:
    rows, cells = [], []
    for run in api.runs():
        best = [
            f"{name} {row['value']:.3f}"
            for name, row in list(run.metrics.items())[:3]
            if row.get("value") is not None
        ]
        rows.append(
            {
                "id": run.id,
                "status": run.status,
                "kind": run.about.get("kind"),
                "verb": run.about.get("verb"),
                "metrics": run.metrics,
            }
        )
        cells.append([run.id, run.status, str(run.about.get("verb")), ", ".join(best)])
    return Result(
        {"runs": rows},
        table(cells, ["run", "status", "verb", "scores"])
        if cells
        else f"no runs yet in {paths.runs()}",
    )


def _run_show(name: str) -> Result:
    run = api.store.find(name)
    try:
        text = (run.folder / "README.md").read_text(encoding="utf-8")
    except OSError:
        raise NotFound(
            f"run {run.id} has no README.md",
            why="it is still running or was killed",
            fix=f"onecard runs report {run.id}",
        ) from None
    return Result(
        {
            "id": run.id,
            "folder": str(run.folder),
            "status": run.status,
            "metrics": run.metrics,
            "settings": run.settings(),
        },
        f"{text}\nfolder: {run.folder}",
    )
