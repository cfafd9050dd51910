"""Rows of our own making: a few sentences about somebody or something, and the form to fill."""

from __future__ import annotations

import random
from typing import Any

import orjson

from gym_adapters.verifiers.documents import DocumentKind

__all__ = ["generated_row"]

_NAMES = (
    "Ada Moreau",
    "Bram Okafor",
    "Chen Lindqvist",
    "Dana Petrov",
    "Elif Santos",
    "Finn Adeyemi",
)
_TOWNS = ("Lisbon", "Tromsø", "Oaxaca", "Kigali", "Hobart", "Busan")
_TRADES = ("baker", "surveyor", "nurse", "bookbinder", "pilot", "potter")
_GOODS = ("lamp", "teapot", "bicycle", "notebook", "raincoat", "clock")

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "town": {"type": "string"},
        "trade": {"type": "string", "enum": list(_TRADES)},
        "retired": {"type": "boolean"},
    },
}
_ORDER_LINE = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "minLength": 1},
        "quantity": {"type": "integer", "minimum": 1},
        "price": {"type": "number", "minimum": 0},
    },
}
_ORDER = {
    "type": "object",
    "properties": {
        "customer": _PERSON,
        "lines": {"type": "array", "items": _ORDER_LINE, "minItems": 1},
        "paid": {"type": "boolean"},
    },
}
_FORMAT_NAMES: dict[DocumentKind, str] = {
    "json": "JSON",
    "yaml": "YAML",
    "xml": "XML (lists as repeated <item> elements)",
    "toml": "TOML",
    "csv": "CSV with a header line",
}


def generated_row(seed: int, position: int, difficulty: float) -> dict[str, Any]:
    """One row; the same for the same arguments."""
    rng = random.Random(f"{seed}:{position}:{difficulty}")
    kind = _kind(rng, difficulty)
    nested = difficulty >= 0.6 and kind != "csv" and rng.random() < 0.7
    text, schema = _order(rng) if nested else _people(rng, kind)
    if kind == "xml":
        schema = {"type": "object", "properties": {"record": schema}}
    if kind == "json" and difficulty >= 0.3 and rng.random() < 0.5:
        return _tool_row(rng, text, schema, decoys=3 if difficulty >= 0.6 else 0)
    ask = (
        f"{text}\n\nWrite this as {_FORMAT_NAMES[kind]} and nothing else: no comment, no "
        f"code fence. It must fit this JSON schema, with every property present and no others:\n"
        f"{orjson.dumps(schema).decode()}"
    )
    return {
        "responses_create_params": {"input": [{"role": "user", "content": ask}]},
        "schema_str": orjson.dumps(schema).decode(),
        "schema_type": kind,
        "response_mode": "text",
    }


def _kind(rng: random.Random, difficulty: float) -> DocumentKind:
    if difficulty < 0.3:
        return "json"
    kinds: list[DocumentKind] = ["json", "json", "yaml", "toml", "csv"]
    return rng.choice([*kinds, "xml"] if difficulty >= 0.6 else kinds)


def _person(rng: random.Random) -> str:
    state = "is retired" if rng.random() < 0.5 else "still works"
    return (
        f"{rng.choice(_NAMES)}, {rng.randint(19, 88)} years old, lives in {rng.choice(_TOWNS)}, "
        f"is a {rng.choice(_TRADES)} and {state}."
    )


def _people(rng: random.Random, kind: DocumentKind) -> tuple[str, dict[str, Any]]:
    if kind == "csv":
        text = " ".join(_person(rng) for _ in range(rng.randint(2, 4)))
        return text, {"type": "array", "items": _PERSON, "minItems": 1}
    return _person(rng), _PERSON


def _order(rng: random.Random) -> tuple[str, dict[str, Any]]:
    lines = ", ".join(
        f"{rng.randint(1, 9)} {good}s at {rng.randint(2, 90)}.50 each"
        for good in rng.sample(_GOODS, rng.randint(1, 3))
    )
    paid = "has been paid" if rng.random() < 0.5 else "is still to be paid"
    return f"{_person(rng)} The order is for {lines}, and {paid}.", _ORDER


def _tool_row(
    rng: random.Random, text: str, schema: dict[str, Any], *, decoys: int
) -> dict[str, Any]:
    tools = [_tool("record", "Record the structured answer.", schema)]
    tools += [
        _tool(f"record_{name}", f"Record a {name}.", {"type": "object", "properties": {}})
        for name in ("lamp", "voyage", "recipe")[:decoys]
    ]
    rng.shuffle(tools)
    return {
        "responses_create_params": {
            "input": [
                {"role": "user", "content": f"{text}\n\nRecord this with the tool that fits it."}
            ],
            "tools": tools,
            "parallel_tool_calls": False,
        },
        "schema_str": orjson.dumps(schema).decode(),
        "schema_type": "json",
        "response_mode": "tool_call",
        "tool_name": "record",
        "tool_payload_key": "data",
    }


def _tool(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {"data": schema},
            "required": ["data"],
            "additionalProperties": False,
        },
        "strict": True,
    }
