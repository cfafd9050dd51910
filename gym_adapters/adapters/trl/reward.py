"""Rewards for GRPOTrainer: an environment's verdict on one turn, or on a whole rollout."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gym_adapters.adapters.capabilities import Adapter, Feature, refuse_unsupported
from gym_adapters.adapters.environment_run import AnyEnvironment, EnvironmentRun
from gym_adapters.adapters.trl.completions import Completion, assistant_items
from gym_adapters.adapters.trl.reporting import Attempt, LogExtra, LogMetric, columns, report
from gym_adapters.adapters.trl.rows import ENVIRONMENT, row_of_columns
from gym_adapters.adapters.trl.trainer_facts import TrainerFacts
from gym_adapters.adapters.trl.version import check_trl
from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import UsageError
from gym_adapters.items import Item, assistant_message
from gym_adapters.reward import Outcome
from gym_adapters.task import Task

__all__ = ["RolloutReward", "SingleTurnReward", "reward_function", "survivors_only"]

# Verifiers that call a judge or a sandbox are the slow ones, and those bound themselves.
MOST_AT_ONCE = 256

Rewards = list[float | None]
ATTEMPT = "gym_attempt"
"""Extra field of a rollout that holds its `Attempt`."""


def reward_function(
    environment: AnyEnvironment,
    *,
    config: EnvironmentConfig | None = None,
    limits: EpisodeLimits | None = None,
    facts: TrainerFacts | None = None,
    prompts_show_tools: bool = False,
) -> SingleTurnReward:
    """A reward function that runs an episode with the completion as its one assistant turn.

    Args:
        environment: Class, registry entry or name.
        config: Its settings; by default those of its card.
        limits: Times allowed to hooks and verifier.
        facts: About the trainer; `TrlSpec` gives them. Without, no completion is known to be cut.
        prompts_show_tools: Your prompts declare the environment's tools in their own words, so that
            the model may call them; TRL does not declare them.

    Raises:
        Unsupported: If the environment needs more than one turn.
    """
    check_trl()
    run = EnvironmentRun(environment, config=config, limits=limits)
    except_for = (Feature.TOOLS,) if prompts_show_tools else ()
    refuse_unsupported(Adapter.TRL_REWARD, run.environment, except_for=except_for)
    return SingleTurnReward(run, facts if facts is not None else TrainerFacts())


class SingleTurnReward:
    """The environment's verdict on each completion; make one with `reward_function`.

    Args:
        run: The environment.
        facts: About the trainer.

    Attributes:
        facts: About the trainer.
        among_others: Rows of other environments are trained on too; the column ``environment``
            tells which rows are ours.
    """

    def __init__(self, run: EnvironmentRun, facts: TrainerFacts) -> None:
        self.__name__ = run.environment.name
        self._run, self.facts = run, facts
        self.among_others = False

    async def __call__(
        self,
        prompts: Sequence[Completion],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> Rewards:
        """One reward a completion, ``None`` where there is no verdict.

        Args:
            prompts: Text or messages.
            completions: Text, or a list that holds one assistant message, tool calls parsed.
            completion_ids: Their tokens; they tell whether a completion was cut.
            log_metric: TRL's.
            log_extra: TRL's.
            **columns: All columns of the dataset; see `row_of_columns`.

        Raises:
            InvalidRow: If a row can't be read.
            UsageError: If a completion holds several turns.
        """
        ours = self._ours(columns, len(prompts))
        tasks = [self._run.task(row_of_columns(columns, each, prompts[each])) for each in ours]
        turns = [_single_turn(completions[each]) for each in ours]
        ids = [completion_ids[each] if completion_ids is not None else () for each in ours]
        outcomes = await self._run.loop.run_from(self._score(tasks, turns, ids))
        given = report(
            [Attempt.of_outcome(outcome) for outcome in outcomes],
            environment=self._run.environment.name,
            among_others=self.among_others,
            boundaries=self.facts.boundaries,
            log_metric=log_metric,
            log_extra=log_extra,
        )
        rewards: Rewards = [None] * len(prompts)
        for index, reward in zip(ours, given, strict=True):
            rewards[index] = reward
        return rewards

    def _ours(self, columns: Mapping[str, Any], total: int) -> Sequence[int]:
        if not self.among_others:
            return range(total)
        named = columns.get(ENVIRONMENT)
        if named is None:
            raise UsageError(
                f"the dataset has no column {ENVIRONMENT!r}, and there are several environments. "
                "Fix: use the dataset of the spec that blended_spec gives."
            )
        return [index for index, name in enumerate(named) if name == self.__name__]

    def close(self) -> None:
        """Close the environment's resources; the next call opens them anew."""
        self._run.close()

    async def _score(
        self,
        tasks: Sequence[Task],
        turns: Sequence[Sequence[Item]],
        completion_ids: Sequence[Sequence[int]],
    ) -> list[Outcome]:
        room = asyncio.Semaphore(MOST_AT_ONCE)

        async def bounded(index: int) -> Outcome:
            async with room:
                cut = self.facts.was_cut(completion_ids[index])
                return await self._attempt(tasks[index], turns[index], cut, index)

        return await asyncio.gather(*map(bounded, range(len(tasks))))

    async def _attempt(self, task: Task, turn: Sequence[Item], cut: bool, index: int) -> Outcome:
        episode = await self._run.episode(
            task, seed=self.facts.seed, rollout_index=index, max_turns=1
        )
        async with episode:
            step = await episode.start()
            if step.outcome is None:
                step = await episode.advance(turn, finish_reason="length" if cut else "stop")
        if step.outcome is None:
            raise RuntimeError("an episode of one turn did not end with it")
        return step.outcome


def _single_turn(completion: Completion) -> list[Item]:
    if isinstance(completion, str):
        return [assistant_message(completion)]
    if len(completion) != 1:
        raise UsageError(
            f"a completion of {len(completion)} messages was given to reward_function, which "
            "scores one assistant turn. Fix: use environment_factory or rollout_function."
        )
    return assistant_items(completion[0])


class RolloutReward:
    """Hands on the rewards that `rollout_function` made.

    Args:
        name: Of the environment; TRL logs the reward under it.
        facts: About the trainer; `TrlSpec` gives them.

    Attributes:
        others: Names of the other environments of the run, each of which has a reward of its own;
            rollouts of theirs get ``None`` here.
    """

    def __init__(self, name: str, facts: TrainerFacts | None = None) -> None:
        self.__name__ = name
        self.facts = facts if facts is not None else TrainerFacts()
        self.others: tuple[str, ...] = ()

    def __call__(
        self,
        prompts: Sequence[Completion],
        gym_attempt: Sequence[Attempt] | None = None,
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **further: Any,
    ) -> Rewards:
        """One reward a rollout, ``None`` where there is no verdict, or another's environment.

        Raises:
            UsageError: If the rollouts are not ours.
        """
        if gym_attempt is None or len(gym_attempt) != len(prompts):
            raise UsageError(
                "this reward function belongs to gym_adapters' rollout_function, which did not "
                "make these rollouts. Fix: give GRPOTrainer both, as trainer_arguments() does."
            )
        ours = [
            index
            for index, attempt in enumerate(gym_attempt)
            if not self.others or attempt.environment == self.__name__
        ]
        given = report(
            [gym_attempt[index] for index in ours],
            environment=self.__name__,
            among_others=bool(self.others),
            boundaries=self.facts.boundaries,
            log_metric=log_metric,
            log_extra=log_extra,
        )
        # TRL strings together what several functions log of one column: one of them logs it.
        if log_extra is not None and self.others and self.__name__ < min(self.others):
            for column, values in columns(gym_attempt).items():
                log_extra(column, values)
        rewards: Rewards = [None] * len(prompts)
        for index, reward in zip(ours, given, strict=True):
            rewards[index] = reward
        return rewards


RewardFunction = Callable[..., Any]


def survivors_only(function: RewardFunction) -> RewardFunction:
    """`function`, a further reward, made to give ``None`` where the environment gave none.

    TRL leaves a rollout out of its group only where *every* reward function gives ``None``. Works
    with `rollout_function`, whose verdicts are known when rewards are computed.
    """
    name = getattr(function, "__name__", type(function).__name__)

    def kept(values: Sequence[float | None], attempts: Sequence[Attempt] | None) -> Rewards:
        if attempts is None:
            return list(values)
        return [
            None if attempt.reward is None else value
            for value, attempt in zip(values, attempts, strict=True)
        ]

    async def awaited(**arguments: Any) -> Rewards:
        values: Awaitable[Sequence[float | None]] = function(**arguments)
        return kept(await values, arguments.get(ATTEMPT))

    def direct(**arguments: Any) -> Rewards:
        return kept(function(**arguments), arguments.get(ATTEMPT))

    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - a callable instance may be async
    )
    wrapper: RewardFunction = awaited if is_async else direct
    wrapper.__name__ = name
    return wrapper
