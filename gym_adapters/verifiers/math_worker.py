"""Comparing mathematical expressions with math-verify, in a process of a `ProcessPool`.

Most wrong answers are a number or a polynomial where another one was asked for. Algebra would take
milliseconds to find no way to make them equal; their values at one point tell it in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Add, Expr, FiniteSet, Float, Integer, Interval, Mul, Pow, Rational, Symbol, Tuple

_SHOWN = 200
_DIGITS = 50
_GOLD = (LatexExtractionConfig(),)
_ANSWER = (ExprExtractionConfig(), LatexExtractionConfig())
_WARM_UP = (
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    (r"x^2+2x+1", r"\boxed{(x+1)^2}"),
    (r"\sqrt{3}\pi", r"\boxed{\pi\sqrt{3}}"),
    (r"(1, 2]", r"\boxed{(1,2]}"),
    (r"\{1,2,3\}", r"\boxed{\{3,2,1\}}"),
    (r"x=5", r"\boxed{5}"),
    (r"x \le 3", r"\boxed{3 \ge x}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{\begin{pmatrix}1&2\\3&4\end{pmatrix}}"),
    (r"12\%", "The answer is 12%."),
    (r"\sin x", r"\boxed{\cos(x)}"),
)


@lru_cache(maxsize=512)
def gold_of(expected: str) -> list[object]:
    """The expected answer as expressions; all attempts at a task share it."""
    boxed: list[object] = parse(
        f"\\boxed{{{expected}}}", extraction_config=_GOLD, parsing_timeout=None
    )
    return boxed or parse(f"${expected}$", extraction_config=_GOLD, parsing_timeout=None)


def same_number(one: object, other: object) -> bool:
    """Whether both are constants that agree to 50 digits.

    Algebra would show the same in seconds (of powers of roots, say), where this takes a moment;
    math-verify itself is content with 15 digits.
    """
    constants = [part for part in (one, other) if isinstance(part, Expr) and not part.free_symbols]
    if len(constants) < 2:
        return False
    first, second = (part.evalf(_DIGITS + 10) for part in constants)
    if not (isinstance(first, Float) and isinstance(second, Float)):
        return False
    return bool(abs(first - second) <= abs(first) * Float(10) ** -_DIGITS)


# Larger powers and denominators could make a coefficient that math-verify takes for nothing.
_HIGHEST_POWER = 8
_MOST_DENOMINATOR = 1000


def differ(one: object, other: object) -> bool:
    """Whether `one` and `other` are surely different, to math-verify too.

    They are where both are polynomials with exact coefficients that differ at a point, or where one
    is such and the other lists several values.
    """
    first, second = _polynomial(one), _polynomial(other)
    if first is not None and second is not None:
        return _differ_at_a_point(first, second)
    return (first is not None and _is_several(other)) or (second is not None and _is_several(one))


def _polynomial(expression: object) -> Expr | None:
    """`expression` if `_value` can tell what it is worth.

    A lone symbol is none: to math-verify, that may be a word.
    """
    if not isinstance(expression, Add | Mul | Pow | Rational):
        return None
    return expression if _value(expression, {}) is not None else None


def _differ_at_a_point(one: Expr, other: Expr) -> bool:
    names = sorted(symbol.name for symbol in one.free_symbols | other.free_symbols)
    point = {name: Fraction(1009 + 31 * number, 7) for number, name in enumerate(names)}
    return _value(one, point) != _value(other, point)


def _value(expression: object, point: Mapping[str, Fraction]) -> Fraction | None:
    """Its value where symbols stand for `point` (or else for 1); ``None`` if it has other parts."""
    if isinstance(expression, Integer):
        return Fraction(int(expression))
    if isinstance(expression, Rational):
        bottom = int(expression.q)
        return Fraction(int(expression.p), bottom) if 0 < bottom <= _MOST_DENOMINATOR else None
    if isinstance(expression, Symbol):
        return point.get(expression.name, Fraction(1))
    if isinstance(expression, Pow):
        base, power = expression.args
        if power == -1 and isinstance(base, Integer) and 0 < int(base) <= _MOST_DENOMINATOR:
            return Fraction(1, int(base))
        if not isinstance(power, Integer) or not 0 < int(power) <= _HIGHEST_POWER:
            return None
        worth = _value(base, point)
        return None if worth is None else worth ** int(power)
    if not isinstance(expression, Add | Mul):
        return None
    total = Fraction(isinstance(expression, Mul))
    for part in expression.args:
        worth = _value(part, point)
        if worth is None:
            return None
        total = total * worth if isinstance(expression, Mul) else total + worth
    return total


def _is_several(expression: object) -> bool:
    """Whether `expression` is a list of values of which there are two or more."""
    if isinstance(expression, Interval):
        return isinstance(expression.start, Rational) and isinstance(expression.end, Rational)
    if not isinstance(expression, FiniteSet | Tuple) or len(expression.args) < 2:
        return False
    return all(isinstance(part, Rational) for part in expression.args)


def compared(expected: str, given: str) -> dict[str, Any]:
    """Whether `given` gives `expected`, and what was read in it."""
    gold = gold_of(expected)
    found = parse(given, extraction_config=_ANSWER, parsing_timeout=None)
    pairs = [(one, other) for one in gold for other in found if not differ(one, other)]
    equal = any(same_number(one, other) for one, other in pairs) or any(
        verify(one, other, timeout_seconds=None) for one, other in pairs
    )
    extracted = str(found[-1])[:_SHOWN] if found else None
    return {"equal": bool(equal), "extracted": extracted}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request: ``expected`` and ``answer`` in, ``equal`` and ``extracted`` out."""
    return compared(request["expected"], request["answer"])


def warm_up() -> None:
    """Fill the grammar's tables and sympy's caches, so that no rollout pays for that."""
    for expected, given in _WARM_UP:
        compared(expected, given)
