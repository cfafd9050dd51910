"""Tool calls are read without trusting what a model wrote."""

from __future__ import annotations

from typing import Any

import pytest

from gym_adapters import ToolCall
from gym_adapters.verifiers.tool_calls import (
    is_error,
    json_or_none,
    parsed_arguments,
    successful_calls,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("null", None),
        ("", None),
        ("{", None),
        ("[" * 100_000, None),
        ('"\ud800"', None),
        ("NaN", None),
    ],
)
def test_json_or_none(text: str, value: Any) -> None:
    assert json_or_none(text) == value


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ('{"error": {"type": "exception", "message": "x"}}', True),
        ('{"error": "x"}', True),
        ('{"errors": 0}', False),
        ("error", False),
        ('["error"]', False),
    ],
)
def test_an_error_is_an_object_with_that_key(output: str, error: bool) -> None:
    assert is_error(output) is error


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [('{"a": 1}', {"a": 1}), ("", {}), (" ", {}), ("[1]", None), ("{", None), ("null", None)],
)
def test_arguments_are_an_object_or_none(arguments: str, parsed: dict[str, Any] | None) -> None:
    assert parsed_arguments(ToolCall("f", arguments, None)) == parsed


def test_successful_calls_ran_and_gave_no_error() -> None:
    good, other = ToolCall("f", "{}", "1"), ToolCall("g", "{}", "2")
    failed, cut = ToolCall("f", "{}", '{"error": {}}'), ToolCall("f", "{}", None)
    assert successful_calls([failed, good, cut, other]) == [good, other]
    assert successful_calls([failed, good, cut, other], "f") == [good]
