"""Rollouts beside AsyncGRPOTrainer: sampled all the time, while it trains.

`RolloutWorker` is TRL's public ``RolloutWorkerProtocol``. Episodes run concurrently on an event
loop in a thread of the trainer's process; what they wait for, a vLLM server say, runs elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from hashlib import blake2b
from pathlib import Path
from typing import Any

from gym_adapters.adapters.background_loop import GRACE
from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import AnyEnvironment, EnvironmentRun
from gym_adapters.adapters.failure_streak import FailureStreak
from gym_adapters.adapters.trl.async_buffer import SampleBuffer
from gym_adapters.adapters.trl.async_generation import (
    AsyncPolicy,
    ServedPolicy,
    VersionedGenerator,
    async_policy,
)
from gym_adapters.adapters.trl.async_groups import STATE, AttemptGroup, GroupNumbers, begun_numbers
from gym_adapters.adapters.trl.async_samples import group_samples
from gym_adapters.adapters.trl.async_settings import AsyncSettings
from gym_adapters.adapters.trl.environment_blend import EnvironmentBlend, EnvironmentPart, joined
from gym_adapters.adapters.trl.group_metrics import GroupMetrics, Rates
from gym_adapters.adapters.trl.speech import check_template
from gym_adapters.adapters.trl.version import check_trl
from gym_adapters.agents.selective import check_agent
from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import InvalidConfig, RolloutTimeout, UsageError
from gym_adapters.generation.protocol import TokenGenerator
from gym_adapters.rollouts.collect import Agent
from gym_adapters.rollouts.training_ledger import TrainingLedger
from gym_adapters.task import Task

__all__ = ["RolloutWorker", "rollout_worker"]

log = logging.getLogger(__name__)

# Seconds between two looks at whether the trainer has taken samples: it does not tell.
LOOK = 0.02
# Seconds between two signs of life.
BEAT = 1.0


def rollout_worker(
    environment: AnyEnvironment,
    tasks: Iterable[Task],
    *,
    config: EnvironmentConfig | None = None,
    limits: EpisodeLimits | None = None,
    agent_limits: AgentLimits | None = None,
    agent: Agent | None = None,
    max_tokens_per_turn: int | None = None,
    chat_format: str | None = None,
    generator: TokenGenerator | None = None,
    ledger: Path | str | None = None,
) -> RolloutWorker:
    """What ``AsyncGRPOTrainer(rollout_worker=...)`` takes; ``trl_spec(way="async")`` makes it.

    Args:
        environment: Class, registry entry or name.
        tasks: What is trained on, in this order, again and again.
        config: Its settings; by default those of its card.
        limits: Turns and times of an episode; by default the card's turns.
        agent_limits: Budgets of a rollout besides the trainer's ``max_completion_length``.
        agent: Drives each episode; by default a `ToolAgent`. A foreign one is a `GatewayAgent`,
            which is closed with the run.
        max_tokens_per_turn: Most tokens of one turn; what is left of the budget by default.
        chat_format: How the model writes tool calls; detected from the chat template by default.
        generator: Samples the turns, with the weights that the trainer's ``weight_transfer``
            pushes; by default the vLLM server of ``AsyncGRPOConfig``.
        ledger: Folder to keep the rollouts in, as ``gym-adapters collect`` keeps its.

    Raises:
        Unsupported: If the environment asks for what one model, or the agent, can't give.
        InvalidConfig: If both an agent and the limits of the default one are given.
    """
    check_trl()
    if agent is not None and agent_limits is not None:
        raise InvalidConfig("agent_limits are those of the default agent: give them to yours.")
    run = EnvironmentRun(environment, config=config, limits=limits)
    refuse_unsupported(Adapter.TRL_ASYNC, run.environment)
    driver = agent if agent is not None else ToolAgent(agent_limits)
    check_agent(driver, run.environment)
    part = EnvironmentPart(run, driver, max_tokens_per_turn)
    return RolloutWorker(
        EnvironmentBlend([part]),
        [(part.name, task) for task in tasks],
        generator=generator,
        chat_format=chat_format,
        ledger=ledger,
    )


class RolloutWorker:
    """Keeps AsyncGRPOTrainer in samples; make one with `rollout_worker`.

    It samples ahead only as far as samples can still be trained on: ``max_staleness`` versions of
    the weights. What is older nevertheless, a long rollout say, TRL drops.

    Args:
        blend: The environments.
        rows: Names of environments, and their tasks.
        generator: Samples the turns; by default the vLLM server that the trainer is told of.
        chat_format: How the model writes tool calls; ``None`` to detect it.
        ledger: Folder to keep the rollouts in.

    Attributes:
        rollout_buffer: Samples for the trainer.
        metrics_queue: What the trainer is to log.
        model_version: The version of the weights that is live.
    """

    def __init__(
        self,
        blend: EnvironmentBlend,
        rows: Sequence[tuple[str, Task]],
        *,
        generator: TokenGenerator | None = None,
        chat_format: str | None = None,
        ledger: Path | str | None = None,
    ) -> None:
        if not rows:
            raise InvalidConfig("a rollout worker needs at least one task.")
        self._buffer = SampleBuffer()
        self.rollout_buffer = self._buffer.samples
        self.metrics_queue: queue.Queue[Rates] = queue.Queue(maxsize=4096)
        self.model_version = 0
        self._blend, self._rows, self._generator = blend, rows, generator
        self._chat_format, self._ledger = chat_format, ledger
        self._learnt: tuple[Any, Any, Any] | None = None
        self._producer: Future[None] | None = None
        self._stopping = asyncio.Event()
        self._streak, self._metrics = FailureStreak(), GroupMetrics(len(blend.parts) > 1)
        self._running = self._used_per_version = 0
        self._staleness = 0
        self._alive_at = 0.0

    def learn(self, args: Any, model: Any, tokenizer: Any) -> None:
        """Take the trainer's arguments, model and tokenizer; the spec's callback calls it.

        Raises:
            InvalidConfig: If it is another trainer.
        """
        AsyncSettings.of(args, model)
        self._learnt = (args, model, tokenizer)

    def begin(self, args: Any, state: Any) -> None:
        """Go on behind the tasks that a checkpoint's training has used; the spec's callback calls.

        The ledger is cut back to them: what was sampled after the checkpoint, or for it and not
        taken by the trainer, is sampled again under the same numbers.

        Args:
            args: An ``AsyncGRPOConfig``.
            state: The trainer's.

        Raises:
            OSError: If the ledger can't be read or written.
        """
        self._buffer.numbers = begun_numbers(
            self._task_ids(), args.num_generations, state, self._ledger
        )

    def remember(self, state: Any) -> None:
        """Put what `begin` needs into the trainer's state, and so into its next checkpoint."""
        told = self._buffer.state()
        if told is not None:
            state.stateful_callbacks[STATE] = told

    def start(self) -> None:
        """Begin sampling; the trainer calls it once the first weights are pushed.

        Raises:
            UsageError: If the trainer was not given the spec's callbacks, or the tokenizer has no
                chat template.
        """
        if self._producer is not None:
            return
        if self._learnt is None:
            raise UsageError(
                "the rollout worker knows nothing of its trainer. Fix: give AsyncGRPOTrainer the "
                "callbacks too, as trainer_arguments() does."
            )
        args, model, tokenizer = self._learnt
        settings = AsyncSettings.of(args, model)
        self._staleness = settings.staleness
        numbers = self._buffer.numbers
        if numbers is None:
            numbers = self._buffer.numbers = GroupNumbers(self._task_ids(), settings.group_size)
        own: ServedPolicy | None = None
        if self._generator is None:
            own = ServedPolicy(settings, self._live_version)
            generator = VersionedGenerator(own, self._live_version, settings.seed)
        else:
            generator = VersionedGenerator(self._generator, self._live_version)
        policy = async_policy(
            settings, tokenizer, generator, self._blend.parts, chat_format=self._chat_format
        )
        self._stopping = asyncio.Event()
        self._alive_at = time.monotonic()
        self._producer = self._blend.loop.begin(self._produce(settings, policy, own, numbers))

    def stop(self) -> None:
        """End all episodes and close what they use; more than once does nothing."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            self._blend.loop.begin(self._set_stopping()).result(GRACE)
            producer.result(GRACE)
        except Exception:
            # The trainer was told by check_health, where it asked; its own error must not be lost.
            log.warning("the rollout worker did not end well", exc_info=True)
        self._blend.loop.close()

    close = stop

    def update_model_version(self, model_version: int) -> None:
        """Take note of new weights: later turns are sampled from them."""
        versions = self._buffer.taken_versions()
        # What was too old was taken too, and dropped.
        oldest = self.model_version - self._staleness
        self._used_per_version = sum(version >= oldest for version in versions)
        self.model_version = int(model_version)

    def check_health(self, stale_after_s: float) -> None:
        """Raise where no samples will come; the trainer asks while it waits for one.

        Args:
            stale_after_s: Seconds without a sign of life.

        Raises:
            UsageError: If it is not running.
            RolloutTimeout: If something has blocked its event loop for so long.
        """
        if self._producer is None:
            raise UsageError(
                "the rollout worker is not running: AsyncGRPOTrainer starts it when it is trained "
                "for the first time. Fix: make a new trainer, and a new spec, to train again."
            )
        if self._producer.done():
            self._producer.result()
        silent = time.monotonic() - self._alive_at
        if silent > stale_after_s:
            raise RolloutTimeout(
                f"the rollouts' event loop has given no sign of life for {silent:.0f} s: some hook "
                "or tool of an environment blocks it. Fix: make it async, or run it in a thread."
            )

    def with_others(self, others: Sequence[RolloutWorker], rows: Sequence[tuple[str, Task]]) -> Any:
        """One worker for the environments of this one and of `others`.

        Raises:
            InvalidConfig: If two environments have one name, or two workers different settings.
        """
        mine = (self._generator, self._chat_format, self._ledger)
        if any((each._generator, each._chat_format, each._ledger) != mine for each in others):
            raise InvalidConfig(
                "rollout workers with different generators, chat formats or ledgers can't be one. "
                "Fix: give all specs of a blend the same."
            )
        return RolloutWorker(
            joined([self._blend, *(other._blend for other in others)]),
            rows,
            generator=self._generator,
            chat_format=self._chat_format,
            ledger=self._ledger,
        )

    def _live_version(self) -> int:
        return self.model_version

    async def _set_stopping(self) -> None:
        self._stopping.set()

    async def _produce(
        self,
        settings: AsyncSettings,
        policy: AsyncPolicy,
        own: ServedPolicy | None,
        numbers: GroupNumbers,
    ) -> None:
        work = asyncio.create_task(self._roll_out(settings, policy, numbers))
        told = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            work.cancel()
            # Not awaited by itself: cancelling this must not keep the episodes from closing.
            await asyncio.wait({work})
            if own is not None:
                await own.aclose()
            await self._blend.aclose()
        if not work.cancelled():
            work.result()

    async def _roll_out(
        self, settings: AsyncSettings, policy: AsyncPolicy, numbers: GroupNumbers
    ) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                for number in numbers:
                    group = self._group(number, numbers, settings)
                    for index in range(settings.group_size):
                        await self._wait_for_room(settings)
                        self._running += 1
                        attempt = self._attempt(group, index, settings, policy)
                        tasks.create_task(attempt)
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        finally:
            self._running = 0

    def _task_ids(self) -> list[str]:
        return [task.task_id for _, task in self._rows]

    def _group(self, number: int, numbers: GroupNumbers, settings: AsyncSettings) -> AttemptGroup:
        name, task = self._rows[numbers.place(number)]
        packed = f"{settings.seed}:train:{number}".encode()
        seed = int.from_bytes(blake2b(packed, digest_size=6).digest())
        return AttemptGroup(
            number, self._blend.parts[name], task, seed, numbers.first_index(number)
        )

    async def _wait_for_room(self, settings: AsyncSettings) -> None:
        while not self._has_room(settings):  # noqa: ASYNC110 - nobody tells of a sample taken
            await asyncio.sleep(LOOK)

    def _has_room(self, settings: AsyncSettings) -> bool:
        """Whether a rollout begun now can be expected to be trained on in time."""
        used = settings.per_version
        if settings.at_least:
            used = max(used, self._used_per_version)
        most = min(settings.buffered, max(1, settings.staleness) * used)
        ahead = self._running + self.rollout_buffer.qsize()
        return self._running < settings.concurrency and ahead < most

    async def _attempt(
        self, group: AttemptGroup, index: int, settings: AsyncSettings, policy: AsyncPolicy
    ) -> None:
        try:
            part, task = group.part, group.task
            episode = await part.run.episode(
                task, seed=group.seed, rollout_index=group.first_index + index
            )
            group.rollouts[index] = await part.agent.run(
                episode,
                policy.model,
                sampling=policy.samplings[part.name](task),
                request_id=f"train-{group.number}-{index}",
                seed=group.seed,
            )
        finally:
            self._running -= 1
        if len(group.rollouts) == settings.group_size:
            await self._finish(group, settings)

    async def _finish(self, group: AttemptGroup, settings: AsyncSettings) -> None:
        attempts = [group.rollouts[index] for index in sorted(group.rollouts)]
        rollouts = await group.part.run.compared(attempts)
        check_template(rollouts)
        if self._ledger is not None:
            ledger = TrainingLedger(
                self._ledger,
                model=settings.model,
                seed=settings.seed,
                group_size=settings.group_size,
                input="TRL, train",
            )
            await ledger.append_async(rollouts)
        try:
            self.metrics_queue.put_nowait(self._metrics.of(rollouts, group.part.name))
        except queue.Full:
            log.debug("the trainer logs too rarely: metrics of group %d are lost", group.number)
        self._buffer.put(group.number, group_samples(rollouts, group_id=group.number))
        self._streak.note(rollouts, settings.group_size)

    async def _beat(self) -> None:
        while True:
            self._alive_at = time.monotonic()
            await asyncio.sleep(BEAT)
