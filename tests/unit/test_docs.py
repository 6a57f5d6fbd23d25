"""The documents against the program: their links lead somewhere, their commands exist."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from onecard.cli.app import App

ROOT = Path(__file__).parents[2]
TREES = ("docs", "src", "recipes", ".github")
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(p for tree in TREES for p in (ROOT / tree).rglob("*.md"))]
    if path.name not in ("reference.md", "CHANGELOG.md")
)
SCRIPTS = sorted((ROOT / "recipes").rglob("*.sh"))
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```.*?^```|^(?: {4}\S.*\n)+", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:^|[|;&] *|\$ )onecard +([a-z].*)", re.M)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def commands(path):
    """Command lines of a page: of its blocks of code and its inline code."""
    text = path.read_text()
    if path.suffix == ".sh":
        pieces = [text.replace("\\\n", " ")]
    else:
        pieces = [m[0].replace("\\\n", " ") for m in BLOCK.finditer(text)]
        pieces += [m[1] for m in INLINE.finditer(BLOCK.sub("", text))]
    for piece in pieces:
        for line in piece.splitlines():
            for match in COMMAND.finditer(line.strip()):
                yield re.split(r"\s#|\s{3,}|&&|[|;>]", match[1])[0].strip()


def faults(line):
    """What the command line does not know of a documented command."""
    try:
        words = shlex.split(line)
    except ValueError:
        return [f"cannot be split: {line}"]
    group = App()
    ctx = click.Context(group, info_name="onecard")
    while words and isinstance(group, click.Group):
        if (words[0] != "plan" and words[0].isupper()) or words[0] in ("...", "…", "KIND"):
            return []  # a placeholder: onecard TASK plan
        task = getattr(group, "task", None)
        if words[0].startswith("-"):
            if task is None or (group.name != "plan" and not task.default_command):
                break
            words = [
                task.default_command if group.name != "plan" else next(iter(task.plans)),
                *words,
            ]
        command = group.get_command(ctx, words[0])
        if command is None and group.name == "plan" and task is not None:
            command = group.get_command(ctx, next(iter(task.plans)))
            words = ["", *words]
        if command is None:
            return [f"no command {words[0]}: onecard {line}"]
        group, words = command, words[1:]
        ctx = click.Context(group, info_name=group.name, parent=ctx)
    if group.name == "explain-oom" and "--plan" in words:  # takes the options of that plan
        at = words.index("--plan")
        return faults(shlex.join(["plan", words[at + 1], *words[:at], *words[at + 2 :]]))
    known = {
        option.lstrip("-").replace("-", "_")
        for param in group.get_params(ctx)
        for option in [*param.opts, *param.secondary_opts]
    }
    used = [
        w.split("=")[0][2:].replace("-", "_") for w in words if w.startswith("--") and w != "--"
    ]
    return [f"no --{name}: onecard {line}" for name in used if name not in known]


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=name_of)
def test_commands_of_a_page_exist(path):
    wrong = [fault for line in commands(path) for fault in faults(line)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(path):
    targets = [t for t in LINK.findall(path.read_text()) if "://" not in t and "mailto" not in t]
    lost = [t for t in targets if not (path.parent / t).exists() and t != "reference.md"]
    assert not lost


def test_a_wrong_flag_is_found():
    assert faults("rag search retry --no_such_flag 3")
    assert faults("rag no-such-command")
    assert not faults("rag search retry --index notes")


def test_the_demos_evidence_stands_where_it_says():
    """A question whose evidence moved would score 0 in `make demo` and fail no command."""

    def on_one_line(text):
        return " ".join(text.split())

    rows = [json.loads(line) for line in (ROOT / "recipes/demo-questions.jsonl").open()]
    evidence = [each for row in rows for each in row.get("evidence", [])]
    assert len(evidence) > 10
    for each in evidence:
        text = (ROOT / each["path"]).read_text()
        assert on_one_line(each["quote"]) in on_one_line(text), each
