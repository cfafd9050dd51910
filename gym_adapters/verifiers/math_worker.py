"""Comparing mathematical expressions with math-verify, in a process of a `ProcessPool`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Expr, Float

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


def compared(expected: str, given: str) -> dict[str, Any]:
    """Whether `given` gives `expected`, and what was read in it."""
    gold = gold_of(expected)
    found = parse(given, extraction_config=_ANSWER, parsing_timeout=None)
    equal = bool(gold and found) and (
        any(same_number(one, other) for one in gold for other in found)
        or verify(gold, found, timeout_seconds=None)
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
