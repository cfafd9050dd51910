"""Instructions that a program can check: the 25 of IFEval and 29 more of its training sets.

Ids and arguments are those of IFEval (https://arxiv.org/abs/2311.07911) and of the sets that grew
from it. A text of nothing but white space follows none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gym_adapters.errors import InvalidRow
from gym_adapters.verifiers.instructions.form import FORM
from gym_adapters.verifiers.instructions.language import KNOWN_LANGUAGES
from gym_adapters.verifiers.instructions.length import LENGTH
from gym_adapters.verifiers.instructions.registry import Arguments, Instruction, Kind
from gym_adapters.verifiers.instructions.wording import WORDING

__all__ = ["INSTRUCTIONS", "check_arguments", "follows"]

INSTRUCTIONS: Mapping[str, Instruction] = {**LENGTH, **WORDING, **FORM}

_WANTED: Mapping[Kind, str] = {
    "number": "a whole number",
    "text": "text",
    "texts": "a list of texts",
    "relation": '"less than" or "at least"',
    "language": f"one of {', '.join(sorted(KNOWN_LANGUAGES))}",
    "letter": "one character",
}


def follows(text: str, instruction: str, arguments: Arguments | None) -> bool:
    """Whether `text` follows the instruction; the arguments must have passed `check_arguments`."""
    return bool(text.strip()) and INSTRUCTIONS[instruction].check(text, arguments or {})


def check_arguments(instruction: str, arguments: Arguments | None, field: str) -> None:
    """Refuse an unknown instruction, and arguments that are missing or of the wrong kind.

    Arguments that the instruction has no use for are passed over.

    Raises:
        InvalidRow: Naming `field` and what belongs there.
    """
    known = INSTRUCTIONS.get(instruction)
    if known is None:
        raise InvalidRow(
            f"unknown instruction {instruction!r}.",
            field=field,
            fix=f"use one of {', '.join(sorted(INSTRUCTIONS))}.",
        )
    for name, kind in known.needs.items():
        value = (arguments or {}).get(name)
        if not _fits(value, kind):
            raise InvalidRow(
                f"{instruction} needs {name}, {_WANTED[kind]}, not {value!r}.",
                field=field,
                fix=f"add {name} to the instruction's kwargs.",
            )


def _fits(value: Any, kind: Kind) -> bool:
    if kind == "number":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "texts":
        return isinstance(value, list) and all(isinstance(part, str) and part for part in value)
    if kind == "relation":
        return value in ("less than", "at least")
    if kind == "language":
        return value in KNOWN_LANGUAGES
    if kind == "letter":
        return isinstance(value, str) and len(value.strip()) == 1
    return isinstance(value, str) and bool(value.strip())
