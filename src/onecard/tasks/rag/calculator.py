"""A safe calculator: an arithmetic expression is parsed and evaluated, no code is run."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from onecard.errors import DataError

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "abs": abs,
    "round": round,
    "min": min,
    "max": max,
}
MAX_CHARS = 300
MAX_EXPONENT, MAX_BASE = 1000, 1e100
"""Bounds of a power: 9**9**9 would take all memory."""


def calculate(expression: str) -> float:
    """Numbers, + - * / // % **, brackets, pi, e and a few functions.

    Raises DataError for anything else.

    >>> calculate("12 * (3 + 4)"), calculate("2 ** 10")
    (84, 1024)
    """
    try:
        if len(expression) > MAX_CHARS:
            raise ValueError("too long")
        result = _evaluate(ast.parse(expression.replace("^", "**"), mode="eval").body)
        return result if isinstance(result, int) else round(float(result), 10)
    except (
        ValueError,
        SyntaxError,
        TypeError,
        ZeroDivisionError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as fault:
        raise DataError(
            f"'{expression[:80]}' cannot be calculated",
            why=str(fault)[:100],
            fix="numbers, + - * / // % **, brackets, and: " + ", ".join(FUNCTIONS),
        ) from None


def _evaluate(node: ast.AST) -> Any:
    """The value of a syntax tree. Raises ValueError for a node that is not arithmetic."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id="pi"):
            return math.pi
        case ast.Name(id="e"):
            return math.e
        case ast.UnaryOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](_evaluate(node.operand))
        case ast.BinOp(op=ast.Pow()):
            base, exponent = _evaluate(node.left), _evaluate(node.right)
            if abs(exponent) > MAX_EXPONENT or abs(base) > MAX_BASE:
                raise ValueError("too large a power")
            return base**exponent
        case ast.BinOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](*map(_evaluate, node.args))
    raise ValueError("only arithmetic")
