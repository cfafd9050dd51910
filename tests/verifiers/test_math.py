"""Mathematical answers: what is equal, at what price, and that no answer harms the next."""

from __future__ import annotations

import asyncio
import os
import signal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from gym_adapters.errors import VerifierError
from gym_adapters.verifiers import math_worker
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


DIFFERENT = [
    ("32", r"\boxed{33}"),
    ("5", r"\boxed{-5}"),
    ("5", "6"),
    (r"-\frac{59}{14}", r"\boxed{-\frac{58}{14}}"),
    ("1/2", r"\boxed{2}"),
    ("(49, 54)", r"\boxed{(49, 53)}"),
    ("(2, 3)", r"\boxed{(2, 3, 4)}"),
    ("(2, 3)", r"\boxed{5}"),
    ("7", r"\boxed{\{7, 8\}}"),
    (r"\{-59, -56\}", r"\boxed{\{59, 56\}}"),
]


@pytest.mark.parametrize(("expected", "answer"), DIFFERENT)
def test_exact_numbers_and_lists_of_them_differ_without_algebra(expected: str, answer: str) -> None:
    assert same_value(expected, answer) is False


@pytest.mark.parametrize(("expected", "answer"), DIFFERENT)
def test_what_differs_without_algebra_differs_with_it(expected: str, answer: str) -> None:
    assert not math_worker.compared(expected, answer)["equal"]


@pytest.mark.parametrize(
    ("one", "other", "surely"),
    [
        ("x^2 + 1", "3x - 1", True),
        ("x^2 + 1", "x^2 + 2", True),
        ("(x+1)^2", "x^2 + 2x + 1", False),
        ("x + y", "x - y", True),
        ("a x + 1", "b x + 1", True),
        (r"\frac{x}{3} + y", r"\frac{x}{4} + y", True),
        ("170", "3x - 1", True),
        ("(49, 54)", "3x - 1", True),
        (r"\{1, 2\}", "3x - 1", True),
        # What follows may be equal to math-verify, or is not looked into.
        ("0.333333x + 1", r"\frac{1}{3}x + 1", False),
        (r"\frac{x}{3000} + 1", "x + 1", False),
        ("x^{9} + 1", "x + 1", False),
        ("x = 5", "5x - 1", False),
        ("x", "x y", False),
        (r"\sqrt{x} + 1", "x + 1", False),
        (r"\{1\}", "3x - 1", False),
    ],
)
def test_polynomials_are_told_apart_by_their_values(one: str, other: str, surely: bool) -> None:
    gold, given = math_worker.gold_of(one)[0], math_worker.gold_of(other)[0]
    assert math_worker.differ(gold, given) is surely
    assert math_worker.differ(given, gold) is surely
    if surely:
        assert not math_worker.verify(gold, given, timeout_seconds=None)
        assert not math_worker.verify(given, gold, timeout_seconds=None)


def whole() -> st.SearchStrategy[str]:
    return st.integers(-20, 20).map(str)


def exact() -> st.SearchStrategy[str]:
    fraction = st.builds(r"\frac{{{}}}{{{}}}".format, whole(), st.integers(1, 9))
    return whole() | fraction | st.builds("{}/{}".format, whole(), st.integers(1, 9))


def listed() -> st.SearchStrategy[str]:
    brackets = st.sampled_from(["({})", r"\{{{}\}}", r"\left({}\right)", "[{})"])
    parts = st.lists(exact(), min_size=2, max_size=3).map(", ".join)
    return st.builds(lambda form, body: form.format(body), brackets, parts)


def polynomial() -> st.SearchStrategy[str]:
    term = st.sampled_from(["x", "3x", "x^2", "y", "x y", "5", r"\frac{1}{2}x", "(x+1)^2", "-y^3"])
    return st.lists(term, min_size=1, max_size=3).map("+".join)


@pytest.mark.full
@settings(max_examples=300)
@given(
    expected=exact() | listed() | polynomial(),
    said=exact() | listed() | polynomial(),
    form=st.sampled_from([r"\boxed{{{}}}", "${}$", "{}", r"So it is \boxed{{{}}}."]),
)
def test_every_shortcut_gives_the_verdict_of_math_verify(
    expected: str, said: str, form: str
) -> None:
    answer = form.format(said)
    gold = math_worker.gold_of(undelimited(expected))
    found = math_worker.parse(
        answer_window(answer), extraction_config=math_worker._ANSWER, parsing_timeout=None
    )
    verdict = math_worker.verify(gold, found, timeout_seconds=None)
    assert math_worker.compared(undelimited(expected), answer_window(answer))["equal"] is verdict
    at_once = same_value(expected, answer)
    if at_once is False:
        assert not verdict


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("x+1", r"\boxed{1+x}"),
        ("2", r"\boxed{1} or \boxed{2}"),
        ("0.333333", r"\boxed{\frac{1}{3}}"),
        ("(1,234,5)", r"\boxed{(1234, 5)}"),
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
        (child,) = children()
        before = cpu_ticks(child)
        hanging = asyncio.create_task(pool.compare("3", r"\boxed{10^{10^{10}}}"))
        async with asyncio.timeout(60):
            while cpu_ticks(child) < before + 10:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
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


def cpu_ticks(pid: int) -> int:
    """CPU time that a process has used, in hundredths of a second as a rule."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


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
