"""Arguments that a tool's schema allows, made up to be rendered and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gym_adapters.items import FunctionTool

__all__ = ["example_arguments"]

# Quotes, a line break, letters beyond ASCII and what looks like markup: all that calls get wrong.
TEXT = 'say "hé"\nto <b>them</b>, 5 > 3'
DEEPEST = 6
_PLAIN: Mapping[str, object] = {
    "string": TEXT,
    "integer": 7,
    "number": 2.5,
    "boolean": True,
    "null": None,
}


def example_arguments(tool: FunctionTool) -> dict[str, Any]:
    """One value for each parameter of a tool."""
    schema = tool.get("parameters") or {}
    made = _example({"type": "object", **schema}, schema, DEEPEST)
    return made if isinstance(made, dict) else {}


def _example(schema: object, root: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth == 0:
        return TEXT
    schema = _resolved(schema, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _example(schema[key][0], root, depth - 1)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: _example(inner, root, depth - 1) for name, inner in properties.items()}
    if kind == "array":
        return [_example(schema.get("items"), root, depth - 1)]
    return _PLAIN.get(str(kind), TEXT)


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a local ``$ref`` points at."""
    path = schema.get("$ref")
    if not isinstance(path, str) or not path.startswith("#/"):
        return schema
    found: Any = root
    for name in path[2:].split("/"):
        found = found.get(name, {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}
