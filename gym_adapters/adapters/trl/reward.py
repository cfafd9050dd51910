"""Rewards for GRPOTrainer: an environment's verdict on one turn, or on a whole rollout."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gym_adapters.adapters.capabilities import Adapter, Feature, refuse_unsupported
from gym_adapters.adapters.environment_run import AnyEnvironment, EnvironmentRun
from gym_adapters.adapters.trl.completions import Completion, assistant_items
from gym_adapters.adapters.trl.reporting import Attempt, LogExtra, LogMetric, report
from gym_adapters.adapters.trl.rows import row_of_columns
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
    """

    def __init__(self, run: EnvironmentRun, facts: TrainerFacts) -> None:
        self.__name__ = run.environment.name
        self._run, self._facts = run, facts

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
        tasks = [
            self._run.task(row_of_columns(columns, index, prompt))
            for index, prompt in enumerate(prompts)
        ]
        turns = [_single_turn(completion) for completion in completions]
        ids = completion_ids if completion_ids is not None else [()] * len(turns)
        scoring = self._score(tasks, turns, ids)
        outcomes = await self._run.loop.run_from(scoring)
        return report(
            [Attempt.of_outcome(outcome) for outcome in outcomes],
            environment=self._run.environment.name,
            log_metric=log_metric,
            log_extra=log_extra,
        )

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
                cut = self._facts.was_cut(completion_ids[index])
                return await self._attempt(tasks[index], turns[index], cut, index)

        return await asyncio.gather(*map(bounded, range(len(tasks))))

    async def _attempt(self, task: Task, turn: Sequence[Item], cut: bool, index: int) -> Outcome:
        episode = await self._run.episode(
            task, seed=self._facts.seed, rollout_index=index, max_turns=1
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
    """

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(
        self,
        prompts: Sequence[Completion],
        gym_attempt: Sequence[Attempt] | None = None,
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> Rewards:
        """One reward a rollout, ``None`` where there is no verdict.

        Raises:
            UsageError: If the rollouts are not ours.
        """
        if gym_attempt is None or len(gym_attempt) != len(prompts):
            raise UsageError(
                "this reward function belongs to gym_adapters' rollout_function, which did not "
                "make these rollouts. Fix: give GRPOTrainer both, as trainer_arguments() does."
            )
        return report(
            gym_attempt, environment=self.__name__, log_metric=log_metric, log_extra=log_extra
        )


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
