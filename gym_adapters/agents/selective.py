"""Agents that can't drive every environment, and so are asked before anything is sampled."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from gym_adapters.environment import Environment

__all__ = ["SelectiveAgent", "check_agent"]


@runtime_checkable
class SelectiveAgent(Protocol):
    """An agent that refuses some environments."""

    def check(self, environment: type[Environment[Any]]) -> None:
        """Raise `Unsupported`, with the reason, where it can't drive `environment`."""
        ...


def check_agent(agent: object, environment: type[Environment[Any]]) -> None:
    """Ask `agent` whether it can drive `environment`; one that has no ``check`` drives all.

    Raises:
        Unsupported: If it can't.
    """
    if isinstance(agent, SelectiveAgent):
        agent.check(environment)
