"""Which Unsloth this adapter was tested with."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from gym_adapters.adapters.tested_version import warn_unless_tested
from gym_adapters.errors import MissingExtra, Unsupported

__all__ = ["OLDEST", "TESTED", "check_unsloth"]

TESTED = (2026, 10)
"""Year and month. Unsloth releases several times a week, and rewrites TRL's source as it goes."""

OLDEST = (2026, 10)
"""Older ones were never run with TRL 1.15, and there were some that lost the mask of a rollout."""


@cache
def check_unsloth() -> None:
    """Warn, once a process, where the Unsloth installed is not the one tested.

    Raises:
        MissingExtra: Without Unsloth.
        Unsupported: If it is older than this adapter can work with.
    """
    try:
        installed = version("unsloth")
    except PackageNotFoundError as error:
        raise MissingExtra(
            "unsloth", package="unsloth", needed_for="the Unsloth adapter"
        ) from error
    numbers = [int(part) for part in installed.split(".")[:2] if part.isdecimal()]
    if tuple(numbers) < OLDEST:
        raise Unsupported(
            f"Unsloth {installed} is older than {OLDEST[0]}.{OLDEST[1]}, the first that this "
            "adapter was run with. Fix: pip install 'gym-adapters[unsloth]'."
        )
    warn_unless_tested(
        "Unsloth",
        installed,
        TESTED,
        "It rewrites TRL's trainers, and may do so in another way: see docs/unsloth.md, "
        "'Versions'.",
    )
