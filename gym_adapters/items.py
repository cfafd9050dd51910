"""Messages as OpenAI Responses API items, held as plain dicts.

Nothing here validates on the hot path: `check_items` runs where data enters (rows, remote agents),
and everything after that trusts the types. Format: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Literal, NotRequired, TypedDict, cast

from gym_adapters.errors import InvalidRow

__all__ = [
    "ContentPart",
    "FinishReason",
    "FunctionCall",
    "FunctionCallOutput",
    "FunctionTool",
    "Item",
    "Message",
    "Reasoning",
    "assistant_message",
    "check_items",
    "final_text",
    "function_call",
    "function_call_output",
    "input_items",
    "item_text",
    "message",
    "reasoning",
    "user_message",
    "valid_text",
]

_HALF_PAIR = re.compile("[\ud800-\udfff]")

FinishReason = Literal["stop", "length"]
Role = Literal["system", "developer", "user", "assistant"]


class ContentPart(TypedDict):
    """One part of a message: ``input_text``, ``output_text``, ``refusal`` or ``input_image``."""

    type: str
    text: NotRequired[str]
    refusal: NotRequired[str]
    image_url: NotRequired[str]
    annotations: NotRequired[list[Any]]


class Message(TypedDict):
    """A message of any role; `content` is text or a list of parts."""

    type: Literal["message"]
    role: Role
    content: str | list[ContentPart]
    id: NotRequired[str]
    status: NotRequired[str]


class FunctionCall(TypedDict):
    """A tool call by the assistant; `arguments` is the JSON text exactly as the model wrote it."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: NotRequired[str]
    status: NotRequired[str]


class FunctionCallOutput(TypedDict):
    """The result of the tool call `call_id`, as the model reads it."""

    type: Literal["function_call_output"]
    call_id: str
    output: str
    id: NotRequired[str | None]
    status: NotRequired[str | None]


class Reasoning(TypedDict):
    """Thinking that the model wrote before its answer."""

    type: Literal["reasoning"]
    summary: list[dict[str, Any]]
    content: NotRequired[list[ContentPart]]
    id: NotRequired[str]


Item = Message | FunctionCall | FunctionCallOutput | Reasoning


class FunctionTool(TypedDict):
    """A function the model may call, as the Responses API declares it."""

    type: Literal["function"]
    name: str
    description: NotRequired[str | None]
    parameters: dict[str, Any]
    strict: NotRequired[bool | None]


def message(role: Role, text: str) -> Message:
    """A message of `role` that holds `text`."""
    return {"type": "message", "role": role, "content": text}


def user_message(text: str) -> Message:
    """A user message that holds `text`."""
    return message("user", text)


def assistant_message(text: str) -> Message:
    """An assistant message, in the shape a Responses server returns."""
    part: ContentPart = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part], "status": "completed"}


def reasoning(text: str) -> Reasoning:
    """A reasoning item that holds `text`."""
    return {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
    }


def function_call(name: str, arguments: str, call_id: str) -> FunctionCall:
    """A call of the tool `name` with the JSON text `arguments`."""
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def function_call_output(call_id: str, output: str) -> FunctionCallOutput:
    """What the call `call_id` returned, as text."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def item_text(item: Item) -> str:
    """The text of one message or reasoning item; other items have none.

    Text parts are joined without a separator; refusals count as text.
    """
    content = item.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)


def final_text(items: Sequence[Item]) -> str:
    """The text of the last assistant message in `items`, ``""`` when there is none.

    This is the one place that reads the final answer of a response. Reasoning items do not count,
    nor does an assistant message that came before a later tool call or tool result.
    """
    for item in reversed(items):
        kind = item.get("type", "message")
        if kind == "message" and item.get("role") == "assistant":
            return item_text(item)
        if kind != "reasoning":
            return ""
    return ""


def input_items(value: str | Sequence[Mapping[str, Any]]) -> list[Item]:
    """The ``input`` of Responses create params as a list of items, each with its ``type``."""
    if isinstance(value, str):
        return [user_message(value)]
    return [
        cast("Item", dict(item) if "type" in item else {"type": "message", **item})
        for item in value
    ]


def valid_text(text: str) -> str:
    """`text` with U+FFFD for halves of surrogate pairs, which no encoding takes."""
    return text if text.isascii() else _HALF_PAIR.sub("\ufffd", text)


def next_call_id(counter: count[int]) -> str:
    """A call id that is unique within its episode, and the same on every run."""
    return f"call_{next(counter)}"


_REQUIRED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "message": {"role": str, "content": (str, list)},
    "function_call": {"call_id": str, "name": str, "arguments": str},
    "function_call_output": {"call_id": str, "output": str},
    "reasoning": {"summary": list},
}
_ROLES = ("system", "developer", "user", "assistant")


def check_items(items: Iterable[Any], field: str) -> None:
    """Refuse items that are not Responses API items.

    Args:
        items: What to check.
        field: Where they stand in the row, for the message.

    Raises:
        InvalidRow: Naming the first bad item, its field and the fix.
    """
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidRow(
                f"an item must be an object, not {type(item).__name__}.",
                field=f"{field}[{position}]",
                fix='write it as {"role": "user", "content": "..."}.',
            )
        kind = item.get("type", "message")
        if kind == "message" and type(item.get("content")) is str and item.get("role") in _ROLES:
            continue  # nearly all of them
        required = _REQUIRED.get(kind) if isinstance(kind, str) else None
        if required is None:
            raise InvalidRow(
                f"unknown item type {kind!r}.",
                field=f"{field}[{position}].type",
                fix=f"use one of {', '.join(_REQUIRED)}.",
            )
        for key, types in required.items():
            if not isinstance(item.get(key), types):
                raise InvalidRow(
                    f"a {kind} item needs {key!r}"
                    + (
                        f", not {type(item[key]).__name__}."
                        if key in item
                        else ", which is absent."
                    ),
                    field=f"{field}[{position}].{key}",
                    fix=f"give it as {_type_names(types)}.",
                )
        if kind == "message":
            _check_message(item, field, position)


def _check_message(item: dict[str, Any], field: str, position: int) -> None:
    if item["role"] not in _ROLES:
        raise InvalidRow(
            f"unknown role {item['role']!r}.",
            field=f"{field}[{position}].role",
            fix=f"use one of {', '.join(_ROLES)}; a tool result is a function_call_output item.",
        )
    if isinstance(item["content"], list):
        at = f"{field}[{position}]"
        for index, part in enumerate(item["content"]):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise InvalidRow(
                    "a content part must be an object with a type.",
                    field=f"{at}.content[{index}]",
                    fix='write it as {"type": "input_text", "text": "..."}.',
                )
            if not isinstance(part.get("text"), str | None):
                raise InvalidRow(
                    f"the text of a part must be text, not {type(part['text']).__name__}.",
                    field=f"{at}.content[{index}].text",
                    fix="give it as a string.",
                )


def _type_names(types: type | tuple[type, ...]) -> str:
    names: dict[type, str] = {str: "a string", list: "a list"}
    return " or ".join(names[t] for t in (types if isinstance(types, tuple) else (types,)))
