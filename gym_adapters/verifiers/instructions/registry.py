"""What an instruction is: an id, the arguments it needs, and a check of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Arguments", "Check", "Instruction", "Kind", "compare"]

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]
Kind = Literal["number", "text", "texts", "relation", "language", "letter"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One kind of instruction.

    Attributes:
        check: Whether a text follows it, given its arguments. Linear in the text; never raises.
        needs: The kind of each argument that must be given, by name.
    """

    check: Check
    needs: Mapping[str, Kind]


def compare(actual: int, relation: str, bound: int) -> bool:
    """Whether `actual` is ``less than`` or ``at least`` `bound`."""
    return actual < bound if relation == "less than" else actual >= bound
