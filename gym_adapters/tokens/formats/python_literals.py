"""Reads ``[name(key=value, ...), ...]`` with literal values, in linear time.

Python's own parser is not used: its cost and its stack on hostile text are not bounded by ours.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["NotACall", "read_python_calls"]

MAX_DEPTH = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z0-9_]+)*")
_NUMBER = re.compile(r"-?(?:[0-9]{1,4000}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
_SPACE = re.compile(r"\s*")
_PLAIN = re.compile(r"""[^"'\\\n]+""")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "\n": ""}
_WORDS: dict[str, Any] = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}


class NotACall(ValueError):
    """A text that is no list of Python calls."""


def read_python_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and keyword arguments of the calls in `text`.

    Raises:
        NotACall: If `text` is anything else, nested deeper than 64, or uses more than literals.
    """
    reader = _Reader(text)
    calls = reader.calls()
    if not calls:
        raise NotACall("no call")
    return calls


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        listed = self._take("[")
        calls: list[tuple[str, dict[str, Any]]] = []
        while not (listed and self._take("]")):
            calls.append(self._call())
            if not self._take(","):
                if listed:
                    self._need("]")
                break
        self._skip()
        if self._at != len(self._text):
            raise NotACall("text after the calls")
        return calls

    def _call(self) -> tuple[str, dict[str, Any]]:
        name = self._name()
        self._need("(")
        arguments: dict[str, Any] = {}
        while not self._take(")"):
            key = self._name()
            self._need("=")
            arguments[key] = self._value(0)
            if not self._take(","):
                self._need(")")
                break
        return name, arguments

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise NotACall("nested too deep")
        self._skip()
        first = self._text[self._at : self._at + 1]
        if first in ("'", '"'):
            return self._string(first)
        if self._take("{"):
            return self._mapping(depth)
        if self._take("["):
            return self._sequence("]", depth)
        if self._take("("):
            return self._sequence(")", depth)
        number = _NUMBER.match(self._text, self._at)
        if number is not None:
            self._at = number.end()
            return int(number[0]) if number[0].lstrip("-").isdigit() else float(number[0])
        word = self._name()
        if word not in _WORDS:
            raise NotACall(f"{word} is no literal")
        return _WORDS[word]

    def _sequence(self, closing: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while not self._take(closing):
            values.append(self._value(depth + 1))
            if not self._take(","):
                self._need(closing)
                break
        return values

    def _mapping(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not self._take("}"):
            key = self._value(depth + 1)
            self._need(":")
            values[key if isinstance(key, str) else str(key)] = self._value(depth + 1)
            if not self._take(","):
                self._need("}")
                break
        return values

    def _string(self, quote: str) -> str:
        self._at += 1
        parts: list[str] = []
        while self._at < len(self._text):
            plain = _PLAIN.match(self._text, self._at)
            if plain is not None:
                parts.append(plain[0])
                self._at = plain.end()
                continue
            character = self._text[self._at]
            self._at += 1
            if character == quote:
                return "".join(parts)
            parts.append(self._escape() if character == "\\" else character)
        raise NotACall("a string without an end")

    def _escape(self) -> str:
        character = self._text[self._at : self._at + 1]
        self._at += 1
        if character in ("u", "x"):
            length = 4 if character == "u" else 2
            digits = self._text[self._at : self._at + length]
            if len(digits) == length and all(d in "0123456789abcdefABCDEF" for d in digits):
                self._at += length
                return chr(int(digits, 16))
        return _ESCAPES.get(character, "\\" + character)

    def _name(self) -> str:
        self._skip()
        match = _NAME.match(self._text, self._at)
        if match is None:
            raise NotACall("no name")
        self._at = match.end()
        return match[0]

    def _take(self, character: str) -> bool:
        self._skip()
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def _need(self, character: str) -> None:
        if not self._take(character):
            raise NotACall(f"no {character}")

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
