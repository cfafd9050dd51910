"""Which verl this adapter was tested with."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from gym_adapters.errors import MissingExtra

__all__ = ["TESTED", "check_verl"]

TESTED = (0, 9)
"""Major and minor version. verl changes what this adapter builds on several times a month."""


@cache
def check_verl() -> None:
    """Warn, once a process, where the verl installed is not the one tested.

    Raises:
        MissingExtra: Without verl.
    """
    try:
        installed = version("verl")
    except PackageNotFoundError as error:
        raise MissingExtra("verl", package="verl", needed_for="the verl adapter") from error
    if is_tested(installed):
        return
    tested = ".".join(map(str, TESTED))
    warnings.warn(
        f"gym_adapters was tested with verl {tested}, and this is verl {installed}. What it builds "
        "on changes often there: see docs/verl.md, 'Versions'.",
        stacklevel=3,
    )


def is_tested(installed: str) -> bool:
    """Whether `installed` is of the minor version that was tested."""
    numbers = installed.split(".")[:2]
    return len(numbers) == 2 and numbers == [str(part) for part in TESTED]
