"""The full path: our episodes, our agent and our ledger, over the generation TRL owns."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import AnyEnvironment, EnvironmentRun
from gym_adapters.adapters.trainer_sampling import TrainerSampling
from gym_adapters.adapters.trl.rollout_columns import rollout_columns
from gym_adapters.adapters.trl.rows import row_of_prompt
from gym_adapters.adapters.trl.trainer_generation import (
    GeneratorSource,
    GrpoSampling,
    TrainerGeneration,
    max_context_of,
    tokenizer_of,
)
from gym_adapters.adapters.trl.version import check_trl
from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import InvalidConfig, Unsupported
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import TokenGenerator
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.groups import compared
from gym_adapters.task import Task
from gym_adapters.tokens.protocol import ChatRenderer, OutputParser

__all__ = ["RolloutFunction", "rollout_function"]


def rollout_function(
    environment: AnyEnvironment,
    *,
    config: EnvironmentConfig | None = None,
    limits: EpisodeLimits | None = None,
    agent_limits: AgentLimits | None = None,
    max_tokens_per_turn: int | None = None,
    max_concurrency: int = 256,
    chat_format: str | None = None,
    generator: GeneratorSource | None = None,
) -> RolloutFunction:
    """What ``GRPOTrainer(rollout_func=...)`` takes; its reward is `RolloutReward`.

    The dataset must come from ``trl_dataset(tasks, row_in_prompt=True)``: TRL shows a rollout
    function prompts only.

    Args:
        environment: Class, registry entry or name.
        config: Its settings; by default those of its card.
        limits: Turns and times of an episode; by default the card's turns.
        agent_limits: Budgets of a rollout besides the trainer's ``max_completion_length``.
        max_tokens_per_turn: Most tokens of one turn; the rollout's budget by default.
        max_concurrency: Most episodes at once.
        chat_format: How the model writes tool calls; detected from the chat template by default.
        generator: Another source of tokens than the trainer's own generation.

    Raises:
        Unsupported: If the environment asks for what one model and one sample a rollout can't give.
    """
    check_trl()
    run = EnvironmentRun(environment, config=config, limits=limits)
    refuse_unsupported(Adapter.TRL_ROLLOUT, run.environment)
    return RolloutFunction(
        run,
        ToolAgent(agent_limits),
        generator if generator is not None else TrainerGeneration(max_batch_size=max_concurrency),
        max_tokens_per_turn=max_tokens_per_turn,
        max_concurrency=max_concurrency,
        chat_format=chat_format,
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    """One call of TRL.

    Attributes:
        tasks: One a row, in TRL's order: each task `group_size` times in a row.
        name: Unique among the calls of a run, and the same when it is run again.
        seed: Of the episodes.
        first_index: Place of the first row in the whole batch of all processes.
        group_size: Rollouts a task.
    """

    tasks: Sequence[Task]
    name: str
    seed: int
    first_index: int
    group_size: int

    def rollout_index(self, row: int) -> int:
        return (self.first_index + row) % self.group_size


@dataclass(frozen=True, slots=True)
class _Speech:
    """What it takes to speak to the trainer's model."""

    renderer: ChatRenderer
    parser: OutputParser
    sampling: TrainerSampling


class RolloutFunction:
    """Runs the episodes of a batch at once; make one with `rollout_function`.

    Args:
        run: The environment.
        agent: Drives each episode.
        source: Gives the trainer's generation.
        max_tokens_per_turn: Most tokens of one turn.
        max_concurrency: Most episodes at once.
        chat_format: How the model writes tool calls; ``None`` to detect it.
    """

    def __init__(
        self,
        run: EnvironmentRun,
        agent: ToolAgent,
        source: GeneratorSource,
        *,
        max_tokens_per_turn: int | None = None,
        max_concurrency: int = 256,
        chat_format: str | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise InvalidConfig(f"max_concurrency must be at least 1, not {max_concurrency}.")
        self.__name__ = f"rollout_function({run.environment.name})"
        self.run, self._agent, self._source = run, agent, source
        self._max_tokens_per_turn = max_tokens_per_turn
        self._max_concurrency = max_concurrency
        self._chat_format = chat_format
        self._speech: tuple[weakref.ref[Any], _Speech] | None = None
        self._last_call = ("", -1, -1)
        self._checked_template = False

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, list[Any]]:
        """Roll out every prompt once; prompts come repeated, one row a rollout.

        Returns:
            TRL's ``prompt_ids``, ``completion_ids``, ``logprobs`` and ``env_mask``, one entry a
            prompt in the order given, and ``gym_attempt`` and ``gym_reward`` for reward functions.

        Raises:
            InvalidRow: If a prompt carries no row, or a bad one.
            Unsupported: If the chat template, the generator or the batch can't carry the rollouts.
            EnvironmentFailure: If the environment's resources can't be opened.
        """
        batch = self._batch([self.run.task(row_of_prompt(prompt)) for prompt in prompts], trainer)
        speech = self._speech_of(trainer)
        with self._source(trainer) as generator:
            model = _chat_model(trainer, generator, speech)
            rollouts = self.run.loop.run(self._roll_out(batch, model, speech.sampling))
        self._check_template(rollouts)
        return rollout_columns(rollouts, pad_id=tokenizer_of(trainer).pad_token_id)

    def close(self) -> None:
        """Close the environment's resources and the generator; the next call opens them anew."""
        self._speech = None
        close = getattr(self._source, "aclose", None)
        if close is not None:
            self.run.loop.run(close())
        self.run.close()

    def _batch(self, tasks: Sequence[Task], trainer: Any) -> _Batch:
        training = bool(trainer.model.training)
        group_size = trainer.num_generations if training else trainer.num_generations_eval
        mode, step = "train" if training else "eval", int(trainer.state.global_step)
        # A step may generate several times, when gradients are accumulated.
        again = self._last_call[:2] == (mode, step)
        call = self._last_call[2] + 1 if again else 0
        self._last_call = (mode, step, call)
        first = trainer.accelerator.process_index * len(tasks)
        if self.run.environment.capabilities().compares and (
            first % group_size or len(tasks) % group_size
        ):
            raise Unsupported(
                f"{self.run.environment.name} compares the rollouts of a group, and a process "
                f"holds {len(tasks)} rollouts of groups of {group_size}. Fix: make the batch of a "
                "process (per_device_train_batch_size × steps_per_generation) a multiple of "
                "num_generations."
            )
        packed = f"{trainer.args.seed}:{mode}:{step}:{call}".encode()
        return _Batch(
            tasks=tasks,
            name=f"{mode}-{step}-{call}",
            seed=int.from_bytes(blake2b(packed, digest_size=6).digest()),
            first_index=first,
            group_size=group_size,
        )

    def _speech_of(self, trainer: Any) -> _Speech:
        from gym_adapters.tokens.output_parser import output_parser
        from gym_adapters.tokens.template_renderer import TemplateRenderer

        if self._speech is None or self._speech[0]() is not trainer:
            tokenizer = tokenizer_of(trainer)
            variables = trainer.chat_template_kwargs
            speech = _Speech(
                renderer=TemplateRenderer(tokenizer, template_kwargs=variables),
                parser=output_parser(tokenizer, self._chat_format, template_kwargs=variables),
                sampling=GrpoSampling(trainer, self._max_tokens_per_turn),
            )
            self._speech = (weakref.ref(trainer), speech)
        return self._speech[1]

    async def _roll_out(
        self, batch: _Batch, model: ChatModel, sampling: TrainerSampling
    ) -> list[Rollout]:
        room = asyncio.Semaphore(self._max_concurrency)

        async def bounded(row: int) -> Rollout:
            async with room:
                return await self._one(batch, row, model, sampling)

        rollouts = await _all_or_none([bounded(row) for row in range(len(batch.tasks))])
        if not self.run.environment.capabilities().compares:
            return rollouts
        size = batch.group_size
        groups = [rollouts[start : start + size] for start in range(0, len(rollouts), size)]
        judged = await asyncio.gather(*[compared(self.run.environment, g) for g in groups])
        return [rollout for group in judged for rollout in group]

    async def _one(
        self, batch: _Batch, row: int, model: ChatModel, sampling: TrainerSampling
    ) -> Rollout:
        task = batch.tasks[row]
        index = batch.rollout_index(row)
        episode = await self.run.episode(task, seed=batch.seed, rollout_index=index)
        return await self._agent.run(
            episode,
            model,
            sampling=sampling(task),
            request_id=f"{batch.name}-{batch.first_index + row}",
            seed=batch.seed,
        )

    def _check_template(self, rollouts: Sequence[Rollout]) -> None:
        """End a run whose chat template can't be trained on; told by its first batch."""
        if self._checked_template:
            return
        self._checked_template = True
        for rollout in rollouts:
            failure = rollout.outcome.failure
            if failure is not None and failure.error in _TEMPLATE_ERRORS:
                raise Unsupported(failure.message)


_TEMPLATE_ERRORS = ("TemplateRewritesHistory", "TemplateRefuses", "Unsupported")


def _chat_model(trainer: Any, generator: TokenGenerator, speech: _Speech) -> Any:
    from gym_adapters.generation.token_chat import TokenChatModel

    name = getattr(trainer.model.config, "_name_or_path", "") or "policy"
    return TokenChatModel(
        generator,
        speech.renderer,
        speech.parser,
        name=name,
        max_context=max_context_of(trainer),
        max_completion=trainer.max_completion_length,
        strict=True,
    )


async def _all_or_none(rollouts: Sequence[Coroutine[Any, Any, Rollout]]) -> list[Rollout]:
    """All results in order; if one raises, the others are cancelled and have closed by then."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(rollout) for rollout in rollouts]
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None
    return [task.result() for task in tasks]
