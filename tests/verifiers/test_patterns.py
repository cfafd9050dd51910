"""Patterns of unknown making: the last match counts, and none runs without end."""

from __future__ import annotations

import sys

import pytest

from gym_adapters.errors import InvalidRow, MissingExtra, VerifierError
from gym_adapters.verifiers.patterns import captured_last, check_pattern


@pytest.mark.parametrize(
    ("text", "pattern", "captured"),
    [
        ("Answer: a\nAnswer: b", r"^Answer: (\w)$", "b"),
        ("x = 1", r"(y)|x = (\d)", "1"),
        ("a b", r"\w b", "a b"),
        ("( )", r"\((.)\)", "( )"),
        ("A\nB", r"A.B", "A\nB"),
        ("nothing", r"\d", None),
        ("", r".", None),
    ],
)
def test_the_first_group_of_the_last_match_counts(
    text: str, pattern: str, captured: str | None
) -> None:
    assert captured_last(text, pattern) == captured


def test_only_the_end_of_a_long_text_is_searched() -> None:
    assert captured_last("7" + " " * 30_000, r"\d") is None
    assert captured_last(" " * 30_000 + "7", r"\d") == "7"


def test_a_pattern_that_is_none_is_refused_by_field() -> None:
    with pytest.raises(InvalidRow, match="not a regular expression") as caught:
        check_pattern("(", "output_regex")
    assert caught.value.field == "output_regex"


def test_a_pattern_that_backtracks_without_end_is_stopped() -> None:
    with pytest.raises(VerifierError, match="backtracks"):
        captured_last("a" * 40 + "!", r"^(a|aa|a?)+$(?<=b)")


@pytest.mark.parametrize(("ignore_case", "captured"), [(True, "B"), (False, None)])
def test_case_is_ignored_where_it_is_asked_for(ignore_case: bool, captured: str | None) -> None:
    assert captured_last("ANSWER: B", r"answer: (\w)", ignore_case=ignore_case) == captured


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(MissingExtra, match=r"gym-adapters\[verifiers\]"):
        check_pattern("never compiled before", "x")
