"""Text and ``<think>`` alone, for models without tool calls."""

from __future__ import annotations

from gym_adapters.tokens.formats.marked import MarkedFormat

__all__ = ["plain_format"]


def plain_format() -> MarkedFormat:
    """Text, and thinking where it is marked."""
    return MarkedFormat("plain", None)
