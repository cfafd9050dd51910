from __future__ import annotations

import json
from typing import Any

import pytest

from gym_adapters.doctor.tool_arguments import TEXT, example_arguments
from gym_adapters.errors import GymAdaptersError
from gym_adapters.items import FunctionTool
from gym_adapters.registry import environment_names, load_environment


def tool(parameters: Any) -> FunctionTool:
    return {"type": "function", "name": "t", "description": "", "parameters": parameters}


def test_every_kind_of_value_is_made() -> None:
    made = example_arguments(
        tool(
            {
                "type": "object",
                "$defs": {"Side": {"enum": ["left", "right"]}},
                "properties": {
                    "text": {"type": "string"},
                    "count": {"type": "integer"},
                    "share": {"type": ["number", "null"]},
                    "loud": {"type": "boolean"},
                    "fixed": {"const": 3},
                    "given": {"type": "string", "default": "d"},
                    "side": {"$ref": "#/$defs/Side"},
                    "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "many": {"type": "array", "items": {"type": "integer"}},
                    "inner": {"type": "object", "properties": {"x": {"type": "integer"}}},
                },
            }
        )
    )
    assert made == {
        "text": TEXT,
        "count": 7,
        "share": 2.5,
        "loud": True,
        "fixed": 3,
        "given": "d",
        "side": "left",
        "maybe": 7,
        "many": [7],
        "inner": {"x": 7},
    }


def test_a_schema_that_holds_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert json.dumps(example_arguments(tool(node)))
    assert example_arguments(tool(None)) == {}
    assert example_arguments(tool({"properties": {"a": {"$ref": "#/nowhere"}}})) == {"a": TEXT}


@pytest.mark.parametrize("name", environment_names())
def test_arguments_for_the_environments_that_ship_are_valid(name: str) -> None:
    jsonschema_rs = pytest.importorskip("jsonschema_rs", reason="needs the extra verifiers")
    try:
        environment = load_environment(name).environment
    except (GymAdaptersError, ImportError) as error:
        pytest.skip(f"{name} can't be loaded here: {error}")
    for each in environment.class_tools.values():
        declaration = each.declaration()
        schema = declaration["parameters"]
        assert jsonschema_rs.is_valid(schema, example_arguments(declaration)), declaration
