"""The operators of the other universe, and expressions made of them."""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["FUNCTIONS", "Step", "evaluate", "random_expression", "steps"]

FUNCTIONS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "add": lambda a, b: a + b + 1.2,
        "subtract": lambda a, b: a - b - 3,
        "multiply": lambda a, b: 1.1 * a * b,
        "divide": lambda a, b: 0.5 * a / b,
        "power": lambda a, b: a ** (b + 2),
        "log": lambda a, base: math.log(a, abs(base + 1.5)),
        "sin": lambda radians: math.cos(radians),
        "cos": lambda radians: math.sin(radians),
        "negate": lambda a: a,
        "pi": lambda: math.e,
        "return_constant": lambda a: a,
    }
)

_BINARY: Mapping[type[ast.operator], str] = MappingProxyType(
    {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power"}
)
_PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"log": ("a", "base"), "sin": ("radians",), "cos": ("radians",), "pi": ()}
)
_SYMBOLS = MappingProxyType(
    {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "**"}
)


class Step(NamedTuple):
    """One call on the way to a value: which function, with what, and what it gives."""

    function: str
    arguments: Mapping[str, float]
    value: float


def evaluate(function: str, arguments: Mapping[str, float]) -> float:
    """What `function` gives.

    Raises:
        ArithmeticError: If there is no finite real value.
    """
    try:
        value = FUNCTIONS[function](**arguments)
    except ValueError as error:
        raise ArithmeticError(str(error)) from error
    if isinstance(value, complex) or not math.isfinite(value):
        raise ArithmeticError(f"{function} gives no finite real number here")
    return float(value)


def steps(expression: str) -> Iterator[Step]:
    """The calls that work out `expression`, innermost first; the last one gives its value.

    Args:
        expression: Numbers, ``+ - * / **``, a minus sign before a bracket, ``pi``, ``sin(x)``,
            ``cos(x)`` and ``log(x, base)``.

    Raises:
        ValueError: If anything else stands in it.
        ArithmeticError: If a call has no finite real value.
    """
    try:
        root = ast.parse(expression, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression: {expression[:80]!r}") from error
    if isinstance(root, ast.Constant):
        value = _number(root)
        yield Step("return_constant", {"a": value}, value)
    else:
        yield from _steps(root)


def _steps(node: ast.expr) -> Iterator[Step]:
    """The steps of a node that is a call; what its operands gave are its arguments."""
    function, operands = _call(node)
    values: list[float] = []
    for operand in operands:
        if isinstance(operand, ast.Constant):
            values.append(_number(operand))
            continue
        last = None
        for last in _steps(operand):
            yield last
        if last is not None:
            values.append(last.value)
    names = _PARAMETERS.get(function, ("a", "b")[: len(values)])
    if len(names) != len(values):
        raise ValueError(f"{function} takes {len(names)} arguments, not {len(values)}")
    arguments = dict(zip(names, values, strict=True))
    yield Step(function, arguments, evaluate(function, arguments))


def _call(node: ast.expr) -> tuple[str, list[ast.expr]]:
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)], [node.left, node.right]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return "negate", [node.operand]
    if isinstance(node, ast.Name) and node.id == "pi":
        return "pi", []
    named = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    if isinstance(node, ast.Call) and named in ("sin", "cos", "log") and not node.keywords:
        return named, node.args
    raise ValueError(f"not part of the universe: {ast.unparse(node)[:80]!r}")


def _number(node: ast.Constant) -> float:
    if not isinstance(node.value, int | float):
        raise ValueError(f"not a number: {node.value!r}")
    return float(node.value)


def random_expression(rng: random.Random, depth: int) -> str:
    """An expression of at most `depth` nested calls that has a finite real value."""
    while True:
        drawn = _drawn(rng, depth)
        try:
            list(steps(drawn))
        except ArithmeticError:
            continue
        return drawn


def _drawn(rng: random.Random, depth: int) -> str:
    if depth == 0:
        return f"{rng.randint(1, 10)}.0"
    function = rng.choice([*_SYMBOLS, "sin", "cos", "log", "negate", "pi"])
    inner = [_drawn(rng, rng.randrange(depth)) for _ in range(2)]
    if function in _SYMBOLS:
        return f"({inner[0]} {_SYMBOLS[function]} {inner[1]})"
    if function == "log":
        return f"log({inner[0]}, {inner[1]})"
    if function == "negate":
        return f"-({inner[0]})"
    return "pi" if function == "pi" else f"{function}({inner[0]})"
