"""Mathematical answers: what is equal, at what price, and that no answer harms the next."""

from __future__ import annotations

import asyncio
import os
import signal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from gym_adapters.errors import VerifierError
from gym_adapters.verifiers.math import MathPool, answer_window, same_value, undelimited


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("32", r"\boxed{32}"),
        ("32", "32"),
        ("32", r"So it is $\boxed{ 32 }$, that is \boxed{32}."),
        (r"\(\frac{1}{2}\)", r"\boxed{\dfrac{1}{2}}"),
        (r"\frac{1}{2}", r"\boxed{\frac12}"),
        ("0.5", r"\boxed{\frac{2}{4}}"),
        ("-1/2", r"\boxed{-\frac{1}{2}}"),
        ("1,234,567", r"\boxed{1234567}"),
        ("7", r"\boxed{007}"),
        ("(1, 2]", r"\boxed{\left(1,2\right]}"),
        (r"(\frac12, 3)", r"\boxed{(0.5, 3.0)}"),
        (r"\{1, 2, 3\}", r"\boxed{\{3, 1, 2\}}"),
        ("$x + y$", r"\boxed{x+y}"),
        (r"\text{east}", r"\boxed{\text{ east }}"),
    ],
)
def test_equal_without_algebra(expected: str, answer: str) -> None:
    assert same_value(expected, answer) is True


@pytest.mark.parametrize(("expected", "answer"), [("32", r"\boxed{33}"), ("5", r"\boxed{-5}")])
def test_whole_numbers_differ_without_algebra(expected: str, answer: str) -> None:
    assert same_value(expected, answer) is False


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("x+1", r"\boxed{1+x}"),
        ("2", r"\boxed{1} or \boxed{2}"),
        ("0.333333", r"\boxed{\frac{1}{3}}"),
        ("(1,2)", r"\boxed{(2,1)}"),
        ("(1,2)", r"\boxed{[1,2]}"),
        ("12", r"\boxed{1 2}"),
        (r"a\leftarrow b", r"\boxed{a\rightarrow b}"),
        ("5", ""),
        ("", r"\boxed{}"),
        ("1/0", r"\boxed{2/0}"),
        ("5", "The answer is 5."),
    ],
)
def test_what_needs_algebra_is_left_open(expected: str, answer: str) -> None:
    assert same_value(expected, answer) is None


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_equals_itself_in_every_notation(value: Fraction) -> None:
    top, bottom = value.numerator, value.denominator
    written = [
        f"{top}/{bottom}",
        rf"\frac{{{top}}}{{{bottom}}}",
        rf"\frac{{{-3 * top}}}{{{-3 * bottom}}}",
    ]
    for expected in written:
        for answer in written:
            assert same_value(expected, rf"\boxed{{{answer}}}") is True


@given(st.text(alphabet=r"\{}[]()$,.-+/0123456789 fracboxedtxl", max_size=80))
def test_reading_any_text_gives_an_answer_and_every_text_equals_itself(text: str) -> None:
    assert same_value("1", text) in (True, False, None)
    assert len(answer_window(text)) <= 4096
    assert undelimited(undelimited(text)) == undelimited(text)
    if text.strip(" .$~\\(),;:!") and "\\" not in text and "$" not in text:
        assert same_value(text, text) is not False


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        (r"\(x\)", "x"),
        ("$$x$$", "x"),
        (r"\[ $x$ \]", "x"),
        (r"\boxed{x}", "x"),
        ("$a$ and $b$", "$a$ and $b$"),
        ("$", "$"),
        (r"\boxed{a} \boxed{b}", r"\boxed{a} \boxed{b}"),
    ],
)
def test_delimiters_around_the_whole_are_taken_off(text: str, inner: str) -> None:
    assert undelimited(text) == inner


def test_a_box_before_a_long_afterword_is_still_the_answer() -> None:
    assert answer_window(r"\boxed{x}" + " so" * 5000) == r"\boxed{x}"
    assert answer_window("a" * 5000 + r"\boxed{x}").endswith(r"a\boxed{x}")
    assert answer_window(rf"\boxed{{{'x' * 2000}}}" + " so" * 5000) == ""


async def test_algebra_is_done_and_faults_are_told() -> None:
    async with MathPool(workers=1, cpu_limit=1.0) as pool:
        equal = await pool.compare("x^2+2x+1", r"\boxed{(x+1)^2}")
        assert (equal.equal, equal.method, equal.fault) == (True, "symbolic", None)
        different = await pool.compare("x^2", r"\boxed{x^3}")
        assert (different.equal, different.extracted) == (False, "x^3")
        prose = await pool.compare("5", "The answer is 5 apples.")
        assert prose.equal
        unbalanced = await pool.compare("x}", r"\boxed{y}")
        assert not unbalanced.equal


async def test_an_answer_without_end_is_stopped_and_does_not_hurt_the_next() -> None:
    async with MathPool(workers=1, cpu_limit=0.5) as pool:
        bottomless = await pool.compare("3", r"\boxed{10^{10^{10}}}")
        assert (bottomless.equal, bottomless.fault) == (False, "too_costly")
        assert (await pool.compare("x+1", r"\boxed{1+x}")).equal


async def test_answers_are_compared_side_by_side_and_once() -> None:
    async with MathPool(workers=2) as pool:
        asked = [("x+1", r"\boxed{1+x}"), ("x+1", r"\boxed{2+x}")] * 10
        verdicts = await asyncio.gather(*(pool.compare(*pair) for pair in asked))
    assert [verdict.equal for verdict in verdicts] == [True, False] * 10


async def test_a_process_that_is_killed_is_a_verifier_error_and_is_replaced() -> None:
    async with MathPool(workers=1, cpu_limit=30.0) as pool:
        assert (await pool.compare("x+1", r"\boxed{1+x}")).equal
        assert len(children()) == 1
        hanging = asyncio.create_task(pool.compare("3", r"\boxed{10^{10^{10}}}"))
        await asyncio.sleep(0.2)
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        with pytest.raises(VerifierError, match="signal 9"):
            await hanging
        assert (await pool.compare("x+2", r"\boxed{2+x}")).equal


async def test_the_wall_limit_is_a_verifier_error() -> None:
    async with MathPool(workers=1, wall_limit=0.05) as pool:
        with pytest.raises(VerifierError, match=r"0\.05 s"):
            await pool.compare("x+1", r"\boxed{1+x}")
    assert children() == []


async def test_cancelling_and_closing_leave_no_process_behind() -> None:
    async with MathPool(workers=2, cpu_limit=30.0) as pool:
        await pool.compare("x+1", r"\boxed{1+x}")
        hanging = asyncio.create_task(pool.compare("3", r"\boxed{10^{10^{10}}}"))
        await asyncio.sleep(0.1)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
    assert children() == []
    with pytest.raises(VerifierError, match="closed"):
        await pool.compare("x+1", r"\boxed{2+x}")


def children() -> list[int]:
    """Process ids of the math processes of this one that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if parent == os.getpid() and b"math_worker.py" in command:
            found.append(int(stat.parent.name))
    return found
