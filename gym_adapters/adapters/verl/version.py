"""Which verl this adapter was tested with."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from gym_adapters.adapters.tested_version import warn_unless_tested
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
    warn_unless_tested(
        "verl",
        installed,
        TESTED,
        "What it builds on changes often there: see docs/verl.md, 'Versions'.",
    )
