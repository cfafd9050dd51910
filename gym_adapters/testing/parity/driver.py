"""What takes a case through one trainer, and where such drivers are found.

A driver stands beside the adapter it drives, as it imports the trainer: the module ``parity`` of a
package of `gym_adapters.adapters`, in which ``driver()`` makes one.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from gym_adapters.errors import UsageError
from gym_adapters.testing.parity.case import ParityCase, Room
from gym_adapters.testing.parity.received import Received

__all__ = ["TRAINERS", "ParityDriver", "parity_driver"]

# Named here, not imported: adapters stand above this layer, and each needs its own framework.
_MODULES = {
    "trl": "gym_adapters.adapters.trl.parity",
    "trl-async": "gym_adapters.adapters.trl.async_parity",
    "verl": "gym_adapters.adapters.verl.parity",
    "offline": "gym_adapters.adapters.offline.parity",
    "nemo-rl": "gym_adapters.adapters.nemo_rl.parity",
}

TRAINERS: tuple[str, ...] = tuple(_MODULES)
"""Every trainer that a case can be driven through.

NeMo RL is last: a checkout of it changes the process.
"""


class ParityDriver(Protocol):
    """One trainer."""

    @property
    def trainer(self) -> str:
        """Its name, one of `TRAINERS`."""
        ...

    def unavailable(self) -> str | None:
        """Why it can't be run here, and what to do; ``None`` where it can. Imports no trainer."""
        ...

    def refusal(self, case: ParityCase) -> str | None:
        """Why the capability matrix says that `case` must be refused; ``None`` for a supported one.

        Raises:
            UnknownEnvironment: If the case's environment can't be found.
        """
        ...

    def drive(self, case: ParityCase, room: Room) -> Received:
        """Take `case` through the adapter and the trainer's own code, as far as it goes.

        Raises:
            Unsupported: If the adapter refuses it.
        """
        ...


def parity_driver(trainer: str) -> ParityDriver:
    """The driver of `trainer`; nothing of the trainer is imported yet.

    Raises:
        UsageError: If there is no such trainer.
    """
    if trainer not in _MODULES:
        raise UsageError(
            f"there is no trainer {trainer!r}. Fix: one or more of {', '.join(TRAINERS)}."
        )
    return cast(ParityDriver, import_module(_MODULES[trainer]).driver())
