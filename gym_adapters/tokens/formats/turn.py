"""What every output format is made of: lexemes in, a turn's items out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from gym_adapters.items import (
    FinishReason,
    FunctionTool,
    Item,
    assistant_message,
    function_call,
    reasoning,
)

__all__ = ["Call", "Lexeme", "OutputFormat", "ToolSchemas", "Turn", "tool_schemas"]

ToolSchemas = Mapping[str, Mapping[str, Any]]


class Lexeme(NamedTuple):
    """A stretch of text, or one control token of the format."""

    text: str
    is_marker: bool


class Call(NamedTuple):
    """A tool call: its name, and its arguments as the model wrote them."""

    name: str
    arguments: str


@dataclass(slots=True)
class Turn:
    """Collects the items of one turn in the order they are written.

    Attributes:
        finish_reason: Why the turn ended; ``length`` leaves an unfinished call as text.
        call_id_prefix: Call ids are this and a number from 0.
        tools: Parameter schemas by tool name, for formats that don't tell text from numbers.
        starts_thinking: Whether the prompt opened the thinking already.
    """

    finish_reason: FinishReason
    call_id_prefix: str
    tools: ToolSchemas = field(default_factory=dict)
    starts_thinking: bool = False
    _items: list[Item] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)
    _calls: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written but whitespace."""
        return not self._items and not "".join(self._text).strip()

    def text(self, text: str) -> None:
        """Text for the reader."""
        self._text.append(text)

    def thinking(self, text: str) -> None:
        """Thinking; nothing where it is blank."""
        self._flush(last=False)
        if text.strip():
            self._items.append(reasoning(text.strip()))

    def call(self, call: Call) -> None:
        """A tool call."""
        self._flush(last=False)
        call_id = f"{self.call_id_prefix}{self._calls}"
        self._items.append(function_call(call.name, call.arguments, call_id))
        self._calls += 1

    def items(self) -> list[Item]:
        """All that was written."""
        self._flush(last=True)
        return list(self._items)

    def _flush(self, *, last: bool) -> None:
        text = "".join(self._text)
        self._text.clear()
        if self._items:
            text = text.lstrip("\r\n")
        if not last:
            text = text.rstrip("\r\n")
        if text.strip() or (text and last and not self._items):
            self._items.append(assistant_message(text))


class OutputFormat(Protocol):
    """How one family of models writes thinking and tool calls."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Control tokens that mean something in it."""
        ...

    @property
    def reads_calls(self) -> bool:
        """Whether it has tool calls at all."""
        ...

    def read(self, lexemes: Sequence[Lexeme], turn: Turn) -> None:
        """Write what `lexemes` say to `turn`. Never raises; linear in their length."""
        ...


def tool_schemas(tools: Sequence[FunctionTool]) -> dict[str, Mapping[str, Any]]:
    """Parameter schemas by tool name."""
    schemas: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        properties = (tool.get("parameters") or {}).get("properties")
        schemas[tool["name"]] = properties if isinstance(properties, dict) else {}
    return schemas
