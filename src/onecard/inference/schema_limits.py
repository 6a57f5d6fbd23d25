"""Which JSON schemas may reach the engine's grammar compiler, and what it leaves out of them.

The compiler runs in the engine's only loop: while it works, nobody is answered. Its time grows with
the square of the number of alternatives (SmolLM2-135M on 2 cores, one request: 500 values of an
enum 2 s, 1,000 3.5 s, 2,000 9 s, 4,000 23 s), and a schema of hundreds of levels ends in its stack.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from onecard.errors import DataError

MAX_DEPTH = 32
"""Levels of a schema; also of what its $refs lead to."""
MAX_NODES = 2000
"""Lists and objects in a schema."""
MAX_ALTERNATIVES = 500
"""Values of all its enums and alternatives of all anyOf, oneOf and type lists together."""
MAX_CHARS = 100_000
MAX_REPEATS = 2000
"""maxLength, maxItems and {n,m} of a pattern: the grammar holds a rule for each."""
MAX_PATTERN = 500
"""Characters of one pattern."""
MAX_GRAMMAR = 20_000
"""Characters of a grammar that a client writes itself."""

BOUNDS = ("minLength", "maxLength", "minItems", "maxItems")
UNENFORCED = (
    "multipleOf",
    "uniqueItems",
    "not",
    "if",
    "dependentRequired",
    "dependentSchemas",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "contains",
)
"""Keywords that the compiler passes over."""
FORMATS = ("date", "time", "date-time", "uuid")
"""Values of `format` that it knows."""
UNKNOWN_IN_PATTERN = re.compile(r"\\[^\Wnrt]|\(\?[^:]")
"""Classes as \\d and \\w, word boundaries, back references and look-around: a pattern with one is
not enforced as it is meant."""


def check(schema: Any, what: str) -> list[str]:
    """Where the schema asks for what the grammar does not enforce: "pattern at properties.id".

    Raises DataError for a schema that is too large, naming the limit.
    """
    if not isinstance(schema, dict | bool):
        raise DataError(f"{what} is no JSON schema", why="it is no object", fix="send an object")
    if len(json.dumps(schema)) > MAX_CHARS:
        raise _too_large(what, f"it has more than {MAX_CHARS:,} characters")
    n_nodes, n_alternatives, unenforced = 0, 0, []
    for node, path in _walk(schema):
        n_nodes += 1
        if len(path) > MAX_DEPTH:
            raise _too_large(what, f"it is nested deeper than {MAX_DEPTH} levels")
        if n_nodes > MAX_NODES:
            raise _too_large(what, f"it has more than {MAX_NODES} parts")
        if not isinstance(node, dict):
            continue
        for key in ("enum", "anyOf", "oneOf", "type"):
            if isinstance(node.get(key), list):
                n_alternatives += len(node[key])
        if n_alternatives > MAX_ALTERNATIVES:
            raise _too_large(what, f"it has more than {MAX_ALTERNATIVES} values and alternatives")
        _check_bounds(node, what)
        _check_refs(schema, node, what)
        unenforced += [f"{key} at {'.'.join(path) or 'the top'}" for key in _unenforced(node, path)]
    if isinstance(schema, dict):
        _check_expansion(schema, what)
    return unenforced


def check_grammar(grammar: Any) -> None:
    """Raises DataError for a grammar in the engine's own notation that is too large."""
    if not isinstance(grammar, str):
        raise DataError("grammar is not valid", why="it is no text", fix="send a text in GBNF")
    repeats = [int(n[-9:]) for n in re.findall(r"\{\s*(?:\d+\s*,\s*)?(\d+)", grammar)]
    if len(grammar) > MAX_GRAMMAR or grammar.count("|") > MAX_ALTERNATIVES:
        raise _too_large("the grammar", f"at most {MAX_GRAMMAR:,} characters are compiled")
    if any(n > MAX_REPEATS for n in repeats):
        raise _too_large("the grammar", f"it repeats more than {MAX_REPEATS} times")


def _walk(schema: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Every list and object with the keys that lead to it; no recursion, since depth is what is
    judged."""
    stack: list[tuple[Any, tuple[str, ...]]] = [(schema, ())]
    while stack:
        node, path = stack.pop()
        yield node, path
        rows: Any = ()
        if isinstance(node, dict):
            rows = node.items()
        elif isinstance(node, list):
            rows = enumerate(node)
        stack += [(v, (*path, str(k)[:40])) for k, v in rows if isinstance(v, dict | list)]


def _check_bounds(node: dict[str, Any], what: str) -> None:
    for key in BOUNDS:
        bound = node.get(key, 0)
        if isinstance(bound, int | float) and not 0 <= bound <= MAX_REPEATS:
            raise _too_large(what, f"{key} is {bound}; at most {MAX_REPEATS} can be counted")
    pattern = node.get("pattern", "")
    if not isinstance(pattern, str):
        return  # a property that is named so
    repeats = [int(n[-9:]) for n in re.findall(r"\{(?:\d+,)?(\d+)", pattern)]
    if len(pattern) > MAX_PATTERN or any(n > MAX_REPEATS for n in repeats):
        raise _too_large(what, f"its pattern {pattern[:40]!r} is too long")
    if sum(n > 10 for n in repeats) > 3:
        raise _too_large(what, f"its pattern {pattern[:40]!r} repeats repetitions")


def _unenforced(node: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path and path[-1] in ("properties", "$defs", "definitions"):
        return  # its keys are names
    yield from (key for key in UNENFORCED if key in node)
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        whole = pattern.startswith("^") and pattern.endswith("$")
        if not whole or UNKNOWN_IN_PATTERN.search(pattern):
            yield "pattern"
    if isinstance(node.get("format"), str) and node["format"] not in FORMATS:
        yield "format"
    if node.get("type") == "number" and any(k.endswith("imum") for k in node):
        yield "minimum or maximum"


def target(schema: dict[str, Any], ref: Any) -> Any:
    """What `#/a/b` leads to; None for nothing."""
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        return None
    node: Any = schema
    for key in ref.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isascii() and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            return None
    return node


def _check_refs(schema: Any, node: dict[str, Any], what: str) -> None:
    if isinstance(node.get("$ref"), str) and target(schema, node["$ref"]) is None:
        raise DataError(
            f"{what} is not valid",
            why=f"there is nothing at its $ref {node['$ref'][:80]!r}",
            fix="put what it names under $defs of the same schema",
        )


def _check_expansion(schema: dict[str, Any], what: str) -> None:
    """A chain of $refs that leads to nothing but $refs never ends."""
    for node, _ in _walk(schema):
        n_steps = 0
        while isinstance(node, dict) and isinstance(node.get("$ref"), str):
            node, n_steps = target(schema, node["$ref"]), n_steps + 1
            if n_steps > MAX_DEPTH:
                raise _too_large(what, "its $refs lead in a circle")


def _too_large(what: str, why: str) -> DataError:
    return DataError(
        f"{what} is too large",
        why=f"{why}: compiling it would hold up every client",
        fix="send a smaller schema, or describe it in the prompt and check the answer",
    )
