"""The full path: our episodes, our agent and our ledger, over the generation TRL owns."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import FunctionType
from typing import Any

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import AnyEnvironment, EnvironmentRun
from gym_adapters.adapters.failure_streak import FailureStreak
from gym_adapters.adapters.trainer_sampling import TrainerSampling
from gym_adapters.adapters.trl.environment_blend import (
    Assignment,
    EnvironmentBlend,
    EnvironmentPart,
    joined,
)
from gym_adapters.adapters.trl.reward import RolloutReward
from gym_adapters.adapters.trl.rollout_columns import rollout_columns
from gym_adapters.adapters.trl.speech import Speech, check_template, speech_of
from gym_adapters.adapters.trl.trainer_generation import (
    GeneratorSource,
    GrpoSampling,
    TrainerGeneration,
    max_context_of,
    tokenizer_of,
)
from gym_adapters.adapters.trl.version import check_trl
from gym_adapters.agents.selective import check_agent
from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import InvalidConfig, Unsupported, UsageError
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import TokenGenerator
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.collect import Agent
from gym_adapters.rollouts.training_ledger import TrainingLedger

__all__ = ["RolloutFunction", "rollout_function"]

log = logging.getLogger(__name__)


def rollout_function(
    environment: AnyEnvironment,
    *,
    config: EnvironmentConfig | None = None,
    limits: EpisodeLimits | None = None,
    agent_limits: AgentLimits | None = None,
    agent: Agent | None = None,
    max_tokens_per_turn: int | None = None,
    max_concurrency: int = 256,
    chat_format: str | None = None,
    generator: GeneratorSource | None = None,
    ledger: Path | str | None = None,
    eval_ledger: Path | str | None = None,
) -> RolloutFunction:
    """What ``GRPOTrainer(rollout_func=...)`` takes; its reward is `RolloutReward`.

    The dataset must come from ``trl_dataset(tasks, row_in_prompt=True)``: TRL shows a rollout
    function prompts only.

    Args:
        environment: Class, registry entry or name.
        config: Its settings; by default those of its card.
        limits: Turns and times of an episode; by default the card's turns.
        agent_limits: Budgets of a rollout besides the trainer's ``max_completion_length``.
        agent: Drives each episode; by default a `ToolAgent`. A foreign one is a `GatewayAgent`,
            which is closed with the run.
        max_tokens_per_turn: Most tokens of one turn; the rollout's budget by default.
        max_concurrency: Most episodes at once.
        chat_format: How the model writes tool calls; detected from the chat template by default.
        generator: Another source of tokens than the trainer's own generation.
        ledger: Folder to keep the rollouts of training in, as ``gym-adapters collect`` keeps its.
        eval_ledger: The same for those of evaluation.

    Raises:
        Unsupported: If the environment asks for what one model and one sample a rollout can't give,
            or for what the agent can't.
        InvalidConfig: If both an agent and the limits of the default one are given.
    """
    check_trl()
    if agent is not None and agent_limits is not None:
        raise InvalidConfig("agent_limits are those of the default agent: give them to yours.")
    run = EnvironmentRun(environment, config=config, limits=limits)
    refuse_unsupported(Adapter.TRL_ROLLOUT, run.environment)
    driver = agent if agent is not None else ToolAgent(agent_limits)
    check_agent(driver, run.environment)
    return RolloutFunction(
        EnvironmentBlend([EnvironmentPart(run, driver, max_tokens_per_turn)]),
        generator if generator is not None else TrainerGeneration(max_batch_size=max_concurrency),
        max_concurrency=max_concurrency,
        chat_format=chat_format,
        ledgers={"train": ledger, "eval": eval_ledger},
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    """One call of TRL.

    Attributes:
        rows: Tasks in TRL's order: each `group_size` times in a row.
        mode: ``train`` or ``eval``.
        step: The trainer's.
        name: Unique among the calls of a run, and the same when it is run again.
        seed: Of the episodes.
        first_index: Place of the first row in the whole batch of all processes.
        group_size: Rollouts a task.
    """

    rows: Sequence[Assignment]
    mode: str
    step: int
    name: str
    seed: int
    first_index: int
    group_size: int

    def rollout_index(self, row: int) -> int:
        """Which attempt at its task a row is: those of later steps go on counting."""
        return self.step * self.group_size + (self.first_index + row) % self.group_size


class RolloutFunction:
    """Runs the episodes of a batch at once; make one with `rollout_function`.

    Args:
        blend: The environments.
        source: Gives the trainer's generation.
        max_concurrency: Most episodes at once.
        chat_format: How the model writes tool calls; ``None`` to detect it.
        ledgers: Folders to keep rollouts in, of the modes ``train`` and ``eval``.

    Attributes:
        blend: The environments.
    """

    def __init__(
        self,
        blend: EnvironmentBlend,
        source: GeneratorSource,
        *,
        max_concurrency: int = 256,
        chat_format: str | None = None,
        ledgers: Mapping[str, Path | str | None] | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise InvalidConfig(f"max_concurrency must be at least 1, not {max_concurrency}.")
        self.__name__ = f"rollout_function({blend.name})"
        self.blend, self._source = blend, source
        self._max_concurrency = max_concurrency
        self._chat_format = chat_format
        self._ledgers = dict(ledgers or {})
        self._spoken: tuple[weakref.ref[Any], Speech, Mapping[str, TrainerSampling]] | None = None
        self._last_call = ("", -1, -1)
        self._checked = False
        self._streak = FailureStreak()

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, list[Any]]:
        """Roll out every prompt once; prompts come repeated, one row a rollout.

        Returns:
            TRL's ``prompt_ids``, ``completion_ids``, ``logprobs`` and ``env_mask``, one entry a
            prompt in the order given, and ``gym_attempt`` and ``gym_reward`` for reward functions.

        Raises:
            InvalidRow: If a prompt carries no row, or a bad one.
            Unsupported: If the chat template, the generator or the batch can't carry the rollouts.
            UsageError: If the trainer's reward functions would count rewards twice, or not at all.
            EnvironmentFailure: If the environment's resources can't be opened.
            RolloutError: If no rollout has had a reward for long.
        """
        if not self._checked:
            _check_rewards(trainer, self.blend)
        batch = self._batch([self.blend.of_prompt(prompt) for prompt in prompts], trainer)
        speech, samplings = self._speech_of(trainer)
        with self._source(trainer) as generator:
            model = _chat_model(trainer, generator, speech)
            rollouts = self.blend.loop.run(self._roll_out(batch, model, samplings))
        if not self._checked:
            check_template(rollouts)
        self._checked = True
        self._keep(rollouts, batch, trainer)
        self._streak.note(rollouts, batch.group_size)
        return rollout_columns(rollouts, pad_id=tokenizer_of(trainer).pad_token_id)

    def begin(self, args: Any, state: Any) -> None:
        """Cut the ledgers back to where training begins; the spec's callback calls it.

        A resumed training does the steps after its checkpoint again, and numbers its attempts as it
        did before: with their first rollouts gone, each is kept once.

        Args:
            args: A ``GRPOConfig``.
            state: The trainer's.

        Raises:
            UsageError: If a manifest can't be read.
            OSError: If files can't be written.
        """
        done = int(state.global_step)
        # Evaluation after a step comes before its checkpoint.
        kept = {"train": done, "eval": done if args.eval_on_start else done + 1}
        for mode, folder in self._ledgers.items():
            if folder is None:
                continue
            ledger = TrainingLedger(folder)
            if done:
                dropped = ledger.keep_steps(kept[mode])
                log.info("resumed at step %d: %d rollouts of %s dropped", done, dropped, folder)
            elif ledger.next_indices():
                log.warning(
                    "%s holds the rollouts of another training, and this one begins at step 0: "
                    "both number their attempts from 0. Give each training a folder of its own.",
                    folder,
                )

    def close(self) -> None:
        """Close the environments, agents and the generator; the next call opens them anew."""
        self._spoken = None
        close = getattr(self._source, "aclose", None)
        if close is not None:
            self.blend.loop.run(close())
        self.blend.loop.run(self.blend.aclose())
        self.blend.loop.close()

    def with_others(self, others: Sequence[RolloutFunction]) -> RolloutFunction:
        """One function for the environments of this one and of `others`.

        How rollouts are sampled and kept is as this one does it; the others must do it alike.

        Raises:
            InvalidConfig: If two environments have one name, or two functions different settings.
        """
        for other in others:
            if (other._chat_format, other._ledgers) != (self._chat_format, self._ledgers):
                raise InvalidConfig(
                    f"{other.__name__} has another chat_format or ledger than {self.__name__}. "
                    "Fix: give all specs of a blend the same."
                )
            if other._source is not self._source and not _sample_alike(self, other):
                raise InvalidConfig(
                    f"{other.__name__} has another generator than {self.__name__}. "
                    "Fix: give all specs of a blend the same one."
                )
        return RolloutFunction(
            joined([self.blend, *(other.blend for other in others)]),
            self._source,
            max_concurrency=max(each._max_concurrency for each in (self, *others)),
            chat_format=self._chat_format,
            ledgers=self._ledgers,
        )

    def _batch(self, rows: Sequence[Assignment], trainer: Any) -> _Batch:
        training = bool(trainer.model.training)
        group_size = trainer.num_generations if training else trainer.num_generations_eval
        mode, step = "train" if training else "eval", int(trainer.state.global_step)
        # A step may generate several times, when gradients are accumulated.
        again = self._last_call[:2] == (mode, step)
        call = self._last_call[2] + 1 if again else 0
        self._last_call = (mode, step, call)
        first = trainer.accelerator.process_index * len(rows)
        comparing = [name for name, part in self.blend.parts.items() if _compares(part)]
        if comparing and (first % group_size or len(rows) % group_size):
            raise Unsupported(
                f"{comparing[0]} compares the rollouts of a group, and a process "
                f"holds {len(rows)} rollouts of groups of {group_size}. Fix: make the batch of a "
                "process (per_device_train_batch_size × steps_per_generation) a multiple of "
                "num_generations."
            )
        packed = f"{trainer.args.seed}:{mode}:{step}:{call}".encode()
        return _Batch(
            rows=rows,
            mode=mode,
            step=step,
            name=f"{mode}-{step}-{call}",
            seed=int.from_bytes(blake2b(packed, digest_size=6).digest()),
            first_index=first,
            group_size=group_size,
        )

    def _speech_of(self, trainer: Any) -> tuple[Speech, Mapping[str, TrainerSampling]]:
        if self._spoken is None or self._spoken[0]() is not trainer:
            speech = speech_of(
                tokenizer_of(trainer), trainer.chat_template_kwargs, self._chat_format
            )
            samplings = {
                name: GrpoSampling(trainer, part.max_tokens_per_turn)
                for name, part in self.blend.parts.items()
            }
            self._spoken = (weakref.ref(trainer), speech, samplings)
        return self._spoken[1], self._spoken[2]

    async def _roll_out(
        self, batch: _Batch, model: ChatModel, samplings: Mapping[str, TrainerSampling]
    ) -> list[Rollout]:
        room = asyncio.Semaphore(self._max_concurrency)

        async def bounded(row: int) -> Rollout:
            async with room:
                return await _one(batch, row, model, samplings)

        rollouts = await _all_or_none([bounded(row) for row in range(len(batch.rows))])
        parts = [row.part for row in batch.rows]
        if not any(map(_compares, parts)):
            return rollouts
        size = batch.group_size
        judged = await asyncio.gather(
            *[
                parts[start].run.compared(rollouts[start : start + size])
                for start in range(0, len(rollouts), size)
            ]
        )
        return [rollout for group in judged for rollout in group]

    def _keep(self, rollouts: Sequence[Rollout], batch: _Batch, trainer: Any) -> None:
        folder = self._ledgers.get(batch.mode)
        if folder is None:
            return
        TrainingLedger(
            folder,
            model=_model_name(trainer),
            seed=trainer.args.seed,
            group_size=batch.group_size,
            input=f"TRL, {batch.mode}",
        ).append(rollouts)


def _sample_alike(one: RolloutFunction, other: RolloutFunction) -> bool:
    """Whether both sample with what the trainer has, in one way; functions may do anything."""
    kind = type(one._source)
    return kind is type(other._source) and kind is not FunctionType


def _compares(part: EnvironmentPart) -> bool:
    return part.run.environment.capabilities().compares


def _check_rewards(trainer: Any, blend: EnvironmentBlend) -> None:
    """Refuse reward functions of other environments, or one twice, before anything is sampled."""
    names = [f.__name__ for f in trainer.reward_funcs if isinstance(f, RolloutReward)]
    if names and sorted(names) != sorted(blend.parts):
        raise UsageError(
            f"GRPOTrainer has rewards of {', '.join(names)}, and its rollouts are of "
            f"{', '.join(blend.parts)}: rewards would count twice, or not at all. Fix: put several "
            "environments together with blended_spec, and use its trainer_arguments()."
        )


async def _one(
    batch: _Batch, row: int, model: ChatModel, samplings: Mapping[str, TrainerSampling]
) -> Rollout:
    part, task = batch.rows[row].part, batch.rows[row].task
    episode = await part.run.episode(task, seed=batch.seed, rollout_index=batch.rollout_index(row))
    return await part.agent.run(
        episode,
        model,
        sampling=samplings[part.name](task),
        request_id=f"{batch.name}-{batch.first_index + row}",
        seed=batch.seed,
    )


def _chat_model(trainer: Any, generator: TokenGenerator, speech: Speech) -> Any:
    from gym_adapters.generation.token_chat import TokenChatModel

    return TokenChatModel(
        generator,
        speech.renderer,
        speech.parser,
        name=_model_name(trainer),
        max_context=max_context_of(trainer),
        max_completion=trainer.max_completion_length,
        strict=True,
    )


def _model_name(trainer: Any) -> str:
    return getattr(trainer.model.config, "_name_or_path", "") or "policy"


async def _all_or_none(rollouts: Sequence[Coroutine[Any, Any, Rollout]]) -> list[Rollout]:
    """All results in order; if one raises, the others are cancelled and have closed by then."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(rollout) for rollout in rollouts]
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None
    return [task.result() for task in tasks]
