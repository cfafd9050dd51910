from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gym_adapters.adapters.verl.rollout_group import (
    GroupDropped,
    GroupPolicy,
    RolloutGroup,
    current_group,
    rollout_group,
)
from gym_adapters.errors import JudgeError
from gym_adapters.items import user_message
from gym_adapters.reward import Outcome, Reward, StopReason
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment


def rollout(reward: float | None, *, tokens: bool = True) -> Rollout:
    outcome = (
        Outcome.unscored(JudgeError("the judge is down"))
        if reward is None
        else Outcome.scored(Reward(reward), StopReason.ANSWERED)
    )
    return Rollout(
        row={},
        task_id="t",
        rollout_index=0,
        prompt=[user_message("hi")],
        output=[],
        tools=[],
        outcome=outcome,
        segments=(Segment((1,), (2,), (1,), (-0.1,)),) if tokens else (),
    )


async def as_they_are(rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
    return rollouts


async def settled(
    policy: GroupPolicy, rollouts: Sequence[Rollout | None]
) -> list[Rollout | BaseException | None]:
    """Each session in a task of its own; ``None`` for one that ends without a rollout."""
    group = RolloutGroup(policy)

    async def session(number: int) -> Rollout | None:
        await asyncio.sleep(0.001 * number)
        ended = rollouts[number]
        if ended is None:
            group.leave(number)
            return None
        return await group.settle(number, ended, as_they_are)

    async with asyncio.timeout(60):
        return list(
            await asyncio.gather(*map(session, range(len(rollouts))), return_exceptions=True)
        )


async def test_all_that_have_a_reward_are_kept() -> None:
    group = [rollout(1.0), rollout(None), rollout(0.0)]
    assert await settled(GroupPolicy(3), group) == [group[0], None, group[2]]


async def test_a_rollout_without_tokens_is_no_survivor() -> None:
    group = [rollout(1.0), rollout(1.0, tokens=False), rollout(0.0)]
    assert await settled(GroupPolicy(3), group) == [group[0], None, group[2]]


async def test_a_lone_survivor_is_left_out_and_one_session_tells() -> None:
    told = await settled(GroupPolicy(3), [rollout(None), rollout(1.0), rollout(None)])
    assert [type(it) for it in told] == [GroupDropped, type(None), type(None)]
    assert "1 of 3 rollouts" in str(told[0])
    assert "judge: the judge is down" in str(told[0])


async def test_the_session_that_tells_is_one_that_got_so_far() -> None:
    told = await settled(GroupPolicy(3), [None, rollout(1.0), None])
    assert [type(it) for it in told] == [type(None), GroupDropped, type(None)]
    assert "2 ended with an error" in str(told[1])


@pytest.mark.parametrize(
    ("policy", "fewest"),
    [
        (GroupPolicy(8), 2),
        (GroupPolicy(1), 1),
        (GroupPolicy(8, validate=True), 1),
        (GroupPolicy(8, has_baseline=False), 1),
    ],
)
def test_the_fewest_survivors_depend_on_what_they_are_for(policy: GroupPolicy, fewest: int) -> None:
    assert policy.fewest == fewest


async def test_nobody_goes_on_before_the_last_has_ended() -> None:
    group = RolloutGroup(GroupPolicy(2))
    first = asyncio.create_task(group.settle(0, rollout(1.0), as_they_are))
    await asyncio.sleep(0.01)
    assert not first.done()
    await group.settle(1, rollout(0.0), as_they_are)
    assert (await first) is not None
    assert not group.was_dropped


async def test_the_group_is_judged_once_and_its_verdicts_count() -> None:
    calls: list[int] = []

    async def judge(rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
        calls.append(len(rollouts))
        return [rollout(10.0 + number) for number in range(len(rollouts))]

    group = RolloutGroup(GroupPolicy(3))
    kept = await asyncio.gather(*[group.settle(n, rollout(0.0), judge) for n in range(3)])
    assert [it.reward for it in kept if it is not None] == [10.0, 11.0, 12.0]
    assert calls == [3]


async def test_a_judge_that_raises_does_so_in_every_session() -> None:
    async def judge(rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
        raise RuntimeError("a bug")

    group = RolloutGroup(GroupPolicy(2))
    told = await asyncio.gather(
        *[group.settle(n, rollout(0.0), judge) for n in range(2)], return_exceptions=True
    )
    assert [str(it) for it in told] == ["a bug", "a bug"]
    assert group.was_dropped


async def test_tasks_made_inside_belong_to_the_group_and_others_do_not() -> None:
    assert current_group() is None
    with rollout_group(GroupPolicy(1)) as group:
        inside = asyncio.create_task(asyncio.sleep(0, current_group()))

        async def ask() -> RolloutGroup | None:
            return current_group()

        child = asyncio.create_task(ask())
    assert current_group() is None
    assert await child is group
    await inside
