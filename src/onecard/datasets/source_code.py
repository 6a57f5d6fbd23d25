"""Source code to blocks: functions, classes and what lies between, by syntax tree."""

import time
from functools import cache
from typing import Any

import tree_sitter_language_pack

from onecard.datasets.blocks import Block

DEFINITIONS = {
    "function_definition",
    "class_definition",
    "decorated_definition",
    "function_declaration",
    "class_declaration",
    "method_definition",
    "method_declaration",
    "interface_declaration",
    "enum_declaration",
    "type_alias_declaration",
    "struct_item",
    "enum_item",
    "impl_item",
    "trait_item",
    "function_item",
    "mod_item",
    "type_declaration",
    "struct_specifier",
    "class_specifier",
    "namespace_definition",
    "constructor_declaration",
    "module",
    "class",
    "method",
    "singleton_method",
    "lexical_declaration",
    "export_statement",
    "object_declaration",
    "protocol_declaration",
    "trait_declaration",
}
CONTAINERS = {
    "class_definition",
    "class_declaration",
    "impl_item",
    "trait_item",
    "class_specifier",
    "namespace_definition",
    "mod_item",
    "interface_declaration",
    "module",
    "class",
    "object_declaration",
    "decorated_definition",
    "export_statement",
}
DECLARATORS = {
    "function_declarator",
    "pointer_declarator",
    "variable_declarator",
    "type_spec",
}
LARGE_LINES = 60
"""A class with more lines is cut into its methods; a shorter one says more as a whole."""
MAX_DEPTH = 50
"""Definitions in one another, and `*` before a name: 5,000 stars are valid C."""
MAX_PARSE_S = 2.0
"""CPU time of a syntax tree: a file of faults takes minutes; it is then cut at blank lines."""
READ_BYTES = 32 << 10
MAX_CHARS = 2_000_000
"""A longer file is generated: it has no structure that is worth the parse."""


@cache
def _parser(grammar: str) -> Any:
    try:
        return tree_sitter_language_pack.get_parser(grammar)  # type: ignore[arg-type]
    except LookupError:
        return None


def blocks(text: str, grammar: str) -> list[Block]:
    """Each function or class with its lines and name; what lies between in blocks of its own."""
    parser = _parser(grammar)
    lines = text.split("\n")
    if parser is None or len(text) > MAX_CHARS:
        return _between(lines, 0, len(lines), ())
    source = text.encode("utf-8", "replace")
    stop = time.process_time() + MAX_PARSE_S
    try:
        tree = parser.parse(
            lambda offset, _: source[offset : offset + READ_BYTES],
            progress_callback=lambda *_: time.process_time() > stop,
        )
    except ValueError:  # it was stopped
        return _between(lines, 0, len(lines), ())
    return _cut(tree.root_node, lines, 0, len(lines), ())


def _cut(node: Any, lines: list[str], start: int, end: int, trail: tuple[str, ...]) -> list[Block]:
    if len(trail) > MAX_DEPTH:
        return _between(lines, start, end, trail)
    blocks: list[Block] = []
    at = start
    for child in node.children:
        if child.type not in DEFINITIONS:
            continue
        first, last = _with_comments(lines, child.start_point[0], at), child.end_point[0]
        name = _name(child)
        if last < at or (not name and last - first < 3):
            continue
        blocks += _between(lines, at, first, trail)
        here = (*trail, name) if name else trail
        body = _body(child)
        if last - first > LARGE_LINES and body is not None:
            blocks += _cut(body, lines, first, last + 1, here)
        else:
            blocks.append(Block("\n".join(lines[first : last + 1]), first + 1, last + 1, here))
        at = last + 1
    return blocks + _between(lines, at, end, trail)


def _with_comments(lines: list[str], first: int, floor: int) -> int:
    """The first line of the comment or decorator lines that stand right above a definition."""
    while first > floor and lines[first - 1].strip().startswith(
        ("#", "//", "/*", "*", "@", "///", '"""')
    ):
        first -= 1
    return first


def _name(node: Any, depth: int = 0) -> str:
    """The name of a definition; empty for one without, or deep inside others."""
    if depth > MAX_DEPTH:
        return ""
    name_node = node.child_by_field_name("name")
    if name_node is None and node.type == "impl_item":
        name_node = node.child_by_field_name("type")
    if name_node is not None:
        return str(name_node.text.decode("utf-8", "replace"))[:80]
    # a decorator or `export` around the definition; a declarator in C; `const name = ...`
    for child in node.children:
        if child.type in DEFINITIONS | DECLARATORS and (name := _name(child, depth + 1)):
            return name
    declarator = node.child_by_field_name("declarator")
    if declarator is not None:
        return _name(declarator, depth + 1)
    if node.type == "identifier":
        return str(node.text.decode("utf-8", "replace"))[:80]
    return ""


def _body(node: Any) -> Any:
    """The node with the members of a class; None for a function, which is never cut."""
    if node.type not in CONTAINERS:
        return None
    if node.type in ("decorated_definition", "export_statement"):
        inner = next((child for child in node.children if child.type in CONTAINERS), None)
        return _body(inner) if inner is not None else None
    return node.child_by_field_name("body") or next(
        (
            child
            for child in node.children
            if "body" in child.type or child.type == "declaration_list"
        ),
        None,
    )


def _between(lines: list[str], start: int, end: int, trail: tuple[str, ...]) -> list[Block]:
    """Code outside of definitions: runs of lines, cut at blank ones."""
    blocks: list[Block] = []
    run: list[str] = []
    first = start
    for i in range(start, min(end, len(lines)) + 1):
        line = lines[i] if i < min(end, len(lines)) else ""
        if line.strip():
            if not run:
                first = i
            run.append(line)
        elif run:
            blocks.append(Block("\n".join(run), first + 1, first + len(run), trail))
            run = []
    return blocks
