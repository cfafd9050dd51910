"""The process that compares mathematical expressions; run by `gym_adapters.verifiers.math`.

It reads one JSON object a line, ``{"expected", "answer", "cpu_limit"}``, and writes one,
``{"equal", "extracted", "fault"}``. It knows nothing of the rest of the library. An answer that
uses up its seconds of CPU time kills the process, by a timer that no Python code can hold up.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from functools import lru_cache
from typing import TextIO

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Expr, Float

# A caught MemoryError is better than a machine without memory; sympy alone maps about 300 MB.
_ADDRESS_SPACE = 4 << 30
_SHOWN = 200
_DIGITS = 50
_GOLD = (LatexExtractionConfig(),)
_ANSWER = (ExprExtractionConfig(), LatexExtractionConfig())
# What makes the grammar's tables and sympy's caches warm, so that no rollout pays for that.
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


def compared(expected: str, answer: str) -> dict[str, object]:
    """Whether `answer` gives `expected`, and what was read in it."""
    gold = gold_of(expected)
    found = parse(answer, extraction_config=_ANSWER, parsing_timeout=None)
    equal = bool(gold and found) and (
        any(same_number(one, other) for one in gold for other in found)
        or verify(gold, found, timeout_seconds=None)
    )
    extracted = str(found[-1])[:_SHOWN] if found else None
    return {"equal": bool(equal), "extracted": extracted, "fault": None}


def answered(line: str) -> dict[str, object]:
    """The reply to one line."""
    request = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, request["cpu_limit"])
    try:
        return compared(request["expected"], request["answer"])
    except (Exception, MemoryError, RecursionError) as error:  # noqa: BLE001
        # Whatever the parsers raise on this answer must not cost the next one its worker.
        return {"equal": False, "extracted": None, "fault": type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def serve(lines: TextIO, replies: TextIO) -> None:
    """Answer `lines` until they end."""
    for expected, answer in _WARM_UP:
        compared(expected, answer)
    for line in lines:
        replies.write(json.dumps(answered(line)) + "\n")
        replies.flush()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which closes its workers.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Only replies may reach the pipe, whatever a library prints.
    pipe, sys.stdout = sys.stdout, sys.stderr
    serve(sys.stdin, pipe)
