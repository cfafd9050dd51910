"""An agent of one's own for verl's workers, which are told of it by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from gym_adapters.errors import InvalidConfig
from gym_adapters.rollouts.collect import Agent

__all__ = ["named_agent"]


@cache
def named_agent(name: str) -> Agent:
    """What ``module:name`` gives when it is called without arguments, made once a process.

    Args:
        name: A class or a function of a module that can be imported in every worker.

    Raises:
        InvalidConfig: If there is nothing of that name, or what it gives is no agent.
    """
    module_name, _, attribute = name.partition(":")
    fix = "Fix: gym_adapters.agent=module:name, importable in every worker"
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise InvalidConfig(f"{name!r} names no agent. {fix}.")
    try:
        made = getattr(import_module(module_name), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise InvalidConfig(f"the agent {name} can't be made: {error}. {fix}.") from error
    if not callable(getattr(made, "run", None)):
        raise InvalidConfig(
            f"{name} gives {type(made).__name__}, which has no run(): it is no agent. {fix}."
        )
    agent: Agent = made
    return agent
