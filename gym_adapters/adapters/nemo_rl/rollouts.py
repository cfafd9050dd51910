"""The exact path: our episodes, our agent and our ledger, over NeMo RL's vLLM servers.

NeMo RL's NeMo Gym path asks one Ray actor for message logs. `RolloutActor` stands in its place.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import EnvironmentRun
from gym_adapters.adapters.nemo_rl.message_logs import nemo_result
from gym_adapters.adapters.nemo_rl.rows import SPLIT, VALIDATION, RowIdentity
from gym_adapters.adapters.nemo_rl.server_generation import NemoServerGenerator
from gym_adapters.adapters.nemo_rl.settings import ActorSettings
from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import InvalidRow, Unsupported, UsageError
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.training_ledger import TrainingLedger
from gym_adapters.task import Task

__all__ = ["RolloutActor"]

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
Streamed = tuple[int, dict[str, Any], dict[str, float] | None]
"""Row number, result, and timings with the last one."""

_TEMPLATE_ERRORS = ("TemplateRewritesHistory", "TemplateRefuses", "Unsupported")


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One row of a call."""

    row: Row
    task: Task
    index: int
    runner: _Runner


class RolloutActor:
    """Runs the rollouts of NeMo RL's NeMo Gym path; the spin-up makes a Ray actor of it.

    Args:
        base_urls: NeMo RL's vLLM servers.
        model_name: The served name.
        settings: ``env.nemo_gym.gym_adapters``.

    Raises:
        InvalidConfig: If a setting is wrong.
    """

    def __init__(
        self,
        base_urls: str | Sequence[str],
        model_name: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._urls = [base_urls] if isinstance(base_urls, str) else list(base_urls)
        self._model_name = model_name
        self._settings = ActorSettings.of(settings)
        self._tokenizer: Any = None
        self._runners: dict[tuple[str, tuple[str, ...]], _Runner] = {}
        self._calls = itertools.count()
        # The number of the next attempt at each task, of validation and of training.
        self._following: dict[bool, Counter[str]] = {}
        self._reading = asyncio.Lock()

    def set_tokenizer(self, tokenizer: Any) -> None:
        """Take the policy's tokenizer; called once, before the first rollout.

        Raises:
            Unsupported: If it has no end-of-sequence token.
            UsageError: If it has no chat template, or is a slow one.
        """
        if tokenizer.eos_token_id is None:
            raise Unsupported("the tokenizer has no eos_token, where NeMo RL's server joins texts.")
        self._tokenizer = tokenizer

    def health_check(self) -> None:
        """Nothing to check: environments live in this process."""

    async def run_rollouts(
        self,
        nemo_gym_examples: list[dict[str, Any]],
        timer_prefix: str,
        deduplicate_multimodal_data: bool = False,
    ) -> AsyncIterator[Streamed]:
        """Roll out every row once, and give results as they are finished.

        The rows of one task are its group; where the environment compares rollouts, a group comes
        when all of it is finished.

        Raises:
            InvalidRow: If a row is not one of ours, or a bad one.
            Unsupported: If the chat template or the servers can't carry the rollouts.
            EnvironmentFailure: If an environment's resources can't be opened.
        """
        began = time.perf_counter()
        call = next(self._calls)
        await self._read_ledgers()
        attempts = self._attempts(nemo_gym_examples)
        groups = [asyncio.create_task(self._group(group, call)) for group in _groups(attempts)]
        left = len(attempts)
        try:
            for finished in asyncio.as_completed(groups):
                for attempt, rollout in await finished:
                    left -= 1
                    timings = None
                    if not left:
                        spent = time.perf_counter() - began
                        timings = {f"{timer_prefix}/gym_adapters_rollouts": spent}
                    result = nemo_result(
                        rollout, row=attempt.row, eos_token_id=self._tokenizer.eos_token_id
                    )
                    yield int(attempt.row["_rowidx"]), result, timings
        finally:
            for group in groups:
                group.cancel()
            await asyncio.gather(*groups, return_exceptions=True)

    def shutdown(self) -> None:
        """Close the environments' resources and the connections."""
        runners, self._runners = self._runners, {}
        for runner in runners.values():
            runner.close()

    def step(self, message_log_batch: Any, metadata: Any) -> Any:
        """Not part of this path.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("the exact path runs whole rollouts; see run_rollouts")

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, Any]]:
        """The batch as it is."""
        return batch, {}

    async def _read_ledgers(self) -> None:
        """Learn where the numbers of attempts go on: NeMo RL does not tell that it was resumed."""
        async with self._reading:
            if self._following:
                return
            folders = {validates: self._folder(validates) for validates in (False, True)}
            found = {
                validates: Counter[str]()
                if folder is None
                else await asyncio.to_thread(TrainingLedger(folder).next_indices)
                for validates, folder in folders.items()
            }
            self._following = found

    def _folder(self, validates: bool) -> str | None:
        return self._settings.validation_ledger if validates else self._settings.ledger

    def _attempts(self, rows: Sequence[Row]) -> list[_Attempt]:
        if not rows:
            raise InvalidRow("there are no rows to roll out.", fix="give at least one.")
        if self._tokenizer is None:
            raise UsageError("set_tokenizer must be called before run_rollouts")
        found = []
        for row in rows:
            identity = RowIdentity.of_row(row)
            runner = self._runner(identity)
            found.append((row, runner.run.task(dict(identity.row)), runner))
        attempts = []
        for row, task, runner in found:
            # Attempts are counted over the whole training: a task may come back.
            following = self._following[_validates(row)]
            attempts.append(_Attempt(row, task, following[task.task_id], runner))
            following[task.task_id] += 1
        return attempts

    def _runner(self, identity: RowIdentity) -> _Runner:
        key = (identity.environment, identity.overrides)
        if key not in self._runners:
            entry = load_environment(identity.environment)
            self._runners[key] = _Runner(
                entry, identity.overrides, self._settings, self._generator(), self._tokenizer
            )
        return self._runners[key]

    def _generator(self) -> NemoServerGenerator:
        settings = self._settings
        return NemoServerGenerator(
            self._urls,
            model=self._model_name,
            eos_token_id=self._tokenizer.eos_token_id,
            template_kwargs=settings.template_kwargs,
            deadline=settings.turn_timeout,
            attempts=settings.attempts,
        )

    async def _group(
        self, attempts: Sequence[_Attempt], call: int
    ) -> list[tuple[_Attempt, Rollout]]:
        runner = attempts[0].runner
        packed = f"{self._settings.seed}:{call}".encode()
        seed = int.from_bytes(blake2b(packed, digest_size=6).digest())
        rollouts = await runner.run.loop.run_from(runner.group(attempts, call, seed))
        await self._keep(attempts[0].row, rollouts)
        return list(zip(attempts, rollouts, strict=True))

    async def _keep(self, row: Row, rollouts: Sequence[Rollout]) -> None:
        """Append rollouts to the ledger of their kind, where there is one."""
        settings, validates = self._settings, _validates(row)
        folder = self._folder(validates)
        if folder is None:
            return
        ledger = TrainingLedger(
            folder,
            model=self._model_name,
            seed=settings.seed,
            input=f"NeMo RL, {'validation' if validates else 'training'}",
        )
        await ledger.append_async(rollouts)


class _Runner:
    """One environment, and the model that its rollouts speak to."""

    def __init__(
        self,
        entry: EnvironmentEntry,
        overrides: Sequence[str],
        settings: ActorSettings,
        generator: NemoServerGenerator,
        tokenizer: Any,
    ) -> None:
        refuse_unsupported(Adapter.NEMO_RL, entry.environment)
        limits = None if settings.max_turns is None else EpisodeLimits(max_turns=settings.max_turns)
        self.run = EnvironmentRun(entry, config=entry.config(overrides), limits=limits)
        self._agent = ToolAgent(AgentLimits(turn_timeout=settings.turn_timeout))
        self._settings, self._generator, self._tokenizer = settings, generator, tokenizer
        self._room = asyncio.Semaphore(settings.max_concurrency)
        self._opening = asyncio.Lock()
        self._chat: ChatModel | None = None

    async def group(self, attempts: Sequence[_Attempt], call: int, seed: int) -> list[Rollout]:
        model = await self._model()
        try:
            async with asyncio.TaskGroup() as room:
                tasks = [room.create_task(self._one(a, model, call, seed)) for a in attempts]
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        rollouts = [task.result() for task in tasks]
        for rollout in rollouts:
            failure = rollout.outcome.failure
            if failure is not None and failure.error in _TEMPLATE_ERRORS:
                raise Unsupported(failure.message)
            if failure is not None:
                log.warning("a rollout of %s failed: %s", rollout.task_id, failure.message)
        return await self.run.compared(rollouts)

    def close(self) -> None:
        self.run.loop.run(self._generator.aclose())
        self.run.close()

    async def _one(self, attempt: _Attempt, model: ChatModel, call: int, seed: int) -> Rollout:
        async with self._room:
            episode = await self.run.episode(attempt.task, seed=seed, rollout_index=attempt.index)
            return await self._agent.run(
                episode,
                model,
                sampling=self._sampling(attempt.row),
                request_id=f"{call}-{attempt.row['_rowidx']}",
                seed=seed,
            )

    def _sampling(self, row: Row) -> SamplingParams:
        """What NeMo RL stamped on the row; its server refuses any other."""
        asked = row["responses_create_params"]
        limits = (asked.get("max_output_tokens"), self._settings.max_tokens_per_turn)
        return SamplingParams(
            max_tokens=min((limit for limit in limits if limit is not None), default=None),
            temperature=asked["temperature"],
            top_p=asked["top_p"],
        )

    async def _model(self) -> ChatModel:
        async with self._opening:
            if self._chat is None:
                told = self._settings.max_context
                limit = told if told is not None else await self._generator.max_context()
                self._chat = await asyncio.to_thread(self._made, limit)
            return self._chat

    def _made(self, max_context: int | None) -> ChatModel:
        from gym_adapters.tokens.output_parser import output_parser
        from gym_adapters.tokens.template_renderer import TemplateRenderer

        settings = self._settings
        options: dict[str, Any] = {
            "chat_template": settings.chat_template,
            "template_kwargs": settings.template_kwargs or None,
        }
        return TokenChatModel(
            self._generator,
            TemplateRenderer(self._tokenizer, **options),
            output_parser(self._tokenizer, settings.chat_format, **options),
            name=self._generator.served,
            max_context=max_context,
            strict=True,
        )


def _validates(row: Row) -> bool:
    return row.get(SPLIT) == VALIDATION


def _groups(attempts: Sequence[_Attempt]) -> list[list[_Attempt]]:
    """Attempts that are judged together: those at one task where rollouts are compared."""
    groups: dict[object, list[_Attempt]] = {}
    for number, attempt in enumerate(attempts):
        compares = attempt.runner.run.environment.capabilities().compares
        groups.setdefault(attempt.task.task_id if compares else number, []).append(attempt)
    return list(groups.values())
