"""Does a trainer receive exactly what the rollouts were? Asked of every trainer, in its own code.

A scripted policy, all of whose tokens and log-probabilities are known, plays a case in this process
and through a trainer's adapter; then both are compared to the token.

Names load on first use, so that importing this package costs nothing and pulls in no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gym_adapters.testing.parity.case import Attempt, ParityCase, Room, says_alike
    from gym_adapters.testing.parity.check import Cell, Verdict, check_case, check_parity
    from gym_adapters.testing.parity.difference import Difference, differences
    from gym_adapters.testing.parity.driver import TRAINERS, ParityDriver, parity_driver
    from gym_adapters.testing.parity.environment_attempts import environment_cases
    from gym_adapters.testing.parity.received import EpisodeSeed, Received, ReceivedRollout, Sample
    from gym_adapters.testing.parity.reference import reference_rollouts, why_none_is_scored
    from gym_adapters.testing.parity.shapes import parity_shapes

_MODULES = {
    "TRAINERS": "driver",
    "Attempt": "case",
    "Cell": "check",
    "Difference": "difference",
    "EpisodeSeed": "received",
    "ParityCase": "case",
    "ParityDriver": "driver",
    "Received": "received",
    "ReceivedRollout": "received",
    "Room": "case",
    "Sample": "received",
    "Verdict": "check",
    "check_case": "check",
    "check_parity": "check",
    "differences": "difference",
    "environment_cases": "environment_attempts",
    "parity_driver": "driver",
    "parity_shapes": "shapes",
    "reference_rollouts": "reference",
    "says_alike": "case",
    "why_none_is_scored": "reference",
}

__all__ = [
    "TRAINERS",
    "Attempt",
    "Cell",
    "Difference",
    "EpisodeSeed",
    "ParityCase",
    "ParityDriver",
    "Received",
    "ReceivedRollout",
    "Room",
    "Sample",
    "Verdict",
    "check_case",
    "check_parity",
    "differences",
    "environment_cases",
    "parity_driver",
    "parity_shapes",
    "reference_rollouts",
    "says_alike",
    "why_none_is_scored",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
