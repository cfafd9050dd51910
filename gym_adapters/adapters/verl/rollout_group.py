"""The attempts at one prompt that share a baseline: who is trained on when some of them fail.

verl's group statistics count every row it is given, also one with a mask of zeros, and a group of
one has a mean of 0. So a failed rollout must not become a row, and a lone survivor must not either.
Only the whole group knows: its sessions meet here, and none gives verl a row before all have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from gym_adapters.adapters.failure_streak import problem_of
from gym_adapters.errors import GymAdaptersError
from gym_adapters.rollout import Rollout

__all__ = ["GroupDropped", "GroupPolicy", "RolloutGroup", "current_group", "rollout_group"]


Judge = Callable[[Sequence[Rollout]], Awaitable[Sequence[Rollout]]]
"""Makes of a group's rollouts what they are worth beside each other: as many rollouts."""


class GroupDropped(GymAdaptersError):
    """Too few rollouts of a prompt have a reward; verl is told by this that the group failed."""


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """When a group is trained on.

    Attributes:
        size: Rollouts a prompt.
        validate: Whether it is validation, where there is no baseline.
        has_baseline: Whether the advantage estimator compares the rollouts of a group.
    """

    size: int
    validate: bool = False
    has_baseline: bool = True

    @property
    def fewest(self) -> int:
        """Fewest survivors for a group to be kept."""
        return 2 if self.has_baseline and self.size > 1 and not self.validate else 1


@dataclass(slots=True)
class RolloutGroup:
    """One group; its sessions run concurrently in one event loop.

    Attributes:
        policy: When it is trained on.
        rollouts: Finished rollouts by session.
        errors: What sessions raised in place of ending with a rollout.
        is_ours: Whether our agent loop runs it.
    """

    policy: GroupPolicy
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    is_ours: bool = False
    _ended: set[int] = field(default_factory=set)
    _complete: asyncio.Event = field(default_factory=asyncio.Event)
    _judged: asyncio.Task[Sequence[Rollout]] | None = None

    def leave(self, session: int) -> None:
        """Count `session` as ended, with a rollout or without; more than once does nothing."""
        self._ended.add(session)
        if len(self._ended) >= self.policy.size:
            self._complete.set()

    async def settle(self, session: int, rollout: Rollout, judge: Judge) -> Rollout | None:
        """Wait for the other sessions; then the rollout to train on, or nothing.

        Args:
            session: Which one `rollout` is of.
            rollout: A finished rollout.
            judge: Called once a group, with its rollouts by session.

        Returns:
            `rollout` as `judge` gave it back; ``None`` where it can't be trained on, or where
            another session tells of the dropped group.

        Raises:
            GroupDropped: In one session of a group that has too few survivors.
        """
        self.rollouts[session] = rollout
        self.leave(session)
        await self._complete.wait()
        order = sorted(self.rollouts)
        if self._judged is None:
            self._judged = asyncio.ensure_future(self._judge(judge, order))
        judged = dict(zip(order, await asyncio.shield(self._judged), strict=True))
        survivors = [other for other, it in judged.items() if is_trainable(it)]
        if len(survivors) >= self.policy.fewest:
            return judged[session] if session in survivors else None
        if session == order[0]:
            raise GroupDropped(self._why(judged, len(survivors)))
        return None

    @property
    def was_dropped(self) -> bool:
        """Whether the group gave no rows; known once all sessions have ended."""
        return sum(map(is_trainable, self.verdicts.values())) < self.policy.fewest

    def failures(self) -> list[str]:
        """What went wrong, one line a rollout that can't be trained on."""
        verdicts = self.verdicts.values()
        reasons = [why for it in verdicts if (why := problem_of(it)) is not None]
        return [*reasons, *(f"{type(error).__name__}: {error}" for error in self.errors)]

    @property
    def verdicts(self) -> dict[int, Rollout]:
        """The judged rollouts by session; empty before all have ended, and where judging failed."""
        judged = self._judged
        if judged is None or not judged.done() or judged.cancelled() or judged.exception():
            return {}
        return dict(zip(sorted(self.rollouts), judged.result(), strict=True))

    async def _judge(self, judge: Judge, order: Sequence[int]) -> Sequence[Rollout]:
        return await judge([self.rollouts[session] for session in order])

    def _why(self, judged: dict[int, Rollout], survivors: int) -> str:
        reasons = [why for it in judged.values() if (why := problem_of(it)) is not None]
        lost = self.policy.size - len(judged)
        if lost:
            reasons.append(f"{lost} ended with an error: {self.errors}")
        first = reasons[0] if reasons else "no reason is known"
        return (
            f"{survivors} of {self.policy.size} rollouts of a prompt can be trained on, and "
            f"{self.policy.fewest} are needed: the prompt is left out. The first problem: {first}"
        )


def is_trainable(rollout: Rollout) -> bool:
    """Whether it has a reward, and tokens to give it to."""
    return problem_of(rollout) is None


_GROUP: ContextVar[RolloutGroup | None] = ContextVar("gym_adapters_rollout_group", default=None)


@contextmanager
def rollout_group(policy: GroupPolicy) -> Iterator[RolloutGroup]:
    """Make tasks that are created inside belong to one group."""
    group = RolloutGroup(policy)
    token = _GROUP.set(group)
    try:
        yield group
    finally:
        _GROUP.reset(token)


def current_group() -> RolloutGroup | None:
    """The group that the running task belongs to."""
    return _GROUP.get()
