from __future__ import annotations

import asyncio

import pytest

from gym_adapters.adapters.failure_streak import MOST_IN_A_ROW
from gym_adapters.adapters.verl.rollout_group import GroupDropped, GroupPolicy, RolloutGroup
from gym_adapters.adapters.verl.run_health import RunHealth
from gym_adapters.errors import InvalidRow, RolloutError, UnknownEnvironment, Unsupported

from .test_rollout_group import as_they_are, rollout


async def ended(*rewards: float | None) -> RolloutGroup:
    group = RolloutGroup(GroupPolicy(len(rewards)))
    sessions = [group.settle(n, rollout(reward), as_they_are) for n, reward in enumerate(rewards)]
    for result in await asyncio.gather(*sessions, return_exceptions=True):
        assert not isinstance(result, BaseException) or isinstance(result, GroupDropped)
    return group


async def test_a_run_in_which_nothing_has_a_reward_for_long_ends_and_says_why() -> None:
    health = RunHealth()
    for _ in range(MOST_IN_A_ROW):
        health.check()
        health.note(await ended(None, None))
    with pytest.raises(RolloutError, match=r"64 prompts in a row.*the judge is down"):
        health.check()


async def test_one_good_group_begins_the_count_anew() -> None:
    health = RunHealth()
    for _ in range(MOST_IN_A_ROW - 1):
        health.note(await ended(None, 1.0))
    health.note(await ended(0.0, 1.0, None))
    health.note(await ended(None, None))
    assert health.dropped == 1
    health.check()


async def test_failures_are_told(caplog: pytest.LogCaptureFixture) -> None:
    RunHealth().note(await ended(0.0, 1.0, None))
    assert "1 of 3 rollouts of a prompt train nothing; the first: judge: the judge is down" in (
        caplog.text
    )


async def test_sessions_that_raise_count_too_and_an_unknown_environment_ends_the_run() -> None:
    health = RunHealth()
    group = RolloutGroup(GroupPolicy(2), errors=[InvalidRow("bad"), OSError("no disk")])
    health.note(group)
    assert health.dropped == 1
    assert "InvalidRow: bad" in health.why
    health.check()
    health.note(RolloutGroup(GroupPolicy(2), errors=[UnknownEnvironment("nobody is called so")]))
    with pytest.raises(Unsupported, match="nobody is called so"):
        health.check()


async def test_a_template_that_can_not_be_trained_on_ends_the_run_at_once() -> None:
    from dataclasses import replace

    from gym_adapters.reward import Outcome

    health = RunHealth()
    group = RolloutGroup(GroupPolicy(1))
    failed = replace(rollout(None), outcome=Outcome.unscored(Unsupported("it rewrites history")))
    with pytest.raises(GroupDropped):
        await group.settle(0, failed, as_they_are)
    health.note(group)
    with pytest.raises(Unsupported, match="it rewrites history"):
        health.check()
