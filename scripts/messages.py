"""The messages that onecard can show in another language, against a language's catalogue.

    python scripts/messages.py             lists what is missing, empty, fuzzy, unused or lacks a
                                           placeholder; 1 when there is anything
    python scripts/messages.py --append    adds what is missing to the end of the .po file, for a
                                           translator; nothing that stands there is touched
    python scripts/messages.py --list      every message with where it comes from

A new text needs no entry here when it is a help text, a heading, a summary, a term of the glossary,
an argument of `gettext` or `_` in Python, of `_` or `trans` in a template, or of `t` in JavaScript.
"""

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from babel.messages import pofile

from onecard import config, glossary, i18n, tasks
from onecard.cli.app import ABOVE, App
from onecard.cli.options import ConfigCommand

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "onecard"
FIELD = re.compile(r"\{(\w*)\}")
CALLS = {"gettext", "_"}
WORDS = {
    # a plan's verdict and a comparison's
    *("fits", "fits closely", "does not fit", "total"),
    *("better", "worse", "equal", "inconclusive", "a tie", "chosen"),
    # states of `onecard doctor` and of a run
    *("good", "missing", "bad", "done", "failed", "running", "killed", "stopped"),
    # heads that are no argument
    "Command line",
    # click's own
    *("Usage:", "Options", "Commands", "Arguments", "Show this message and exit."),
    "each row's plan:",
}
"""Words that are looked up as they come: verdicts, states, heads that a library writes."""

Message = tuple[str, str]
"""(context, text); the context is empty but for the terms of the glossary."""


def messages() -> dict[Message, str]:
    """Every message and where it comes from, in a fixed order."""
    out: dict[Message, str] = {}
    sources = (_tasks, _command_line, _words, _glossary, _web)
    for source in sources:
        for context, text, origin in source():
            if text.strip():
                out.setdefault((context, text), origin)
    return out


def _tasks() -> Iterator[tuple[str, str, str]]:
    for task in tasks.all_tasks().values():
        yield "", task.summary, task.name
        for name, row in [*task.commands.items(), *task.plans.items()]:
            yield "", row.summary, f"{task.name} {name}"
    for task in tasks.all_tasks().values():
        for target, schema in tasks.configs(task).items():
            for text, origin in _config(schema):
                yield "", text, f"{task.name} {target.partition(':')[2]} {origin}".strip()

    for name, task in tasks.all_tasks().items():
        memory = tasks.memory(task)
        for row in memory.fit_rows() if hasattr(memory, "fit_rows") else ():
            yield "", row.summary, f"onecard fit: {name}"


def _config(schema: type[config.Config]) -> Iterator[tuple[str, str]]:
    for heading in config.groups(schema):
        yield heading, "heading"
    for field, text in config.describe(schema).items():
        yield text, field


def _command_line() -> Iterator[tuple[str, str, str]]:
    for name, summary in ABOVE.items():
        yield "", summary, f"onecard {name}"
    for command, path in _walk(App(), "onecard"):
        is_plan = isinstance(command, ConfigCommand) and " plan " in path
        if not is_plan:  # a plan's help is composed of two messages
            yield "", inspect.cleandoc(command.help or ""), path
        if isinstance(command, ConfigCommand):
            # a task's own were counted before
            for text, origin in _config(command._schema()):
                yield "", text, f"{path} {origin}"
        for param in command.get_params(click.Context(command)):
            if isinstance(param, click.Option) and not param.hidden:
                yield "", param.help or "", f"{path} --{param.name}"
    for path in [*sorted((SRC / "cli").rglob("*.py")), SRC / "reporting.py"]:
        yield from _python(path, errors=True)


def _walk(command: click.Command, path: str) -> Iterator[tuple[click.Command, str]]:
    """Every command below it and itself."""
    yield command, path
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            if below := command.get_command(ctx, name):
                yield from _walk(below, f"{path} {name}")


def _python(path: Path, errors: bool = False) -> Iterator[tuple[str, str, str]]:
    """Constant arguments of `gettext` and `_`, of help formatters, and with `errors` the constant
    texts of refusals, which are looked up when they are printed."""
    where = path.relative_to(SRC).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
        arguments = node.args[:1]
        is_refusal = re.fullmatch(r"\w*Error|NotFound|MissingExtra|DoesNotFit", name) is not None
        if errors and is_refusal:
            arguments = [*arguments, *(word.value for word in node.keywords)]
        elif name in ("write_text", "section"):
            if not errors:
                continue
        elif name not in CALLS:
            continue
        for argument in arguments:
            text = argument.value if isinstance(argument, ast.Constant) else None
            is_command = is_refusal and str(text).startswith(("onecard ", "pip ", "--"))
            if isinstance(text, str) and not is_command:
                yield "", text, where


def _words() -> Iterator[tuple[str, str, str]]:
    for word in sorted(WORDS):
        yield "", word, "word"
    for path in sorted(SRC.rglob("*.py")):
        if path.name.startswith("test_"):
            continue
        text = path.read_text(encoding="utf-8")
        if not re.search(r"\bTerm\(|\btable\(", text):  # others write CSV heads
            continue
        for node in ast.walk(ast.parse(text)):
            for value in _heads(node):
                if isinstance(value, ast.Constant) and re.search(r"[a-z]", str(value.value)):
                    yield "", str(value.value), path.relative_to(SRC).as_posix()


def _heads(node: ast.AST) -> list[ast.expr]:
    """Heads of a table, names of a plan's terms, and what a check of `onecard doctor` tells."""
    match node:
        case ast.Call(func=ast.Name(id="table"), args=[_, ast.List(elts=heads)]):
            return heads
        case ast.Assign(targets=[ast.Name(id="head")], value=ast.List(elts=heads)):
            return heads
        case ast.Call(func=ast.Name(id="Term"), args=[ast.Constant() as name, *_]):
            return [name]
        case ast.Call(func=ast.Name(id="Check"), args=[name, _, *texts]):
            parts = [part for text in texts for part in _constants(text)]
            return [name, *(part for part in parts if not str(part.value).startswith("pip "))]
    return []


def _constants(node: ast.expr) -> list[ast.Constant]:
    """A text, or the texts of both cases of a conditional expression."""
    if isinstance(node, ast.IfExp):
        return [*_constants(node.body), *_constants(node.orelse)]
    return [node] if isinstance(node, ast.Constant) else []


def _glossary() -> Iterator[tuple[str, str, str]]:
    for term in glossary.terms():
        yield glossary.CONTEXT, term.term, "glossary"
        yield "", term.definition, f"glossary: {term.term}"


_TEXT = r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_TEMPLATE = re.compile(rf"(?<![\w.])(?:_|gettext)\(\s*({_TEXT}(?:\s*~?\s*{_TEXT})*)", re.S)
_TRANS = re.compile(r"\{%-?\s*trans\b[^%]*%\}(.*?)\{%-?\s*endtrans\s*-?%\}", re.S)
_SCRIPT = re.compile(rf"(?<![\w.$])t\(\s*({_TEXT}(?:\s*\+\s*{_TEXT})*)", re.S)


def _web() -> Iterator[tuple[str, str, str]]:
    web = SRC / "web"
    for path in sorted(web.rglob("*.py")):
        if not path.name.startswith("test_"):
            yield from _python(path)
    for path in sorted(web.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(SRC).as_posix()
        for match in _TEMPLATE.finditer(text):
            yield "", _joined(match[1]), where
        for match in _TRANS.finditer(text):
            yield "", re.sub(r"\{\{\s*(\w+)\s*\}\}", r"%(\1)s", match[1].strip()), where
    for path in sorted(web.rglob("*.js")):
        for match in _SCRIPT.finditer(path.read_text(encoding="utf-8")):
            yield "", _joined(match[1]), path.relative_to(SRC).as_posix()


def _joined(literals: str) -> str:
    """Adjacent string literals as one text; both quotes and escapes are Python's too."""
    return "".join(ast.literal_eval(match[1]) for match in re.finditer(_TEXT, literals))


def po_file(language: str) -> Path:
    return i18n.LOCALE / language / "LC_MESSAGES" / "onecard.po"


def entries(language: str) -> dict[Message, pofile.Message]:
    """What stands in the catalogue."""
    with po_file(language).open("rb") as file:
        rows = pofile.read_po(file, locale=language)
    return {(row.context or "", str(row.id)): row for row in rows if row.id}


def faults(language: str) -> list[str]:
    """What is wrong with the catalogue, a line each; empty when nothing is."""
    rows, needed = entries(language), messages()
    out = [
        f"missing: {text!r} ({origin})"
        for (context, text), origin in needed.items()
        if (context, text) not in rows
    ]
    for (context, text), row in rows.items():
        if (context, text) not in needed:
            out.append(f"unused: {text!r}")
        elif not str(row.string).strip():
            out.append(f"empty: {text!r}")
        elif sorted(FIELD.findall(text)) != sorted(FIELD.findall(str(row.string))):
            out.append(f"placeholders differ: {text!r}")
        if row.fuzzy:
            out.append(f"fuzzy: {text!r}")
    return out


def append(language: str) -> int:
    """Add the missing messages with empty translations; how many there were."""
    rows = entries(language)
    missing = {key: origin for key, origin in messages().items() if key not in rows}
    blocks = []
    for (context, text), origin in missing.items():
        lines = [f"#. {origin}"]
        if context:
            lines.append(f"msgctxt {_quoted(context)}")
        blocks.append("\n".join([*lines, f"msgid {_quoted(text)}", 'msgstr ""', ""]))
    if blocks:
        path = po_file(language)
        before = path.read_text(encoding="utf-8").rstrip("\n")
        path.write_text("\n".join([before, "", *blocks]), encoding="utf-8")
    return len(missing)


def _quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--append", action="store_true", help="add what is missing, untranslated")
    parser.add_argument("--list", action="store_true", help="every message and its origin")
    parser.add_argument("--language", default="zh_TW", choices=[*i18n.LANGUAGES][1:])
    words = parser.parse_args()
    if words.list:
        for (context, text), origin in messages().items():
            print(f"{origin}\t{context}\t{text}")
        return 0
    if words.append:
        print(f"{append(words.language)} messages added to {po_file(words.language)}")
    rows = faults(words.language)
    print("\n".join(rows) or "nothing is missing")
    return int(bool(rows))


if __name__ == "__main__":
    sys.exit(main())
