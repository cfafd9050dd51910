"""Responses items as the messages that chat templates read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gym_adapters.errors import Unsupported
from gym_adapters.items import FunctionTool, Item, item_text

__all__ = ["ASSISTANT_KINDS", "MessageDialect", "is_assistant", "template_tools"]

ASSISTANT_KINDS = ("reasoning", "function_call")
INLINE = "inline_reasoning"
_TEXT_PARTS = ("input_text", "output_text", "text", "refusal")


@dataclass(frozen=True, slots=True)
class MessageDialect:
    """How one template wants its messages.

    Attributes:
        reasoning_key: Key of an assistant message that holds its thinking; ``None`` where the
            template knows none, and thinking is part of the text.
        arguments_as_text: Whether tool arguments are JSON text; else they are an object.
        developer_role: Whether the template knows the role ``developer``; else it reads ``system``.
        nine_letter_ids: Whether call ids must be nine letters or digits (Mistral).
        content_as_parts: Whether content is a list of parts (templates of vision models).
    """

    reasoning_key: str | None = "reasoning_content"
    arguments_as_text: bool = False
    developer_role: bool = False
    nine_letter_ids: bool = False
    content_as_parts: bool = False

    def messages(
        self, items: Sequence[Item], names: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Items as messages; what the assistant wrote in one turn becomes one message.

        Args:
            items: Any items, in order.
            names: Tool names by call id, for results whose calls are not among `items`.

        Raises:
            Unsupported: If an item holds anything but text.
        """
        messages: list[dict[str, Any]] = []
        known = dict(names or {})
        turn: dict[str, Any] | None = None
        for item in items:
            if not is_assistant(item):
                turn = None
                messages.append(self._other(item, known))
                continue
            if turn is None or _starts_turn(item, turn):
                turn = {"role": "assistant", "content": ""}
                messages.append(turn)
            self._extend(turn, item)
            if item["type"] == "function_call":
                known[item["call_id"]] = item["name"]
        return messages

    def finish(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages after their text was escaped: adds the markup that is the template's own."""
        finished: list[dict[str, Any]] = []
        for message in messages:
            entry = dict(message)
            thought = entry.pop(INLINE, None)
            if thought is not None:
                entry["content"] = f"<think>\n{thought}\n</think>\n\n{entry['content']}"
            if self.content_as_parts:
                entry["content"] = [{"type": "text", "text": entry["content"]}]
            finished.append(entry)
        return finished

    def _other(self, item: Item, names: Mapping[str, str]) -> dict[str, Any]:
        if item["type"] == "function_call_output":
            result = {
                "role": "tool",
                "content": _output_text(item["output"]),
                "tool_call_id": self._call_id(item["call_id"]),
            }
            name = names.get(item["call_id"])
            return result if name is None else {**result, "name": name}
        role = item.get("role", "user")
        if role == "developer" and not self.developer_role:
            role = "system"
        return {"role": role, "content": _text(item)}

    def _extend(self, turn: dict[str, Any], item: Item) -> None:
        if item["type"] == "reasoning":
            key = self.reasoning_key or INLINE
            turn[key] = turn.get(key, "") + _reasoning_text(item)
        elif item["type"] == "function_call":
            function = {"name": item["name"], "arguments": self._arguments(item["arguments"])}
            call = {"id": self._call_id(item["call_id"]), "type": "function", "function": function}
            turn.setdefault("tool_calls", []).append(call)
        else:
            turn["content"] += _text(item)

    def _call_id(self, call_id: str) -> str:
        if not self.nine_letter_ids or re.fullmatch("[a-zA-Z0-9]{9}", call_id):
            return call_id
        return hashlib.sha256(call_id.encode()).hexdigest()[:9]

    def _arguments(self, text: str) -> Any:
        if self.arguments_as_text:
            return text
        try:
            arguments = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return arguments if isinstance(arguments, dict) else text


def is_assistant(item: Item) -> bool:
    """Whether the assistant wrote `item`."""
    kind = item.get("type", "message")
    return kind in ASSISTANT_KINDS or (kind == "message" and item.get("role") == "assistant")


def template_tools(tools: Sequence[FunctionTool]) -> list[dict[str, Any]] | None:
    """Tools as templates read them, ``None`` where there are none."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool.get("description") or "",
                "parameters": tool.get("parameters") or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
    ] or None


def _starts_turn(item: Item, turn: Mapping[str, Any]) -> bool:
    """Whether `item` can't belong to `turn`: thinking comes first, and text comes once."""
    if item["type"] == "reasoning":
        return bool(turn["content"]) or "tool_calls" in turn
    return item["type"] == "message" and bool(turn["content"]) and "tool_calls" not in turn


def _reasoning_text(item: Item) -> str:
    text = item_text(item)
    if text or item["type"] != "reasoning":
        return text
    return "".join(str(part.get("text", "")) for part in item["summary"])


def _text(item: Item) -> str:
    content = item.get("content")
    if isinstance(content, list):
        for part in content:
            if part["type"] not in _TEXT_PARTS:
                raise Unsupported(
                    f"A message holds a part of type {part['type']!r}. Chat templates are rendered "
                    "as text here; use an environment of text only."
                )
    return item_text(item)


def _output_text(output: object) -> str:
    if isinstance(output, str):
        return output
    if isinstance(output, list):
        return _text({"type": "message", "role": "user", "content": output})
    raise Unsupported(f"A tool result must be text, not {type(output).__name__}.")
