"""gpt-oss: messages with channels, ``<|channel|>analysis<|message|>...<|end|>``.

Format: https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gym_adapters.tokens.formats.turn import Call, Lexeme, Turn

__all__ = ["HarmonyFormat"]

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_CONSTRAIN, _END, _CALL, _RETURN = "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"
_ENDS = (_END, _CALL, _RETURN)


@dataclass(frozen=True, slots=True)
class HarmonyFormat:
    """Channels: ``analysis`` is thinking, ``final`` and ``commentary`` are text, ``to=`` calls."""

    name: str = "harmony"
    markers: tuple[str, ...] = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, *_ENDS)
    reads_calls: bool = True

    def read(self, lexemes: Sequence[Lexeme], turn: Turn) -> None:
        """Write what `lexemes` say to `turn`. The prompt ended in ``<|start|>assistant``."""
        header: list[Lexeme] = []
        body: list[str] | None = None
        for lexeme in lexemes:
            if lexeme.is_marker and lexeme.text in (*_ENDS, _START):
                self._write(header, body, turn, ended=True)
                header, body = [], None
            elif body is None and lexeme.is_marker and lexeme.text == _MESSAGE:
                body = []
            elif body is None:
                header.append(lexeme)
            else:
                body.append(lexeme.text)
        self._write(header, body, turn, ended=turn.finish_reason == "stop")

    def _write(
        self, header: list[Lexeme], body: list[str] | None, turn: Turn, *, ended: bool
    ) -> None:
        head = "".join(lexeme.text for lexeme in header)
        if body is None:
            write = turn.unread if _recipient(head) else turn.text
            write("" if head.strip() == "assistant" else head)
            return
        text = "".join(body)
        recipient, channel = _recipient(head), _channel(header)
        if recipient and ended:
            turn.call(Call(recipient, text.strip() or "{}"))
        elif recipient:
            turn.unread(head + _MESSAGE + text)
        elif channel == "analysis":
            turn.thinking(text)
        else:
            turn.text(text)


def _recipient(head: str) -> str:
    """The tool that a message is for: ``to=functions.name``."""
    _, found, rest = head.partition("to=")
    words = rest.replace("<|", " ").split() if found else []
    return words[0].removeprefix("functions.") if words else ""


def _channel(header: list[Lexeme]) -> str:
    for position, lexeme in enumerate(header[:-1]):
        if lexeme.is_marker and lexeme.text == _CHANNEL:
            words = header[position + 1].text.split()
            return words[0] if words else ""
    return ""
