"""Schemas are compiled once, read strictly, and lead nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from gym_adapters.errors import InvalidRow
from gym_adapters.verifiers.json_schema import JsonSchema, compiled_schema, strictified

POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}}


def test_every_listed_property_is_required_and_no_other_allowed() -> None:
    schema = compiled_schema(json.dumps({"type": "array", "items": POINT}))
    assert schema.fault([{"x": 1, "y": 2}]) is None
    assert "required" in str(schema.fault([{"x": 1}]))
    assert "z" in str(schema.fault([{"x": 1, "y": 2, "z": 3}]))


def test_alternatives_in_lists_are_left_as_they_are() -> None:
    schema = {"anyOf": [POINT, {"type": "null"}]}
    assert strictified(schema) == schema


def test_a_property_may_be_called_properties_or_required() -> None:
    schema = strictified(
        {"properties": {"properties": {"type": "string"}, "required": {"type": "string"}}}
    )
    assert isinstance(schema, dict)
    assert schema["properties"] == {
        "properties": {"type": "string"},
        "required": {"type": "string"},
    }
    assert schema["required"] == ["properties", "required"]


def test_data_in_a_schema_is_not_a_schema() -> None:
    schema = {"const": {"properties": {"a": 1}}}
    assert strictified(schema) == schema


def test_strictifying_leaves_the_given_schema_alone() -> None:
    before = json.dumps(POINT)
    strictified(POINT)
    assert json.dumps(POINT) == before


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=3), lambda inner: st.lists(inner)))
def test_strictifying_twice_changes_nothing_more(value: Any) -> None:
    schema = {"properties": {"a": POINT, "b": {"items": POINT}}, "default": value}
    once = strictified(schema)
    assert strictified(once) == once


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be a JSON object"),
        ('{"type": "strnig"}', "not a JSON schema"),
        ('{"$ref": "https://example.org/schema"}', "leads out of the schema"),
        ('{"pattern": "(?=a)b"}', "not a JSON schema"),
    ],
)
def test_a_schema_that_is_none_is_refused_by_field(text: str, problem: str) -> None:
    with pytest.raises(InvalidRow, match=problem) as caught:
        compiled_schema(text)
    assert caught.value.field == "schema_str"


def test_a_reference_within_the_schema_is_followed() -> None:
    schema = JsonSchema({"$ref": "#/$defs/point", "$defs": {"point": POINT}})
    assert schema.fault({"x": 1}) is None
    assert schema.fault({"x": "1"}) is not None


@pytest.mark.parametrize("value", [{1: 2}, {None: 1}, float("nan")])
def test_values_that_json_lacks_do_not_fit_and_do_not_raise(value: object) -> None:
    assert JsonSchema({"type": "object"}).fault(value)


def test_formats_are_not_checked() -> None:
    assert JsonSchema({"type": "string", "format": "date"}).fault("tomorrow") is None


def test_a_hostile_pattern_is_matched_in_linear_time() -> None:
    schema = JsonSchema({"type": "string", "pattern": "^(a+)+$"})
    assert schema.fault("a" * 50_000 + "b") is not None


def test_a_schema_is_compiled_once() -> None:
    assert compiled_schema(json.dumps(POINT)) is compiled_schema(json.dumps(POINT))
