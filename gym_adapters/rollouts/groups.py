"""Rewards that are relative to a group: all attempts at one task, judged against each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.errors import Boundary, VerifierError, boundary
from gym_adapters.reward import Outcome, Reward
from gym_adapters.rollout import Rollout

__all__ = ["compared"]


async def compared(
    environment: type[Environment[Any]],
    group: Sequence[Rollout],
    *,
    config: EnvironmentConfig,
    resources: Any,
    timeout: float = 120.0,
) -> list[Rollout]:
    """The group with the rewards that the environment gives by comparing its rollouts.

    Only scored rollouts are compared: one that failed has no place in the group. If `compare`
    fails, none of them has a reward, and all become failures of the boundary at fault.

    Args:
        environment: Its class; without `compare` the group comes back as it is.
        group: Finished attempts at one task.
        config: The settings of the run.
        resources: What the environment opened for the run.
        timeout: Seconds for `compare`.

    Returns:
        The rollouts in the order given.
    """
    scored = [rollout for rollout in group if rollout.outcome.reward is not None]
    if not environment.capabilities().compares or not scored:
        return list(group)
    compare = partial(environment.compare, config=config, resources=resources)
    outcomes = await _outcomes(environment.name, compare, scored, timeout)
    following = iter(outcomes)
    return [
        rollout if rollout.outcome.reward is None else replace(rollout, outcome=next(following))
        for rollout in group
    ]


async def _outcomes(
    name: str,
    compare: Callable[[Sequence[Rollout]], Awaitable[list[Reward]]],
    scored: Sequence[Rollout],
    timeout: float,
) -> list[Outcome]:
    try:
        with boundary(Boundary.VERIFIER, f"compare of {name}"):
            async with asyncio.timeout(timeout):
                verdicts = [Reward.of(verdict) for verdict in await compare(scored)]
            if len(verdicts) != len(scored):
                raise VerifierError(
                    f"compare of {name} gave {len(verdicts)} rewards for {len(scored)} rollouts"
                )
    except Exception as error:  # noqa: BLE001 - whatever it is, it is data: a failed verdict
        return [Outcome.unscored(error)] * len(scored)
    return [
        Outcome.scored(verdict, rollout.outcome.stop_reason)
        for verdict, rollout in zip(verdicts, scored, strict=True)
    ]
