"""Which TRL this adapter was tested with."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from gym_adapters.errors import MissingExtra

__all__ = ["TESTED", "check_trl"]

TESTED = (1, 16)
"""Major and minor version. What this adapter builds on is experimental in TRL."""


@cache
def check_trl() -> None:
    """Warn, once a process, where the TRL installed is not the one tested.

    Raises:
        MissingExtra: Without TRL.
    """
    try:
        installed = version("trl")
    except PackageNotFoundError as error:
        raise MissingExtra("trl", package="trl", needed_for="the TRL adapter") from error
    if is_tested(installed):
        return
    tested = ".".join(map(str, TESTED))
    warnings.warn(
        f"gym_adapters was tested with TRL {tested}, and this is TRL {installed}. What it builds "
        "on is experimental there and may have changed: see docs/trl.md, 'Versions'.",
        stacklevel=3,
    )


def is_tested(installed: str) -> bool:
    """Whether `installed` is of the minor version that was tested."""
    numbers = installed.split(".")[:2]
    return len(numbers) == 2 and numbers == [str(part) for part in TESTED]
