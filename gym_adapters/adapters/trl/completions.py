"""What TRL gives for a completion, as the items an episode reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gym_adapters.items import (
    Item,
    assistant_message,
    function_call,
    function_call_output,
    reasoning,
)

__all__ = ["Completion", "assistant_items", "completion_items"]

Completion = str | Sequence[Mapping[str, Any]]
"""Text, or messages where the prompt is conversational."""

_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def assistant_items(message: Mapping[str, Any], call_id_prefix: str = "call_") -> list[Item]:
    """One assistant message as items: reasoning, text, then tool calls.

    Args:
        message: ``content``, perhaps ``tool_calls`` and reasoning, as chat templates know them.
        call_id_prefix: Call ids are ``f"{call_id_prefix}{n}"``, n from 0.
    """
    items: list[Item] = []
    thought = next((message[key] for key in _REASONING_KEYS if message.get(key)), None)
    if thought is not None:
        items.append(reasoning(str(thought)))
    text = _text(message.get("content"))
    calls = message.get("tool_calls") or ()
    if text or not calls:
        items.append(assistant_message(text))
    for number, call in enumerate(calls):
        called = call.get("function", call)
        items.append(
            function_call(
                str(called.get("name", "")),
                _arguments(called.get("arguments")),
                f"{call_id_prefix}{number}",
            )
        )
    return items


def completion_items(messages: Sequence[Mapping[str, Any]]) -> list[Item]:
    """A whole conversation of TRL's tool loop as items; results follow their calls in order."""
    items: list[Item] = []
    waiting: list[str] = []
    for position, message in enumerate(messages):
        if message.get("role") == "tool":
            call_id = waiting.pop(0) if waiting else f"call_{position}"
            items.append(function_call_output(call_id, _text(message.get("content"))))
            continue
        said = assistant_items(message, f"call_{position}_")
        waiting = [item["call_id"] for item in said if item["type"] == "function_call"]
        items.extend(said)
    return items


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return ""


def _arguments(arguments: object) -> str:
    if isinstance(arguments, str):
        return arguments
    return "{}" if arguments is None else json.dumps(arguments)
