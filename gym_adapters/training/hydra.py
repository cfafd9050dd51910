"""A recipe's arguments as hydra overrides, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gym_adapters.training.nearest import unknown

__all__ = ["flat", "joined", "keys_of", "nearest_problem", "override"]

# What hydra's grammar takes unquoted, besides letters and digits.
_PLAIN = frozenset("_-./:@%")


def flat(arguments: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested arguments as dotted keys; a ``+`` at any of them goes to the front."""
    for key, value in arguments.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, name)
        else:
            plus = "++" if "++" in name else "+" if "+" in name else ""
            yield plus + name.replace("+", ""), value


def override(key: str, value: Any) -> str:
    """One override."""
    return f"{key}={_text(value)}"


def joined(*groups: Sequence[str]) -> list[str]:
    """Overrides of several sources: the last of a key wins, and each key stands once."""
    kept: dict[str, str] = {}
    for group in groups:
        for each in group:
            name = each.split("=", 1)[0].lstrip("+~")
            known = kept.pop(name, None)
            # What was added by an earlier source stays an addition.
            added = known is not None and known.startswith("+") and not each.startswith("+")
            kept[name] = f"++{each}" if added else each
    return list(kept.values())


def keys_of(data: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """All dotted keys of a nested mapping, those of its branches too."""
    for key, value in data.items():
        name = f"{above}.{key}" if above else str(key)
        yield name
        if isinstance(value, Mapping):
            yield from keys_of(value, name)


def nearest_problem(overrides: Sequence[str], known: Mapping[str, Any]) -> str | None:
    """What the first override names that is not in `known`; ``None`` where all is known.

    Overrides that add a key (``+key``) are let pass.
    """
    names = frozenset(keys_of(known))
    for each in overrides:
        key = each.split("=", 1)[0]
        if key.startswith(("+", "~", "hydra.")) or key in names:
            continue
        # The nearest among those of the same section, as far as that is right.
        section = key
        while section and section not in names:
            section = section.rpartition(".")[0]
        siblings = [n for n in names if n.startswith(f"{section}.") or not section]
        return unknown("key", key, siblings)
    return None


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    text = str(value)
    if not isinstance(value, str) or _is_plain(text):
        return text
    # Hydra reads a backslash as itself, but for those before a quote, or before the last one.
    inner = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", inner) + "'"


def _is_plain(text: str) -> bool:
    """Whether hydra reads `text` as it stands: as text, or as the number that YAML 1.1 misses."""
    if text.lower() in ("", "null", "true", "false") or text.lstrip("+-").isdigit():
        return False
    return all(c.isascii() and (c.isalnum() or c in _PLAIN) for c in text)
