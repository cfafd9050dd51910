"""The native path: NeMo RL generates, and asks an environment what comes next.

NeMo RL shows the environment decoded text and never tells how a turn ended, so no parity is
claimed; see docs/nemo_rl.md for what that means. An `Episode` lives in the actor from its first
turn to its last; its id travels in the sample's metadata.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import EnvironmentRun
from gym_adapters.adapters.nemo_rl.rows import RowIdentity
from gym_adapters.adapters.nemo_rl.settings import StepSettings
from gym_adapters.adapters.nemo_rl.step_texts import StepTexts
from gym_adapters.adapters.nemo_rl.survivors import SCORED_ROLE
from gym_adapters.episode import Episode, EpisodeLimits, Step
from gym_adapters.errors import EnvironmentFailure
from gym_adapters.extras import require
from gym_adapters.items import Item
from gym_adapters.registry import load_environment
from gym_adapters.reward import StopReason

__all__ = ["StepEnvironment", "StepReturn"]

log = logging.getLogger(__name__)

EPISODE = "gym_episode"
"""Key of the metadata that names the episode, from its first turn on."""

Message = Mapping[str, Any]
Metadata = dict[str, Any]


class StepReturn(NamedTuple):
    """NeMo RL's ``EnvironmentReturn``: six values, in its order."""

    observations: list[dict[str, str]]
    metadata: list[Metadata | None]
    next_stop_strings: list[list[str] | None]
    rewards: Any
    terminateds: Any
    answers: list[str | None]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one sample is told."""

    role: str
    content: str = ""
    metadata: Metadata | None = None
    reward: float = 0.0
    done: bool = True


# The sample has no reward. NeMo RL wants a number; `survivors` leaves the sample out by its role.
_FAILED = _Answer("environment_failed")


@dataclass(slots=True)
class _Live:
    """An episode between two steps."""

    run: EnvironmentRun
    episode: Episode
    history: list[Item]
    tokens: int
    used: float = field(default_factory=time.monotonic)
    busy: bool = True


class StepEnvironment:
    """NeMo RL's ``EnvironmentInterface``; `ray_actors.GymStepActor` is the actor.

    Args:
        cfg: ``env.gym``.
        tokenizer: By default loaded by the name in `cfg`.

    Raises:
        InvalidConfig: If a setting is wrong.
        MissingExtra: Without transformers.
    """

    def __init__(self, cfg: Mapping[str, Any], tokenizer: Any = None) -> None:
        self._settings = StepSettings.of(cfg)
        if tokenizer is None:
            transformers = require("transformers", "nemo-rl", "the NeMo RL adapter")
            tokenizer = transformers.AutoTokenizer.from_pretrained(self._settings.tokenizer)
        self._texts = StepTexts(tokenizer, self._settings)
        self._runs: dict[tuple[str, tuple[str, ...]], EnvironmentRun] = {}
        self._live: dict[str, _Live] = {}
        self._numbers = itertools.count()
        self._attempts: Counter[str] = Counter()
        self._sweeper: asyncio.Task[None] | None = None

    async def step(
        self, message_log_batch: Sequence[Sequence[Message]], metadata: Sequence[Metadata]
    ) -> StepReturn:
        """Take one turn of each sample, all at once.

        Raises:
            InvalidRow: If a sample is not one of ours.
            Unsupported: If the chat template, or decoding without special tokens, can't carry it.
            EnvironmentFailure: If an environment's resources can't be opened.
        """
        import torch

        self._sweep_later()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one(messages, told))
                    for messages, told in zip(message_log_batch, metadata, strict=True)
                ]
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        answers = [task.result() for task in tasks]
        return StepReturn(
            observations=[{"role": a.role, "content": a.content} for a in answers],
            metadata=[a.metadata for a in answers],
            next_stop_strings=[None] * len(answers),
            rewards=torch.tensor([a.reward for a in answers], dtype=torch.float32),
            terminateds=torch.tensor([a.done for a in answers], dtype=torch.bool),
            answers=[None] * len(answers),
        )

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, Any]]:
        """The batch as it is."""
        return batch, {}

    async def shutdown(self) -> None:
        """Close all episodes and the environments' resources."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for name in list(self._live):
            await self._close(name)
        runs, self._runs = self._runs, {}
        for run in runs.values():
            await asyncio.to_thread(run.close)

    @property
    def open_episodes(self) -> int:
        """Episodes between their first turn and their last."""
        return len(self._live)

    async def expire(self) -> int:
        """Close episodes that NeMo RL has not come back to; how many."""
        latest = time.monotonic() - self._settings.idle_timeout
        idle = [name for name, each in self._live.items() if not each.busy and each.used < latest]
        for name in idle:
            await self._close(name)
        if idle:
            log.info("closed %d episodes that NeMo RL had left", len(idle))
        return len(idle)

    async def _one(self, messages: Sequence[Message], told: Metadata) -> _Answer:
        name = told.get(EPISODE)
        if name is None:
            name = f"episode-{next(self._numbers)}"
            step = await self._begin(name, RowIdentity.of_row(told), messages)
            if step.done:
                return await self._ended(name, step)
        live = self._live.get(name)
        if live is None:
            log.warning("NeMo RL came back to %s after it was closed; it has no reward", name)
            return _FAILED
        live.busy = True
        try:
            return await live.run.loop.run_from(self._turn(name, live, messages, told))
        finally:
            live.busy, live.used = False, time.monotonic()

    async def _begin(self, name: str, identity: RowIdentity, messages: Sequence[Message]) -> Step:
        run = self._run(identity)
        task = run.task(dict(identity.row))
        index = self._attempts[task.task_id]
        self._attempts[task.task_id] += 1

        async def begun() -> tuple[Episode, Step]:
            episode = await run.episode(task, seed=self._settings.seed, rollout_index=index)
            return episode, await episode.start()

        episode, step = await run.loop.run_from(begun())
        prompt = "".join(str(message["content"]) for message in messages[:-1])
        self._live[name] = _Live(run, episode, list(episode.prompt), self._texts.count(prompt))
        return step

    async def _turn(
        self, name: str, live: _Live, messages: Sequence[Message], told: Metadata
    ) -> _Answer:
        episode = live.episode
        turn = self._texts.read(str(messages[-1]["content"]), episode.turns, episode.tools)
        live.tokens += turn.usage.output_tokens
        step = await episode.advance(turn.items, finish_reason=turn.finish_reason)
        if step.done:
            return await self._ended(name, step)
        live.history.extend(self._texts.history_of(turn.items))
        try:
            content = self._texts.write(live.history, step.items, episode.tools)
        except EnvironmentFailure as error:
            return await self._ended(name, episode.fail(error))
        live.history.extend(step.items)
        live.tokens += self._texts.count(content)
        if live.tokens >= self._settings.max_tokens:
            return await self._ended(name, await episode.truncate(StopReason.CONTEXT))
        return _Answer("environment", content, {**told, EPISODE: name}, done=False)

    async def _ended(self, name: str, step: Step) -> _Answer:
        await self._close(name)
        outcome = step.outcome
        if outcome is None or outcome.reward is None:
            if outcome is not None and outcome.failure is not None:
                log.warning("%s has no reward: %s", name, outcome.failure.message)
            return _FAILED
        return _Answer(SCORED_ROLE, reward=outcome.reward.value)

    async def _close(self, name: str) -> None:
        live = self._live.pop(name, None)
        if live is not None:
            await live.run.loop.run_from(live.episode.close())

    def _run(self, identity: RowIdentity) -> EnvironmentRun:
        key = (identity.environment, identity.overrides)
        if key not in self._runs:
            entry = load_environment(identity.environment)
            refuse_unsupported(Adapter.NEMO_RL_NATIVE, entry.environment)
            self._texts.refuse_unreadable(tools=entry.environment.capabilities().uses_tools)
            self._runs[key] = EnvironmentRun(
                entry,
                config=entry.config(identity.overrides),
                limits=EpisodeLimits(max_turns=self._settings.max_turns),
            )
        return self._runs[key]

    def _sweep_later(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Expire while there is something to expire."""
        while True:
            await asyncio.sleep(self._settings.idle_timeout / 2)
            await self.expire()
            if not self._live:
                return
