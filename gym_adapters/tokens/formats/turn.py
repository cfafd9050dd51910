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

__all__ = [
    "Call",
    "Lexeme",
    "OutputFormat",
    "ToolSchemas",
    "Turn",
    "find_marker",
    "read_thinking",
    "tool_schemas",
]

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
    _unread: bool = False
    _calls: int = 0
    _parted: bool = False

    def text(self, text: str) -> None:
        """Text for the reader."""
        self._text.append(text)

    def unread(self, text: str) -> None:
        """What should have been a call and can't be read: text, in a message that is told apart."""
        self._text.append(text)
        self._unread = True

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
        text, unread = "".join(self._text), self._unread
        self._text.clear()
        self._unread = False
        if self._parted:
            text = text.lstrip("\r\n")
        if not last:
            text = text.rstrip("\r\n")
            self._parted = True
        if text.strip() or (text and not self._parted):
            written = assistant_message(text)
            if unread:
                written["status"] = "incomplete"
            self._items.append(written)


def read_thinking(
    lexemes: Sequence[Lexeme], turn: Turn, opening: str = "<think>", closing: str = "</think>"
) -> int:
    """Write the thinking that a turn starts with; returns where the rest starts.

    It is marked at both ends, or opened by the prompt, or closed without having been opened.
    """
    marks = [n for n, lexeme in enumerate(lexemes) if lexeme.is_marker]
    first = marks[0] if marks else len(lexemes)
    opens = bool(marks) and lexemes[first].text == opening
    closes = bool(marks) and lexemes[first].text == closing
    blank = all(not lexeme.text.strip() for lexeme in lexemes[:first])
    if not (turn.starts_thinking or closes or (opens and blank)):
        return 0
    begin = first + 1 if opens else 0
    end = find_marker(lexemes, closing, begin)
    turn.thinking("".join(lexeme.text for lexeme in lexemes[begin:end]))
    return end + 1


def find_marker(lexemes: Sequence[Lexeme], marker: str, start: int) -> int:
    """Where `marker` stands from `start` on, the end where it doesn't."""
    for position in range(start, len(lexemes)):
        if lexemes[position].is_marker and lexemes[position].text == marker:
            return position
    return len(lexemes)


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
