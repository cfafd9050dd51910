"""Judging programs by test cases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given, strategies as st

from gym_adapters.sandbox import ProcessSandbox, SandboxLimits, open_process_sandbox
from gym_adapters.verifiers.code_tests import (
    CodeTests,
    last_code_block,
    run_code_tests,
    same_output,
    same_value,
)

DOUBLE = "print(int(input()) * 2)"


@pytest.fixture
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    async with open_process_sandbox(limits=SandboxLimits(wall_time=60)) as opened:
        yield opened


def test_the_last_fenced_block_is_read() -> None:
    assert last_code_block("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```\nc") == "y = 2"
    assert last_code_block("```python\nx = 1") is None
    assert last_code_block("no code") is None


@given(st.text(alphabet="`a\n"))
def test_reading_a_block_never_raises(text: str) -> None:
    block = last_code_block(text)
    assert block is None or block in text


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True),
        (" 1 \n2", "1\n2\n\n", True),
        ("1 2", "1\n2", False),
        ("1.50", "1.5", True),
        ("1.5", "1.6", False),
        ("yes", "Yes", False),
        ("a b", "a  b", False),
        ("", "", True),
        ("", "0", False),
    ],
)
def test_outputs_agree_line_by_line(actual: str, expected: str, same: bool) -> None:
    assert same_output(actual, expected) is same


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ("[1, 2]", "[1,2]", True),
        ("0.30000000000000004", "0.3", True),
        ("1.001", "1.0", False),
        ('"a"', '"b"', False),
        ('{"a": 1}', '{"a": 1.0}', True),
        ("NaN", "1", False),
    ],
)
def test_values_agree_as_json(actual: str, expected: str, same: bool) -> None:
    assert same_value(actual, expected) is same


async def test_cases_run_until_one_fails(sandbox: ProcessSandbox) -> None:
    tests = CodeTests(["1\n", "2\n", "x\n", "4\n"], ["2\n", "5\n", "6\n", "8\n"])
    results = await run_code_tests(sandbox, DOUBLE, tests)
    assert [(r.passed, r.problem) for r in results] == [(True, ""), (False, "wrong_answer")]
    results = await run_code_tests(sandbox, DOUBLE, tests, stop_at_first_failure=False)
    assert [r.problem for r in results] == ["", "wrong_answer", "error", ""]


async def test_a_case_that_takes_too_long_is_a_timeout(sandbox: ProcessSandbox) -> None:
    limits = SandboxLimits(wall_time=0.5)
    program = "import time; time.sleep(30)"
    results = await run_code_tests(sandbox, program, CodeTests([""], [""]), limits=limits)
    assert results[0].problem == "timeout"


async def test_functions_are_called_with_json_arguments(sandbox: ProcessSandbox) -> None:
    tests = CodeTests(["[1, 2]\n3", "[]\n0"], ["6", "0"], function="f")
    program = "def f(values, more):\n    return sum(values) + more"
    assert all(r.passed for r in await run_code_tests(sandbox, program, tests))
    results = await run_code_tests(sandbox, "def f(a, b):\n    return {1}", tests)
    assert results[0].problem == "error"


async def test_the_expected_output_is_nowhere_in_the_sandbox(sandbox: ProcessSandbox) -> None:
    snoop = (
        "import gc\n"
        "print(any('s3cret' in o for o in gc.get_objects() if isinstance(o, str))\n"
        "      or any('s3cret' in str(v) for o in gc.get_objects() if isinstance(o, dict)"
        " for v in list(o.values()) if isinstance(v, str) and len(v) < 50))"
    )
    result = (await run_code_tests(sandbox, snoop, CodeTests([""], ["s3cret"])))[0]
    assert result.execution.stdout == "False\n"


def test_cases_without_an_output_are_refused() -> None:
    with pytest.raises(ValueError, match="2 inputs, but 1 outputs"):
        CodeTests(["a", "b"], ["c"])
