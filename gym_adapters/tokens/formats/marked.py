"""Formats that put each tool call, and the thinking, between two control tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gym_adapters.tokens.formats.turn import (
    Call,
    Lexeme,
    ToolSchemas,
    Turn,
    find_marker,
    read_thinking,
)

__all__ = ["MarkedFormat"]


@dataclass(frozen=True, slots=True)
class MarkedFormat:
    """Calls between `call_open` and `call_close`, thinking between `think_open` and `think_close`.

    Attributes:
        name: What to call it.
        read_call: The call that a text between the call's marks spells, if any. ``None`` for models
            that call no tools.
        call_open: Opens a call.
        call_close: Closes it.
        think_open: Opens the thinking.
        think_close: Closes it; without an opening before it, all text so far was thinking.
        brackets: Control tokens around all calls of a turn, which say nothing.
        inner: Control tokens inside a call, which `read_call` sees as text.
    """

    name: str
    read_call: Callable[[str, ToolSchemas], Call | None] | None
    call_open: str = "<tool_call>"
    call_close: str = "</tool_call>"
    think_open: str = "<think>"
    think_close: str = "</think>"
    brackets: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()

    @property
    def reads_calls(self) -> bool:
        """Whether it has tool calls at all."""
        return self.read_call is not None

    @property
    def markers(self) -> tuple[str, ...]:
        """Control tokens that mean something in this format."""
        thinking = (self.think_open, self.think_close)
        if self.read_call is None:
            return thinking
        return (*thinking, self.call_open, self.call_close, *self.brackets, *self.inner)

    def read(self, lexemes: Sequence[Lexeme], turn: Turn) -> None:
        """Write what `lexemes` say to `turn`."""
        position = read_thinking(lexemes, turn, self.think_open, self.think_close)
        while position < len(lexemes):
            lexeme = lexemes[position]
            position += 1
            if not lexeme.is_marker:
                turn.text(lexeme.text)
            elif lexeme.text == self.think_open:
                end = find_marker(lexemes, self.think_close, position)
                turn.thinking(_join(lexemes[position:end]))
                position = end + 1
            elif lexeme.text == self.call_open:
                position = self._read_one(lexemes, position, turn)
            elif lexeme.text not in self.brackets:
                turn.unread(lexeme.text)

    def _read_one(self, lexemes: Sequence[Lexeme], start: int, turn: Turn) -> int:
        end = start
        while end < len(lexemes) and not self._ends_call(lexemes[end]):
            end += 1
        closed = end < len(lexemes) and lexemes[end].text == self.call_close
        body = _join(lexemes[start:end])
        finished = closed or end < len(lexemes) or turn.finish_reason == "stop"
        call = self.read_call(body, turn.tools) if self.read_call and finished else None
        if call is not None:
            turn.call(call)
        else:
            turn.unread(self.call_open + body + (self.call_close if closed else ""))
        return end + 1 if closed else end

    def _ends_call(self, lexeme: Lexeme) -> bool:
        outer = (self.call_open, self.call_close, *self.brackets)
        return lexeme.is_marker and lexeme.text in outer


def _join(lexemes: Sequence[Lexeme]) -> str:
    return "".join(lexeme.text for lexeme in lexemes)
