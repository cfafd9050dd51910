r"""Comparing mathematical answers: at once where that can be, else with ``math-verify``.

`same_value` decides what needs no algebra (the same text, numbers, lists of them), in microseconds.
The rest goes to a `MathPool`: warm processes outside the event loop, where an expression that takes
too long, or too much memory, is stopped without harm to the next.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from gym_adapters.errors import MissingExtra
from gym_adapters.verifiers.answers import boxed
from gym_adapters.verifiers.process_pool import ProcessPool

__all__ = ["MathPool", "MathVerdict", "answer_window", "same_value", "undelimited"]

Method = Literal["exact", "symbolic"]

# math-verify reads this much of the end of an answer, and expressions up to this length.
WINDOW = 4096
LONGEST_EXPRESSION = 1024

# Answers of one group are often the same.
_MOST_KNOWN = 4096

_WORKER = Path(__file__).with_name("math_worker.py")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_SAME_COMMANDS = (
    (r"\dfrac", r"\frac"),
    (r"\tfrac", r"\frac"),
    (r"\,", " "),
    (r"\;", " "),
    (r"\:", " "),
    (r"\!", ""),
    (r"\ ", " "),
    ("~", " "),
    ("\u2212", "-"),
)
# Space means something only between two letters or digits.
_IDLE_SPACE = re.compile(r"(?<![0-9A-Za-z])\s++|\s++(?![0-9A-Za-z])")
_SIZE = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_SPACE = re.compile(r"\s++")
_READABLE = re.compile(r"[\d$\\]")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}\\]*+)\}")
_SHORT_FRACTION = re.compile(r"\\frac ?([0-9]) ?([0-9])")
_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})++(?:\.[0-9]++)?")
# "1,234" in a list may be one number or two.
_MAYBE_GROUPED = re.compile(r"[0-9],[0-9]{3}(?![0-9])")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)")
_FRACTION = re.compile(r"([-+]?)\\frac\{([-+]?[0-9]++)\}\{([-+]?[0-9]++)\}")
_SLASHED = re.compile(r"([-+]?[0-9]++)/([0-9]++)")


@dataclass(frozen=True, slots=True)
class MathVerdict:
    """Whether an answer gives the expected value.

    Attributes:
        equal: The verdict.
        method: ``exact`` where no algebra was needed, ``symbolic`` from math-verify.
        extracted: What was read in the answer, at most 200 characters.
        fault: Why math-verify could not compare: ``too_costly``, or an exception's name.
    """

    equal: bool
    method: Method
    extracted: str | None = None
    fault: str | None = None


def undelimited(expression: str) -> str:
    r"""`expression` without ``\(...\)``, ``$...$`` or a ``\boxed{...}`` around the whole of it."""
    text = expression.strip()
    for opening, closing in _DELIMITERS:
        wrapped = len(text) >= len(opening) + len(closing) and text.startswith(opening)
        inner = text[len(opening) : -len(closing)]
        if wrapped and text.endswith(closing) and opening not in inner:
            return undelimited(inner)
    contents = boxed(text)
    if len(contents) == 1 and text.startswith(r"\boxed") and text.endswith(f"{{{contents[0]}}}"):
        return contents[0].strip()
    return text


def answer_window(answer: str) -> str:
    r"""The part of `answer` that is judged: its end, from 4,096 characters before it on.

    Where a ``\boxed{...}`` stands only before that, the last one, if it is at most 1,024 long.
    """
    window = answer[-WINDOW:]
    if len(answer) <= WINDOW or boxed(window):
        return window
    contents = boxed(answer)
    if not contents:
        return window
    return f"\\boxed{{{contents[-1]}}}" if len(contents[-1]) <= LONGEST_EXPRESSION else ""


def same_value(expected: str, answer: str) -> bool | None:
    r"""Whether `answer`, a final text, gives `expected`; ``None`` where that needs algebra.

    The answer is what stands in its one ``\boxed{...}``, or all of it without one. Equal are: the
    same text but for idle space, delimiters and ``\left``; equal whole numbers, decimals and
    fractions; tuples, intervals and sets whose parts are equal. Different are only whole numbers
    and fractions of them, and tuples or sets of those: decimals are rounded before they differ.
    """
    contents = list(dict.fromkeys(_normal(content) for content in boxed(answer)))
    if len(contents) > 1 or len(expected) > LONGEST_EXPRESSION:
        return None
    found = contents[0] if contents else _normal(answer) if len(answer) <= WINDOW else ""
    wanted = _normal(expected)
    if not found or not wanted or len(found) > LONGEST_EXPRESSION:
        return None
    if _equal(wanted, found):
        return True
    if _is_whole(wanted) and _is_whole(found):
        return False
    # Of a list outside a box, math-verify may read the last number only.
    return False if contents and _surely_differ(wanted, found) else None


def _normal(expression: str) -> str:
    text = undelimited(expression[:WINDOW])
    for written, plain in _SAME_COMMANDS:
        text = text.replace(written, plain)
    text = _SIZE.sub("", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", _TEXT.sub(r"\1", text))
    text = _SPACE.sub(" ", _IDLE_SPACE.sub("", text))
    return text.rstrip(".").strip()


def _surely_differ(one: str, other: str) -> bool:
    r"""Whether no algebra can find equal what `_equal` did not: exact numbers, or lists of them.

    Lists are told apart only where brackets agree: some read ``(1,2)`` and ``\{1,2\}`` alike.
    """
    exact, other_exact = _is_exact(one), _is_exact(other)
    if exact and other_exact:
        return True
    listed, other_listed = _is_exact_list(one), _is_exact_list(other)
    if listed and other_listed:
        return one[0] == other[0] and one[-1] == other[-1]
    return (exact and other_listed) or (listed and other_exact)


def _is_exact(text: str) -> bool:
    """Whether `text` is a whole number, or a fraction of two: nothing that is ever rounded."""
    return "." not in text and "," not in text and _number(text) is not None


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _is_exact_list(text: str) -> bool:
    r"""Whether `text` is ``(...)`` or ``\{...\}`` around at least two different exact numbers."""
    if not text.startswith(("(", r"\{")) or _MAYBE_GROUPED.search(text):
        return False
    parts = _parts(text)
    return (
        parts is not None
        and text.endswith((")", r"\}"))
        and len(set(map(_key, parts))) > 1
        and all(map(_is_exact, parts))
    )


def _equal(one: str, other: str) -> bool:
    if one == other:
        return True
    number = _number(one)
    if number is not None:
        return number == _number(other)
    parts, other_parts = _parts(one), _parts(other)
    if parts is None or other_parts is None or len(parts) != len(other_parts):
        return False
    if one.startswith(r"\{"):
        return sorted(map(_key, parts)) == sorted(map(_key, other_parts))
    same_brackets = one[0] == other[0] and one[-1] == other[-1]
    return same_brackets and list(map(_key, parts)) == list(map(_key, other_parts))


def _key(part: str) -> str:
    number = _number(part)
    return part if number is None else str(number)


def _number(text: str) -> Fraction | None:
    """The exact value of a whole number, decimal or fraction of whole numbers."""
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    match = _FRACTION.fullmatch(text)
    if match:
        top, bottom = int(match[1] + "1") * int(match[2]), int(match[3])
    else:
        match = _SLASHED.fullmatch(text)
        if match is None:
            return None
        top, bottom = int(match[1]), int(match[2])
    return Fraction(top, bottom) if bottom else None


def _parts(text: str) -> Sequence[str] | None:
    """The parts of a tuple, interval or set that holds no brackets but those of fractions."""
    if text.startswith(r"\{") and text.endswith(r"\}"):
        body = text[2:-2]
    elif text.startswith(("(", "[")) and text.endswith((")", "]")):
        body = text[1:-1]
    else:
        return None
    plain = _FRACTION.sub("", body)
    if any(bracket in plain for bracket in "()[]{}"):
        return None
    return [part.strip() for part in body.split(",")]


class MathPool:
    """Warm processes that run ``math-verify``. Use it as an async context manager.

    Args:
        workers: Most processes; each is started when it is first needed, and takes about 100 MB.
        cpu_limit: Seconds of CPU time for one answer. CPU time, so that a busy machine does not
            change a verdict.
        wall_limit: Seconds of wall time for one answer, the start of a process included.

    Raises:
        MissingExtra: Without ``math-verify``.
    """

    def __init__(
        self, *, workers: int = 4, cpu_limit: float = 10.0, wall_limit: float = 100.0
    ) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtra(
                "verifiers", package="math-verify", needed_for="comparing mathematical answers"
            )
        self._processes = ProcessPool(
            _WORKER, workers=workers, cpu_limit=cpu_limit, wall_limit=wall_limit
        )
        self._known: OrderedDict[tuple[str, str], MathVerdict] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop all processes."""
        await self._processes.close()

    async def compare(self, expected: str, answer: str) -> MathVerdict:
        """Whether the final text `answer` gives `expected`.

        An answer that can't be compared within the CPU limit, or within memory, is not equal, and
        `fault` says so.

        Raises:
            VerifierError: If a process dies of something else, or the wall limit passes.
        """
        decided = same_value(expected, answer)
        if decided is not None:
            return MathVerdict(decided, "exact", _shown(answer))
        key = (undelimited(expected), answer_window(answer))
        # math-verify reads numbers, and what stands in a box or between delimiters: nothing else.
        if not key[0] or len(key[0]) > LONGEST_EXPRESSION or not _READABLE.search(key[1]):
            return MathVerdict(False, "exact")
        known = self._known.get(key)
        if known is None:
            known = await self._symbolic(*key)
            self._known[key] = known
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return known

    async def _symbolic(self, expected: str, answer: str) -> MathVerdict:
        reply = await self._processes.ask({"expected": expected, "answer": answer})
        if reply is None:
            return MathVerdict(False, "symbolic", fault="too_costly")
        if "error" in reply:
            return MathVerdict(False, "symbolic", fault=reply["error"])
        return MathVerdict(reply["equal"], "symbolic", reply["extracted"])


def _shown(answer: str) -> str:
    contents = boxed(answer)
    return (contents[-1] if contents else answer)[:200]
