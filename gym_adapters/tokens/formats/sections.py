"""DeepSeek and Kimi: calls in a bracketed section, name and arguments apart by a control token."""

from __future__ import annotations

from gym_adapters.tokens.formats.marked import MarkedFormat
from gym_adapters.tokens.formats.turn import Call, ToolSchemas

__all__ = ["deepseek_format", "kimi_format"]

_DEEPSEEK_SEPARATOR = "<｜tool▁sep｜>"
_KIMI_SEPARATOR = "<|tool_call_argument_begin|>"


def deepseek_format() -> MarkedFormat:
    """DeepSeek V3, R1 (a fenced block after ``function<sep>name``), V3.1 (``name<sep>{...}``)."""
    return MarkedFormat(
        "deepseek",
        _read_deepseek,
        call_open="<｜tool▁call▁begin｜>",
        call_close="<｜tool▁call▁end｜>",
        brackets=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        inner=(_DEEPSEEK_SEPARATOR,),
    )


def kimi_format() -> MarkedFormat:
    """Kimi K2: ``functions.name:0<argument_begin>{...}``."""
    return MarkedFormat(
        "kimi",
        _read_kimi,
        call_open="<|tool_call_begin|>",
        call_close="<|tool_call_end|>",
        brackets=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        inner=(_KIMI_SEPARATOR,),
    )


def _read_deepseek(body: str, tools: ToolSchemas) -> Call | None:
    before, separator, after = body.partition(_DEEPSEEK_SEPARATOR)
    if not separator:
        return None
    name, fence, arguments = after.partition("```json")
    if fence:
        arguments = arguments.strip().removesuffix("```")
    else:
        name, arguments = before, after
    return _call(name, arguments)


def _read_kimi(body: str, tools: ToolSchemas) -> Call | None:
    name, separator, arguments = body.partition(_KIMI_SEPARATOR)
    if not separator:
        return None
    return _call(name.strip().removeprefix("functions.").rpartition(":")[0] or name, arguments)


def _call(name: str, arguments: str) -> Call | None:
    name = name.strip()
    if not name or any(character.isspace() for character in name):
        return None
    return Call(name, arguments.strip() or "{}")
