"""The nearest known name to one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["unknown"]


def unknown(what: str, name: str, known: Iterable[str], *, most_shown: int = 40) -> str:
    """A message that `name` is no known `what`, with the nearest, or all where they are few."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"there is no {what} {name!r}. Did you mean {near[0]!r}?"
    if len(names) > most_shown:
        return f"there is no {what} {name!r}"
    return f"there is no {what} {name!r}. There are: {', '.join(names)}"
