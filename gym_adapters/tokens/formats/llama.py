"""Llama 3: the whole turn is one JSON object ``{"name": ..., "parameters": {...}}``, or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gym_adapters.tokens.formats.json_calls import read_json_calls
from gym_adapters.tokens.formats.turn import Lexeme, Turn, read_thinking

__all__ = ["LlamaFormat"]

_PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class LlamaFormat:
    """JSON calls, several apart by ``;``, with ``<|python_tag|>`` before them or without."""

    name: str = "llama_json"
    markers: tuple[str, ...] = (_PYTHON_TAG, "<think>", "</think>")
    reads_calls: bool = True

    def read(self, lexemes: Sequence[Lexeme], turn: Turn) -> None:
        """Write what `lexemes` say to `turn`."""
        before, tag, after = _split(lexemes[read_thinking(lexemes, turn) :])
        body = after if tag else before
        calls = None
        if body.lstrip()[:1] in ("{", "["):
            calls = read_json_calls(body)
        cut = turn.finish_reason == "length" and not body.rstrip().endswith(("}", "]"))
        if calls is None or cut:
            # A turn of JSON may also be an answer.
            write = turn.text if calls is None and not tag else turn.unread
            write(before + tag + after)
            return
        if tag:
            turn.text(before)
        for call in calls:
            turn.call(call)


def _split(lexemes: Sequence[Lexeme]) -> tuple[str, str, str]:
    """Text before the first python tag, the tag, and all after it."""
    for position, lexeme in enumerate(lexemes):
        if lexeme == Lexeme(_PYTHON_TAG, True):
            before = "".join(entry.text for entry in lexemes[:position])
            after = "".join(entry.text for entry in lexemes[position + 1 :])
            return before, lexeme.text, after
    return "".join(entry.text for entry in lexemes), "", ""
