"""Which TRL this adapter was tested with."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from gym_adapters.adapters.tested_version import is_tested, warn_unless_tested
from gym_adapters.errors import MissingExtra

__all__ = ["TESTED", "WITH_UNSLOTH", "check_trl"]

TESTED = (1, 16)
"""Major and minor version. What this adapter builds on is experimental in TRL."""

WITH_UNSLOTH = (1, 15)
"""Tested as well where Unsloth rewrites it: Unsloth's own requirements hold TRL there."""


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
    if "unsloth" in sys.modules and is_tested(installed, WITH_UNSLOTH):
        return
    warn_unless_tested(
        "TRL",
        installed,
        TESTED,
        "What it builds on is experimental there and may have changed: see docs/trl.md, "
        "'Versions'.",
    )
