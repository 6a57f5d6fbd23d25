"""The architecture (docs/architecture.md) against the code. Imports inside functions count."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from onecard import tasks

SRC = Path(__file__).parents[2] / "src" / "onecard"
ROOT = SRC.parents[1]
FILES = sorted(path for path in SRC.rglob("*.py") if not path.name.startswith("test_"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HEAVY = {
    *("torch", "torchvision", "transformers", "peft", "trl", "datasets", "bitsandbytes"),
    *("datasketch", "diffusers", "ultralytics", "ctranslate2", "faster_whisper", "soxr", "av"),
    *("scipy", "faiss", "gradio", "sentence_transformers", "qdrant_client", "onnxruntime", "onnx"),
    *("openai", "matplotlib", "xllamacpp", "uvicorn", "starlette", "gguf", "prompt_toolkit"),
    *("numpy", "jinja2"),
}
LIGHT = re.compile(
    r"(__init__|__main__|config|doctor|errors|fsio|glossary|i18n|paths|redaction|reporting)\.py"
    r"|units\.py"
    r"|api/.*|cli/.*|hub/(?!checkpoints).*|memory/(?!fake_tensor).*"
    r"|(\w+)/(__init__|config|planning)\.py|tasks/\w+\.py|tasks/\w+/(__init__|configs|memory)\.py"
    r"|runs/(record|store|measured|tracking|config)\.py"
)
"""Files that a plan, a help text or a list of runs loads."""
PARTICIPLES = {"held", "found", "made", "said", "given", "taken", "asked", "done", "told", "seen"}
NAMES_THAT_SAY_NOTHING = {"utils.py", "helpers.py", "common.py", "misc.py", "core.py"}


def room(path):
    return path.relative_to(SRC).as_posix()


def imports(path):
    """Every module of ours that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_imports(path):
    """Packages that loading a file loads; what only type checkers see is left out."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def part(name):
    """The package of onecard that an import leads to: tasks, memory, api ..."""
    words = name.split(".")
    return words[1] if len(words) > 1 and words[0] == "onecard" else ""


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=room)
def test_a_file_is_short_and_named_after_a_thing(path):
    assert path.read_text().count("\n") <= 500
    assert path.name not in NAMES_THAT_SAY_NOTHING
    assert len(path.relative_to(SRC).parts) <= 4


@pytest.mark.parametrize("path", FILES, ids=room)
def test_a_function_is_under_80_lines(path):
    for node in functions(path):
        size = node.end_lineno - node.lineno + 1
        assert size <= 80, f"{node.name}: {size} lines"


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: path.name)
def test_no_line_is_over_100_columns(path):
    long = [n for n, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 100]
    assert not long


PAGES = sorted((SRC / "web" / "static").glob("*.js")) + sorted(
    (SRC / "web" / "static").glob("*.css")
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_loads_nothing_and_builds_no_html(path):
    """100 columns; scripts of at most 500 lines; no address of elsewhere; text becomes HTML in one
    place a page, sanitised."""
    text = path.read_text()
    assert path.suffix != ".js" or text.count("\n") <= 500
    assert not [line for line in text.splitlines() if len(line) > 100]
    assert not re.search(r"https?://(?!127\.|www\.w3\.org)", text)
    assert not re.search(
        r"\beval\(|new Function|document\.write|outerHTML *=[^=]|insertAdjacentHTML", text
    )
    if ".innerHTML" in text:
        assert "sanitised" in text


@pytest.mark.parametrize("path", FILES, ids=room)
def test_a_module_says_what_it_is(path):
    if path.name != "__main__.py":
        assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=room)
def test_no_conditional_expression_in_another(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.IfExp):
            inner = [each for each in ast.walk(node) if isinstance(each, ast.IfExp)]
            assert len(inner) == 1, f"line {node.lineno}"


def test_variables_are_named_by_nouns():
    """At most ten in the whole package are named by a participle that says nothing."""
    named = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(each, ast.Name) and each.id in PARTICIPLES for each in targets):
                named.append(f"{room(path)}:{node.lineno}")
    assert len(named) <= 10, named


def test_a_task_never_imports_another_task():
    for path in SRC.glob("tasks/*/*.py"):
        for name in imports(path):
            if name.startswith("onecard.tasks.") and not name.startswith("onecard.tasks.base"):
                assert name.split(".")[2] == path.parent.name, f"{room(path)} imports {name}"


def test_nothing_below_the_tasks_imports_a_task():
    above = {"tasks", "api", "cli", "web", "__main__"}
    for path in FILES:
        first = path.relative_to(SRC).parts[0].removesuffix(".py")
        if first not in above:
            assert not {part(name) for name in imports(path)} & above, room(path)


def test_only_the_door_is_used_from_above():
    """cli and web -> api; beside it the single files, and the tasks' own list."""
    allowed = {"api", "tasks", "cli", "config", "errors", "fsio", "paths", "redaction"}
    allowed |= {"i18n", "reporting", "units", "__version__", ""}
    served = allowed - {"cli"} | {"glossary", "serving", "web"}
    for path in [*SRC.glob("cli/**/*.py"), *SRC.glob("web/**/*.py")]:
        allowed = served if "web" in path.parts else allowed
        assert {part(name) for name in imports(path)} <= allowed, room(path)
        for name in imports(path):
            if part(name) == "tasks":
                assert re.fullmatch(r"onecard\.tasks(\.base(\.\w+)?)?", name), (
                    f"{room(path)}: {name}"
                )


def package_graph():
    edges = {}
    for path in FILES:
        first = path.relative_to(SRC).parts[0].removesuffix(".py")
        edges.setdefault(first, set()).update(part(name) for name in imports(path))
    return {name: targets - {name, "", "__version__"} for name, targets in edges.items()}


def module_graph():
    names = {}
    for path in FILES:
        dotted = room(path).removesuffix(".py").replace("/", ".")
        names[f"onecard.{dotted}".removesuffix(".__init__")] = path
    return {
        name: {other for other in imports(path) if other in names and other != name}
        for name, path in names.items()
    }


@pytest.mark.parametrize("graph", [package_graph, module_graph])
def test_no_import_runs_in_a_circle(graph):
    """Packages have floors; modules too, with what they import inside functions."""
    edges, finished, trail = graph(), set(), []

    def visit(name):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in finished:
            trail.append(name)
            for other in sorted(edges.get(name, ())):
                visit(other)
            trail.pop()
            finished.add(name)

    for name in edges:
        visit(name)


@pytest.mark.parametrize("path", FILES, ids=room)
def test_heavy_libraries_stay_in_heavy_files(path):
    if LIGHT.fullmatch(room(path)):
        assert not set(top_imports(path)) & HEAVY


def test_imports_inside_functions_have_a_reason():
    """An optional or heavy library may be loaded late, with a comment or docstring that says why;
    a module of ours may not."""
    for path in FILES:
        lines = path.read_text().splitlines()
        for function in functions(path):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onecard"):
                    near = "\n".join(lines[function.lineno - 1 : node.end_lineno])
                    assert "#" in near, f"{room(path)}:{node.lineno} imports {node.module}"


def test_only_reporting_and_the_command_line_print():
    for path in FILES:
        if room(path) in ("reporting.py", "inference/llamacpp_child.py") or "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{room(path)}:{node.lineno}"


def test_no_task_is_named_outside_its_folder():
    """Nothing below the tasks decides by a task's name: `if task == "rag"`."""
    for path in FILES:
        # a network's own task, as ultralytics calls it, is no task of ours
        if "tasks" not in path.parts and not {"architectures", "estimators"} & set(path.parts):
            text = path.read_text()
            for name in tasks.names():
                assert not re.search(rf"""task(\.name)? [=!]= ["']{name}["']""", text), room(path)


def test_no_registry_host_is_named():
    words = ["py" + r"pi\.org", "python" + "hosted", r"registry\.npm" + "js", r"files\.python"]
    hosts = re.compile("|".join(words))
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    files = [ROOT / name for name in listing.stdout.split()] or [*FILES, *TESTS]
    for path in files:
        if path.is_file() and path.stat().st_size < 1 << 20:
            assert not hosts.search(path.read_text(errors="replace")), path


def test_nothing_outside_the_tree_is_cited():
    """A user has no ../shared: only its tests and benches name it."""
    for path in FILES:
        assert "../shared" not in path.read_text(), room(path)
        assert "MEMORY-NOTES" not in path.read_text(), room(path)
        assert not re.search(r"\bDESIGN\b", path.read_text()), room(path)


@pytest.mark.parametrize("path", FILES, ids=room)
def test_a_refusal_says_what_why_and_fix(path):
    tree = ast.parse((SRC / "errors.py").read_text())
    known = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            words = {word.arg: word.value for word in node.keywords}
            assert {"why", "fix"} <= set(words), f"line {node.lineno}"
            for value in words.values():
                empty = isinstance(value, ast.Constant) and not value.value
                assert not empty, f"line {node.lineno}"
