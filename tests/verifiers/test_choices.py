"""Choices are read as each grading mode says, and a row's own pattern is held in check."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gym_adapters.errors import VerifierError
from gym_adapters.verifiers import patterns
from gym_adapters.verifiers.choices import GradingMode, choice, choice_by_pattern

OPTIONS = [{"A": "red"}, {"B": "dark blue"}, {"C": "blue"}, {"D": "green"}, {"I": None}]

STRICT = [
    (r"\boxed{B}", "B"),
    (r"I think \boxed{A}, no, \boxed{B}", "B"),
    (r"\boxed{ (B) }", "B"),
    (r"\boxed{[B].}", "B"),
    (r"\boxed{\text{B}}", "B"),
    (r"\boxed{\textbf{\text{ B }}}", "B"),
    (r"\boxed{B: dark blue}", "B"),
    ("\\boxed{\nB) dark blue\n}", "B"),
    (r"\boxed{B. dark blue}", "B"),
    (r"\boxed{b}", None),
    (r"\boxed{E}", None),
    (r"\boxed{AB}", None),
    (r"\boxed{A, B}", None),
    (r"\boxed{red}", None),
    (r"\boxed{}", None),
    (r"\boxed{A} \boxed{B", None),
    ("B", None),
    ("Answer: B", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "letter"), STRICT)
def test_strict_boxed(text: str, letter: str | None) -> None:
    assert choice(text, OPTIONS, "strict_single_letter_boxed") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        *((text, letter) for text, letter in STRICT if "red" not in text),
        (r"\boxed{red}", "A"),
        (r"\boxed{It is  GREEN}", "D"),
        (r"\boxed{\text{red}}", "A"),
        # "blue" is in "dark blue": two options are named.
        (r"\boxed{dark blue}", None),
        (r"\boxed{blue}", "C"),
        (r"\boxed{yellow}", None),
        ("red", None),
    ],
)
def test_lenient_boxed(text: str, letter: str | None) -> None:
    assert choice(text, OPTIONS, "lenient_boxed") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("so the ANSWER : b\nbecause", "B"),
        ("Answer:\n\nB", "B"),
        ("Answer: dark  Blue", "B"),
        (r"Answer: \text{B}", "B"),
        ("Answer: A\nAnswer: B", "A"),
        ("Answer: B.", None),
        ("Answer: I", "I"),
        ("Answer: E", None),
        ("Answer:", None),
        (r"\boxed{B}", None),
    ],
)
def test_answer_colon(text: str, letter: str | None) -> None:
    assert choice(text, OPTIONS, "lenient_answer_colon") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("**Answer:** B", "B"),
        ("**Answer**: **B**", "B"),
        ("__Answer__: B because of A", "B"),
        ("Answer: A\nAnswer: B", "B"),
        ("Answer: B\nAnswer: unsure", "B"),
        ("Answer: the right one is B.", "B"),
        ("Answer: A or B", None),
        ("Answer: A/B", None),
        ("Answer: A, B", None),
        ("Answer: A and a", "A"),
        ("Answer: ب", "B"),
        ("Answer: Ｃ", "C"),
        ("Answer: (d)", None),
        ("Answer: (D)", "D"),
        ("Answer: E", None),
        ("Answer: Blue", None),
        ("B", None),
    ],
)
def test_answer_colon_markdown(text: str, letter: str | None) -> None:
    assert choice(text, OPTIONS, "lenient_answer_colon_md") == letter


@pytest.mark.parametrize(
    ("text", "pattern", "letter"),
    [
        ("choice: A, choice: b", r"choice: (\w)", "B"),
        ("choice: B", r"pick: (\w)|choice: (\w)", "B"),
        ("B!", r"[A-D]!", None),
        ("B", r"[A-D]", "B"),
        ("choice: dark blue.", r"choice: ([a-z ]+)", "B"),
        ("choice: Z", r"choice: (\w)", "Z"),
        ("choice: ج", r"choice: (\w)", "C"),
        ("nothing", r"choice: (\w)", None),
    ],
)
def test_a_pattern_gives_what_its_last_match_captures(
    text: str, pattern: str, letter: str | None
) -> None:
    assert choice_by_pattern(text, OPTIONS, pattern) == letter


def test_a_pattern_needs_no_options() -> None:
    assert choice_by_pattern("choice: B", [], r"choice: (\w)") == "B"


def test_a_pattern_sees_the_end_of_a_long_text() -> None:
    text = "choice: A" + " " * 30_000 + "choice: B" + " " * 10_000
    assert choice_by_pattern(text, [], r"choice: (\w)") == "B"
    assert choice_by_pattern("choice: A" + " " * 30_000, [], r"choice: (\w)") is None


def test_a_pattern_that_backtracks_is_stopped_and_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "TIMEOUT", 0.05)
    with pytest.raises(VerifierError, match="it backtracks"):
        choice_by_pattern("a" * 200 + "!", [], r"^(a|a|aa)+$")


MODES: list[GradingMode] = [
    "strict_single_letter_boxed",
    "lenient_boxed",
    "lenient_answer_colon",
    "lenient_answer_colon_md",
]


@pytest.mark.parametrize("mode", MODES)
@given(text=st.text(st.characters() | st.sampled_from("\\boxed{}Answer: *_ABCD/or"), max_size=200))
def test_no_text_raises_or_gives_a_letter_that_no_option_has(mode: GradingMode, text: str) -> None:
    assert choice(text, OPTIONS, mode) in {None, "A", "B", "C", "D", "I"}


LONG = [
    "\\boxed{" * 15_000,
    "\\boxed{" + "\\text{" * 15_000 + "B" + "}" * 15_001,
    "Answer:" * 14_000,
    "Answer" + " " * 100_000,
    "Answer: " + "A " * 50_000,
    "Answer: " + "*_" * 50_000,
    "Answer:\n" * 12_000,
    "*" * 100_000 + "Answer: B",
]


# A reader that backtracks would not be done with these before the test's time limit.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:12])
def test_long_texts_are_read_at_once(mode: GradingMode, text: str) -> None:
    assert choice(text, OPTIONS, mode) in {None, "A", "B"}
