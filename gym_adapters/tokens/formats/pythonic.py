"""Llama 4, LFM2, Olmo 3: the call is a list of Python calls, ``[name(key="value"), ...]``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gym_adapters.tokens.formats.python_literals import NotACall, read_python_calls
from gym_adapters.tokens.formats.turn import Call, Lexeme, Turn, find_marker, read_thinking

__all__ = ["PythonicFormat"]

_BEGINS_A_CALL = re.compile(r"\s*\[\s*[A-Za-z_][\w.]*\(")


@dataclass(frozen=True, slots=True)
class PythonicFormat:
    """A turn, or what stands between `opening` and `closing`, that is a list of Python calls."""

    name: str = "pythonic"
    opening: str = "<|tool_call_start|>"
    closing: str = "<|tool_call_end|>"
    reads_calls: bool = True

    @property
    def markers(self) -> tuple[str, ...]:
        """Control tokens that mean something in this format."""
        return (self.opening, self.closing, "<think>", "</think>")

    def read(self, lexemes: Sequence[Lexeme], turn: Turn) -> None:
        """Write what `lexemes` say to `turn`."""
        rest = lexemes[read_thinking(lexemes, turn) :]
        if not any(lexeme.is_marker for lexeme in rest):
            self._read_body("".join(lexeme.text for lexeme in rest), turn, "", "")
            return
        position = 0
        while position < len(rest):
            lexeme = rest[position]
            position += 1
            if lexeme != Lexeme(self.opening, True):
                write = turn.unread if lexeme.is_marker else turn.text
                write(lexeme.text)
                continue
            end = find_marker(rest, self.closing, position)
            body = "".join(entry.text for entry in rest[position:end])
            self._read_body(body, turn, self.opening, self.closing if end < len(rest) else "")
            position = end + 1

    def _read_body(self, body: str, turn: Turn, opening: str, closing: str) -> None:
        try:
            calls = read_python_calls(body)
        except NotACall:
            write = turn.unread if opening or _BEGINS_A_CALL.match(body) else turn.text
            write(opening + body + closing)
            return
        for name, arguments in calls:
            turn.call(Call(name, json.dumps(arguments, ensure_ascii=False)))
