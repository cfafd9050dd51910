"""Reading the tool calls of a transcript."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from gym_adapters.environment import ToolCall

__all__ = ["is_error", "json_or_none", "parsed_arguments", "successful_calls"]


def json_or_none(text: str) -> Any:
    """`text` as JSON; ``None`` where it is not JSON (or is ``null``).

    Nesting past 1,024 levels and lone surrogates count as not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def is_error(output: str) -> bool:
    """Whether a tool's result is an error: a JSON object with the key ``error``."""
    value = json_or_none(output)
    return isinstance(value, dict) and "error" in value


def parsed_arguments(call: ToolCall) -> dict[str, Any] | None:
    """The arguments of `call`; ``None`` where they are not a JSON object.

    No text at all means no arguments.
    """
    if not call.arguments.strip():
        return {}
    value = json_or_none(call.arguments)
    return value if isinstance(value, dict) else None


def successful_calls(calls: Iterable[ToolCall], name: str | None = None) -> list[ToolCall]:
    """Those of `calls` that were run and gave no error; of the tool `name`, where one is named."""
    return [
        call
        for call in calls
        if (name is None or call.name == name)
        and call.output is not None
        and not is_error(call.output)
    ]
