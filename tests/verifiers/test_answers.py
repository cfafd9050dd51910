"""Answers are found wherever a model may put them, in linear time, and nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gym_adapters.verifiers.answers import (
    after_marker,
    boxed,
    integer_answer,
    last_boxed,
    last_integer,
    tagged,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", None),
        ("none here", None),
        ("95", 95),
        ("The answer is 95.", 95),
        ("37+58=95", 95),
        ("12-5=-7", -7),
        ("3-5", 5),
        ("(-5)", -5),
        ("**-5**", -5),
        ("\u22125", -5),
        ("1,234,567", 1234567),
        ("$1,000.00!", 1000),
        ("3,5", 5),
        ("1,2,3", 3),
        ("first 1, then 2, done", 2),
        ("95.0", 95),
        ("95.5", None),
        ("4 or 95.5", 4),
        ("x3 5th 2nd", None),
        ("007", 7),
        ("-0", 0),
        ("9" * 1001, None),
        ("1.2.3", None),
        ("٣", None),
    ],
)
def test_the_last_whole_number(text: str, number: int | None) -> None:
    assert last_integer(text) == number


@given(number=st.integers(-(10**30), 10**30), grouped=st.booleans())
def test_any_number_is_read_back(number: int, grouped: bool) -> None:
    written = f"{number:,}" if grouped else str(number)
    assert last_integer(f"It is {written}.") == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Answer: 7 because 3 + 4", 7),
        ("answer: 1\nAnswer: 2", 2),
        ("**Answer:** 7", 7),
        ("Answer: see above, 5", 5),
        ("5 is it. Answer: none", 5),
        ("3, 4", 4),
        ("", None),
    ],
)
def test_an_integer_answer_stands_after_the_marker_or_last(text: str, number: int | None) -> None:
    assert integer_answer(text) == number


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Answer:  B \nmore", "B"),
        ("ANSWER: a. answer: b", "b"),
        ("Answer:", ""),
        ("nothing", None),
    ],
)
def test_what_follows_the_last_marker_on_its_line(text: str, rest: str | None) -> None:
    assert after_marker(text) == rest


def test_a_marker_of_ones_own() -> None:
    assert after_marker("#### 5\n#### 6", "####") == "6"
    assert after_marker("a.*b", ".*") == "b"


@pytest.mark.parametrize(
    ("text", "contents", "last"),
    [
        (r"\boxed{5}", ["5"], "5"),
        (r"\boxed{\frac{1}{2}} then \boxed {B}", [r"\frac{1}{2}", "B"], "B"),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"], r"\{1, 2\}"),
        (r"\boxed{a \boxed{b}}", [r"a \boxed{b}"], "b"),
        (r"\boxed{a} \boxed{b", ["a"], None),
        (r"\boxed{ \boxed{x}", ["x"], "x"),
        (r"} \boxed{}", [""], ""),
        (r"\boxed 5", [], None),
        ("", [], None),
    ],
)
def test_boxes(text: str, contents: list[str], last: str | None) -> None:
    assert boxed(text) == contents
    assert last_boxed(text) == last


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<answer> 5 </answer>", "5"),
        ("<answer>1</answer> <answer>2</answer> <answer>3", "2"),
        ("<answer><answer>1</answer>", "1"),
        ("</answer><answer>", None),
        ("", None),
    ],
)
def test_tags(text: str, content: str | None) -> None:
    assert tagged(text) == content


def test_a_tag_of_ones_own() -> None:
    assert tagged("<final>x</final>", "final") == "x"


LONG = [
    "1," * 50_000,
    "1,111" * 20_000 + "a",
    "1." * 50_000,
    "-" * 100_000,
    "9" * 100_000,
    "\\boxed{" * 15_000,
    "\\boxed" + " " * 100_000,
    "\\boxed{" + "{" * 50_000 + "}" * 50_000,
    "answer:" * 15_000,
    "<answer>" * 12_000 + "</answer>",
]


# A reader that backtracks would not be done with these before the test's time limit.
@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:12])
def test_long_texts_are_read_at_once(text: str) -> None:
    last_integer(text)
    integer_answer(text)
    boxed(text)
    last_boxed(text)
    tagged(text)


@given(text=st.text(st.characters() | st.sampled_from("\\boxed{}<answer>:-,.0123"), max_size=200))
def test_no_text_raises(text: str) -> None:
    last_integer(text)
    integer_answer(text)
    tagged(text)
    last = last_boxed(text)
    assert last is None or last in text
    assert all(content in text for content in boxed(text))
