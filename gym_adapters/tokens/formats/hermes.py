"""Hermes, Qwen2.5, Qwen3: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""

from __future__ import annotations

from gym_adapters.tokens.formats.json_calls import read_json_call
from gym_adapters.tokens.formats.marked import MarkedFormat
from gym_adapters.tokens.formats.turn import Call, ToolSchemas

__all__ = ["hermes_format"]


def hermes_format() -> MarkedFormat:
    """The format of Hermes, Qwen2.5, Qwen3 and QwQ."""
    return MarkedFormat("hermes", _read)


def _read(body: str, tools: ToolSchemas) -> Call | None:
    return read_json_call(body)
