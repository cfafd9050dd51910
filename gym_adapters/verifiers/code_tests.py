"""Running a program on test cases, and judging what it gives.

The program gets a case's input and nothing else: the expected output never enters the sandbox, so
that there is nothing in it to read or to forge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import orjson

from gym_adapters.sandbox.process import ProcessSandbox
from gym_adapters.sandbox.protocol import Execution, SandboxLimits

__all__ = [
    "CaseResult",
    "CodeTests",
    "last_code_block",
    "run_code_tests",
    "same_output",
    "same_value",
]

FENCE = "```"


@dataclass(frozen=True, slots=True)
class CodeTests:
    """Test cases of one program.

    Attributes:
        inputs: Per case what it reads; with `function`, its arguments, one JSON value a line.
        outputs: Per case what it should print; with `function`, what it should return, as JSON.
        function: The function, or method of a class ``Solution``, to call; ``None`` for programs
            that read and print.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    function: str | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.outputs):
            raise ValueError(f"{len(self.inputs)} inputs, but {len(self.outputs)} outputs")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case went.

    Attributes:
        passed: Whether the output was right.
        problem: ``""``, ``wrong_answer``, ``error`` or ``timeout``.
        execution: What the program did.
    """

    passed: bool
    problem: str
    execution: Execution


def last_code_block(text: str) -> str | None:
    """What stands between the last two lines that hold a fence; ``None`` without two of them."""
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if FENCE in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else None


async def run_code_tests(
    sandbox: ProcessSandbox,
    program: str,
    tests: CodeTests,
    *,
    limits: SandboxLimits | None = None,
    stop_at_first_failure: bool = True,
) -> list[CaseResult]:
    """Run `program` on each case, each in a process of its own.

    Args:
        sandbox: Where it runs.
        program: Python source.
        tests: The cases.
        limits: Bounds on each case; by default the sandbox's own.
        stop_at_first_failure: Leave out the cases after one that fails.

    Raises:
        SandboxError: If the sandbox itself failed; never because of the program.
    """
    results: list[CaseResult] = []
    for given, expected in zip(tests.inputs, tests.outputs, strict=True):
        execution = await sandbox.run_python(
            program,
            stdin="" if tests.function else given,
            function=tests.function,
            arguments=[line for line in given.split("\n") if line.strip()]
            if tests.function
            else (),
            with_names=True,
            limits=limits,
        )
        result = _judged(execution, expected, calls_function=tests.function is not None)
        results.append(result)
        if stop_at_first_failure and not result.passed:
            break
    return results


def _judged(execution: Execution, expected: str, *, calls_function: bool) -> CaseResult:
    if execution.timed_out or execution.exit_code in _TIME_SIGNALS:
        return CaseResult(False, "timeout", execution)
    if calls_function:
        if not execution.succeeded or execution.result is None:
            return CaseResult(False, "error", execution)
        right = same_value(execution.result, expected)
    else:
        if not execution.succeeded:
            return CaseResult(False, "error", execution)
        right = same_output(execution.stdout, expected)
    return CaseResult(right, "" if right else "wrong_answer", execution)


# SIGXCPU, and SIGKILL where a program ignores it.
_TIME_SIGNALS = (-24, -9)


def same_output(actual: str, expected: str) -> bool:
    """Whether two outputs agree line by line.

    Blanks around the whole and around each line do not count, the number of lines does. Lines of
    numbers agree if the numbers do: ``1.50`` is ``1.5``.
    """
    ours, theirs = actual.strip().split("\n"), expected.strip().split("\n")
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(actual: str, expected: str) -> bool:
    if actual.strip() == expected.strip():
        return True
    ours, theirs = actual.split(), expected.split()
    if len(ours) != len(theirs):
        return False
    numbers = _decimals(theirs)
    return numbers is not None and numbers == _decimals(ours)


def _decimals(words: Sequence[str]) -> list[Decimal] | None:
    try:
        return [Decimal(word) for word in words]
    except InvalidOperation:
        return None


def same_value(actual: str, expected: str) -> bool:
    """Whether two JSON texts hold the same value, as Python compares them.

    Two numbers are the same within a relative error of 1e-5, or an absolute one of 1e-8.
    """
    try:
        left, right = orjson.loads(actual), orjson.loads(expected)
    except orjson.JSONDecodeError:
        return False
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right or abs(left - right) <= 1e-8 + 1e-5 * abs(right)
    return bool(left == right)
