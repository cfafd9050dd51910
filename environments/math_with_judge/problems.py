"""Problems from school, with their answers in LaTeX."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction

__all__ = ["problem"]


def problem(rng: random.Random, difficulty: float) -> tuple[str, str]:
    """A question and its answer; `difficulty` from 0 to 1."""
    kinds = (
        _EASY + (_MIDDLING if difficulty >= 0.34 else []) + (_HARD if difficulty >= 0.67 else [])
    )
    return rng.choice(kinds)(rng, 10 + round(difficulty * 80))


def _latex(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _sum(rng: random.Random, bound: int) -> tuple[str, str]:
    one, two, three = (rng.randint(2, bound) for _ in range(3))
    return f"What is ${one} + {two} \\cdot {three}$?", str(one + two * three)


def _fractions(rng: random.Random, bound: int) -> tuple[str, str]:
    parts = [Fraction(rng.randint(1, bound), rng.randint(2, bound)) for _ in range(2)]
    shown = [f"\\frac{{{p.numerator}}}{{{p.denominator}}}" for p in parts]
    return f"What is ${shown[0]} - {shown[1]}$, in lowest terms?", _latex(parts[0] - parts[1])


def _divisor(rng: random.Random, bound: int) -> tuple[str, str]:
    common = rng.randint(2, bound)
    one, two = common * rng.randint(2, bound), common * rng.randint(2, bound)
    return f"What is the greatest common divisor of {one} and {two}?", str(math.gcd(one, two))


def _linear(rng: random.Random, bound: int) -> tuple[str, str]:
    slope, shift, result = rng.randint(2, bound), rng.randint(1, bound), rng.randint(1, bound)
    return (
        f"Solve ${slope}x + {shift} = {result}$ for $x$.",
        _latex(Fraction(result - shift, slope)),
    )


def _percentage(rng: random.Random, bound: int) -> tuple[str, str]:
    percent, whole = rng.randint(1, 99), rng.randint(2, 10 * bound)
    return f"What is {percent}\\% of {whole}, as a fraction?", _latex(
        Fraction(percent * whole, 100)
    )


def _roots(rng: random.Random, bound: int) -> tuple[str, str]:
    low = rng.randint(-bound, bound - 1)
    high = rng.randint(low + 1, bound)
    linear, constant = -(low + high), low * high
    return (
        f"What is the set of all $x$ with $x^2 {linear:+d}x {constant:+d} = 0$?",
        f"\\{{{low}, {high}\\}}",
    )


def _expanded(rng: random.Random, bound: int) -> tuple[str, str]:
    one, two = rng.randint(1, bound), rng.randint(1, bound)
    return f"Expand $(x + {one})(x + {two})$.", f"x^2 + {one + two}x + {one * two}"


def _system(rng: random.Random, bound: int) -> tuple[str, str]:
    x, y, factor = rng.randint(-bound, bound), rng.randint(-bound, bound), rng.randint(2, 9)
    return (
        f"Find the pair $(x, y)$ with $x + y = {x + y}$ and ${factor}x - y = {factor * x - y}$.",
        f"({x}, {y})",
    )


def _root(rng: random.Random, bound: int) -> tuple[str, str]:
    outside, inside = rng.randint(2, 12), rng.choice((2, 3, 5, 6, 7, 10, 11, 13))
    return (
        f"Write $\\sqrt{{{outside * outside * inside}}}$ with the least number under the root.",
        f"{outside}\\sqrt{{{inside}}}",
    )


_Kind = Callable[[random.Random, int], tuple[str, str]]
_EASY: list[_Kind] = [_sum, _fractions, _divisor]
_MIDDLING: list[_Kind] = [_linear, _percentage]
_HARD: list[_Kind] = [_roots, _expanded, _system, _root]
