"""Makes what the documentation takes from the code: the reference, the glossary and the picture of
the imports.

    python docs/generate.py            docs/reference.md, docs/glossary.md and docs/architecture.svg
    python docs/generate.py --check    1 when the glossary or the picture that is kept differs

The reference is made when the pages are built; glossary and picture are kept, and tests compare
them.
"""

import ast
import html
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "onecard"
LEAVES = {"errors", "units", "redaction", "paths", "fsio", "i18n", "__version__"}
"""Files that everything may import; left out of the picture."""
WIDTH, BOX, GAP, FLOOR = 960, 118, 18, 92


def package_imports() -> dict[str, set[str]]:
    """Package -> the packages that its files import, at the top or inside functions."""
    edges: dict[str, set[str]] = defaultdict(set)
    for path in SRC.rglob("*.py"):
        if path.name.startswith("test_"):
            continue
        first = path.relative_to(SRC).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module == "onecard":
                edges[first].update(alias.name for alias in node.names)
            elif node.module.startswith("onecard."):
                edges[first].add(node.module.split(".")[1])
    hidden = LEAVES | {"__init__", "__main__"}
    return {
        name: {each for each in targets if each not in hidden | {name}}
        for name, targets in edges.items()
        if name not in hidden
    }


def floors(edges: dict[str, set[str]]) -> dict[str, int]:
    """Package -> its floor: one above the highest that it imports."""
    level: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in level:
            level[name] = 1 + max((of(each) for each in edges.get(name, ())), default=-1)
        return level[name]

    for name in edges:
        of(name)
    return level


def without_shortcuts(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that no path over another package replaces."""

    def reach(name: str) -> set[str]:
        below = set(edges.get(name, ()))
        for each in edges.get(name, ()):
            below |= reach(each)
        return below

    return {
        name: {
            each
            for each in targets
            if not any(each in reach(other) for other in targets if other != each)
        }
        for name, targets in edges.items()
    }


def architecture_svg() -> str:
    """Packages as boxes on floors, the highest at the top; an arrow points to what is imported."""
    edges = package_imports()
    level = floors(edges)
    rows: dict[int, list[str]] = defaultdict(list)
    for name in sorted(level):
        rows[level[name]].append(name)
    top = max(rows)
    place: dict[str, tuple[float, float]] = {}
    for floor, names in rows.items():
        start = (WIDTH - len(names) * BOX - (len(names) - 1) * GAP) / 2
        for i, name in enumerate(names):
            place[name] = (start + i * (BOX + GAP), 20 + (top - floor) * FLOOR)
    height = 40 + top * FLOOR + 44
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="15">',
        '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#8c959f"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for name, targets in sorted(without_shortcuts(edges).items()):
        x, y = place[name]
        for target in sorted(targets):
            to_x, to_y = place[target]
            lines.append(
                f'<line x1="{x + BOX / 2:.0f}" y1="{y + 36:.0f}" x2="{to_x + BOX / 2:.0f}" '
                f'y2="{to_y - 2:.0f}" stroke="#8c959f" marker-end="url(#a)"/>'
            )
    for name, (x, y) in sorted(place.items()):
        lines.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX}" height="36" rx="6" fill="#ddf4ff" '
            'stroke="#1f6feb"/>'
            f'<text x="{x + BOX / 2:.0f}" y="{y + 23:.0f}" text-anchor="middle" fill="#1b1f24">'
            f"{html.escape(name)}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


def reference() -> str:
    """Every command with its settings, their defaults and their help."""
    from onecard import config, tasks
    from onecard.cli.app import ABOVE
    from onecard.cli.options import ConfigOption

    lines = [
        "# Reference",
        "",
        "Made from the code by `docs/generate.py`. Every setting is a flag (`--top_k 5` or "
        "`--top-k 5`), a line of a TOML file (`--config my.toml`) or of a preset (`--preset 12gb`)."
        " Every command also takes `--card`, `--preset`, `--config`, `--json`, `--lang`, `-v` and "
        "`--traceback`.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| `onecard {name}` | {summary} |" for name, summary in ABOVE.items()),
        "",
    ]
    for task in tasks.all_tasks().values():
        lines += [f"## {task.name}", "", task.summary[0].upper() + task.summary[1:] + ".", ""]
        rows = [(f"onecard {task.name} {name}", row) for name, row in task.commands.items()]
        rows += [(f"onecard plan {name}", row) for name, row in task.plans.items()]
        for title, row in rows:
            schema = tasks.config_class(task, row.config)
            help_of = config.describe(schema)
            lines += [f"### {title}", "", row.summary[0].upper() + row.summary[1:] + ".", ""]
            lines += ["| setting | values | meaning |", "|---|---|---|"]
            for heading, names in config.groups(schema).items():
                for name in names:
                    info = schema.model_fields[name]
                    option = ConfigOption(name, info, heading)
                    shape = option.metavar_text.replace("|", "\\|") or "on or off"
                    lines.append(f"| `{name}` | {shape} | {help_of[name]} |")
            lines.append("")
    return "\n".join(lines)


def glossary_page() -> str:
    """Every term, its other names and its meaning: src/onecard/glossary.toml as a page."""
    from onecard import glossary

    lines = [
        "# Glossary",
        "",
        "Made from `src/onecard/glossary.toml` by `docs/generate.py`. "
        "`onecard ui` shows it too, in English and Chinese.",
        "",
        "| term | also | meaning |",
        "|---|---|---|",
    ]
    for term in glossary.terms():
        also = ", ".join(f"`{each}`" for each in term.aliases)
        lines.append(f"| {term.term} | {also} | {term.definition} |".replace("  ", " "))
    return "\n".join([*lines, ""])


def main() -> int:
    kept = {"architecture.svg": architecture_svg(), "glossary.md": glossary_page()}
    if "--check" in sys.argv:
        files = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in kept}
        return int(files != kept)
    for name, text in kept.items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")
    (ROOT / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
