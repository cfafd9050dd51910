"""Whether the trainer installed is of the version its adapter was tested with."""

from __future__ import annotations

import warnings

__all__ = ["is_tested", "warn_unless_tested"]


def is_tested(installed: str, tested: tuple[int, int]) -> bool:
    """Whether `installed` is of the minor version `tested`."""
    return installed.split(".")[:2] == [str(part) for part in tested]


def warn_unless_tested(trainer: str, installed: str, tested: tuple[int, int], advice: str) -> None:
    """Warn where `installed` is another minor version, as the caller of the adapter's check.

    Args:
        trainer: What the trainer calls itself.
        installed: Its version here.
        tested: Major and minor version the adapter was tested with.
        advice: What may be wrong, and where to read about it.
    """
    if is_tested(installed, tested):
        return
    warnings.warn(
        f"gym_adapters was tested with {trainer} {tested[0]}.{tested[1]}, and this is {trainer} "
        f"{installed}. {advice} What works where, and with which versions: docs/status.md.",
        stacklevel=4,
    )
