"""Mistral: ``[TOOL_CALLS]`` and a JSON list, or ``[TOOL_CALLS]name[ARGS]{...}`` call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gym_adapters.tokens.formats.json_calls import NotJson, decode_json, read_json_calls
from gym_adapters.tokens.formats.turn import Call, Lexeme, Turn

__all__ = ["MistralFormat"]

_CALLS, _ARGS, _CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_THINK, _THINK_END = "[THINK]", "[/THINK]"


@dataclass(frozen=True, slots=True)
class MistralFormat:
    """Both generations of Mistral's tool calls, and Magistral's thinking."""

    name: str = "mistral"
    markers: tuple[str, ...] = (_CALLS, _ARGS, _CALL_ID, _THINK, _THINK_END)
    reads_calls: bool = True

    def read(self, lexemes: Sequence[Lexeme], turn: Turn) -> None:
        """Write what `lexemes` say to `turn`."""
        mode, part = "", list[Lexeme]()
        for lexeme in lexemes:
            closes_thinking = mode == _THINK and lexeme.text == _THINK_END
            opens = mode != _THINK and lexeme.text in (_CALLS, _THINK)
            if lexeme.is_marker and (closes_thinking or opens):
                self._write(mode, part, turn, last=False)
                mode, part = ("" if closes_thinking else lexeme.text), []
            else:
                part.append(lexeme)
        self._write(mode, part, turn, last=True)

    def _write(self, mode: str, part: list[Lexeme], turn: Turn, *, last: bool) -> None:
        text = "".join(lexeme.text for lexeme in part)
        if mode == _THINK:
            turn.thinking(text)
        elif mode == "":
            turn.text(text)
        else:
            cut = last and turn.finish_reason == "length"
            calls = _read_list(text, cut) if text.lstrip()[:1] == "[" else _read_named(part, cut)
            if calls is None:
                turn.unread(mode + text)
            for call in calls or ():
                turn.call(call)


def _read_list(text: str, cut: bool) -> list[Call] | None:
    calls = read_json_calls(text)
    return None if cut and not text.rstrip().endswith("]") else calls


def _read_named(part: list[Lexeme], cut: bool) -> list[Call] | None:
    """One call: its name, perhaps its id, and its arguments."""
    marks = [n for n, lexeme in enumerate(part) if lexeme.is_marker]
    arguments_at = next((n for n in marks if part[n].text == _ARGS), None)
    if arguments_at is None:
        name, brace, rest = "".join(lexeme.text for lexeme in part).partition("{")
        arguments = brace + rest
    else:
        name = "".join(lexeme.text for lexeme in part[: min(marks)])
        arguments = "".join(lexeme.text for lexeme in part[arguments_at + 1 :])
    name, arguments = name.strip(), arguments.strip()
    if not name or not arguments or any(character.isspace() for character in name):
        return None
    if cut and not _is_json(arguments):
        return None
    return [Call(name, arguments)]


def _is_json(text: str) -> bool:
    try:
        decode_json(text)
    except NotJson:
        return False
    return True
