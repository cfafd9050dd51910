"""Qwen3-Coder, Qwen3.5, Nemotron 3 and GLM 4.5: arguments one by one in XML-like tags."""

from __future__ import annotations

import json
from typing import Any

from gym_adapters.tokens.formats.json_calls import NotJson, decode_json
from gym_adapters.tokens.formats.marked import MarkedFormat
from gym_adapters.tokens.formats.turn import Call, ToolSchemas

__all__ = ["glm_format", "qwen_xml_format"]


def qwen_xml_format() -> MarkedFormat:
    """``<function=name><parameter=key>value</parameter></function>`` between call marks."""
    return MarkedFormat("qwen_xml", _read_qwen)


def glm_format() -> MarkedFormat:
    """``name<arg_key>key</arg_key><arg_value>value</arg_value>`` between call marks."""
    inner = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    return MarkedFormat("glm", _read_glm, inner=inner)


def _read_qwen(body: str, tools: ToolSchemas) -> Call | None:
    start = body.find("<function=")
    name_end = body.find(">", start)
    if start < 0 or name_end < 0:
        return None
    name = body[start + len("<function=") : name_end].strip()
    arguments: dict[str, Any] = {}
    position = name_end
    while (position := body.find("<parameter=", position)) >= 0:
        key_end = body.find(">", position)
        value_end = body.find("</parameter>", key_end)
        if key_end < 0 or value_end < 0:
            return None
        key = body[position + len("<parameter=") : key_end].strip()
        arguments[key] = _typed(_unwrapped(body[key_end + 1 : value_end]), name, key, tools)
        position = value_end
    return Call(name, json.dumps(arguments, ensure_ascii=False)) if name else None


def _read_glm(body: str, tools: ToolSchemas) -> Call | None:
    name, opening, rest = body.partition("<arg_key>")
    name = name.strip()
    arguments: dict[str, Any] = {}
    rest = opening + rest
    position = 0
    while (position := rest.find("<arg_key>", position)) >= 0:
        key_end = rest.find("</arg_key>", position)
        value_start = rest.find("<arg_value>", key_end)
        value_end = rest.find("</arg_value>", value_start)
        if min(key_end, value_start, value_end) < 0:
            return None
        key = rest[position + len("<arg_key>") : key_end].strip()
        value = rest[value_start + len("<arg_value>") : value_end]
        arguments[key] = _typed(value, name, key, tools)
        position = value_end
    valid = bool(name) and not any(character.isspace() for character in name)
    return Call(name, json.dumps(arguments, ensure_ascii=False)) if valid else None


def _unwrapped(value: str) -> str:
    """A value without the one line break that the format puts around it."""
    return value.removeprefix("\n").removesuffix("\n")


def _typed(value: str, name: str, key: str, tools: ToolSchemas) -> Any:
    """The value as its schema wants it: these formats write numbers and text alike."""
    schema = tools.get(name, {}).get(key)
    if schema is None and tools:
        return value
    kinds = schema.get("type") if isinstance(schema, dict) else None
    if kinds == "string" or (isinstance(schema, dict) and _only_strings(schema)):
        return value
    try:
        typed, end = decode_json(value)
    except NotJson:
        return _python_word(value)
    return value if value[end:].strip() else typed


def _only_strings(schema: dict[str, Any]) -> bool:
    options = schema.get("enum")
    return isinstance(options, list) and all(isinstance(option, str) for option in options)


def _python_word(value: str) -> Any:
    words: dict[str, Any] = {"True": True, "False": False, "None": None}
    return words.get(value.strip(), value)
