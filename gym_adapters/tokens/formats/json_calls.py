"""Tool calls written as JSON objects, broken ones included."""

from __future__ import annotations

import json
import re
from typing import Any

from gym_adapters.tokens.formats.turn import Call

__all__ = ["decode_json", "read_json_call", "read_json_calls"]

_NAME_FIRST = re.compile(
    r'\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*', re.DOTALL
)
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


class NotJson(ValueError):
    """A text that is no JSON value."""


def decode_json(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at `start`, and where it ends.

    Raises:
        NotJson: If there is none. Nesting too deep, and numbers too long, count as none.
    """
    space = _SPACE.match(text, start)
    begin = space.end() if space else start
    try:
        return _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error


def read_json_call(text: str) -> Call | None:
    """The one call that `text` spells, ``None`` where it names no tool.

    Where name and arguments can be told apart but the JSON is broken, the arguments are verbatim.
    """
    try:
        value, end = decode_json(text)
    except NotJson:
        return _broken_call(text)
    if text[end:].strip():
        return _broken_call(text)
    return _call_of(value, text, 0)


def read_json_calls(text: str) -> list[Call] | None:
    """The calls that `text` spells: objects apart by ``;``, ``,`` or space, or one list of them.

    ``None`` where the text is anything else.
    """
    stripped = text.strip()
    if not stripped.startswith("["):
        return _read_objects(stripped)
    try:
        _, after = decode_json(stripped)
    except NotJson:
        return None
    return _read_objects(stripped[1:-1]) if after == len(stripped) else None


def _read_objects(text: str) -> list[Call] | None:
    calls: list[Call] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        try:
            value, after = decode_json(text, position)
        except NotJson:
            broken = _broken_call(text[position:end])
            return None if broken is None else [*calls, broken]
        call = _call_of(value, text, position)
        if call is None:
            return None
        calls.append(call)
        position = after
        while position < end and (text[position].isspace() or text[position] in ";,"):
            position += 1
    return calls or None


def _call_of(value: Any, text: str, start: int) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    given = [key for key in ("arguments", "parameters") if key in value]
    if not given:
        return Call(value["name"], "{}")
    match = _NAME_FIRST.match(text, start)
    if match is not None:
        _, end = decode_json(text, match.end())
        return Call(value["name"], text[match.end() : end])
    return Call(value["name"], json.dumps(value[given[0]], ensure_ascii=False))


def _broken_call(text: str) -> Call | None:
    match = _NAME_FIRST.match(text)
    if match is None:
        return None
    try:
        name = json.loads(f'"{match[1]}"')
    except ValueError:
        return None
    return Call(name, text[match.end() :].strip().removesuffix("}").rstrip())
