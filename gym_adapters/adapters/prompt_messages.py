"""Responses items as the text messages of a trainer's dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gym_adapters.items import Item, item_text

__all__ = ["Message", "prompt_messages"]

Message = dict[str, Any]


def prompt_messages(items: Sequence[Item]) -> list[Message]:
    """Items as chat messages of text.

    What is not a message (an earlier tool call, say) is shown as text: adapters under
    which a trainer renders these messages refuse such rows.
    """
    messages: list[Message] = []
    for item in items:
        if item["type"] == "message":
            # Hardly a template knows ``developer``, which is the newer name of ``system``.
            role = "system" if item["role"] == "developer" else item["role"]
            messages.append({"role": role, "content": item_text(item)})
        elif item["type"] == "function_call":
            text = f"{item['name']}({item['arguments']})"
            messages.append({"role": "assistant", "content": text})
        elif item["type"] == "function_call_output":
            messages.append({"role": "tool", "content": item["output"]})
        else:
            messages.append({"role": "assistant", "content": item_text(item)})
    return messages
