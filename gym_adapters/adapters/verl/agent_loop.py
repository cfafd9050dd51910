"""The agent loop: our episodes, our agent and our ledger, over the servers verl owns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import orjson

from gym_adapters.adapters.bounded_prompt import BoundedPrompt
from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import EnvironmentRun
from gym_adapters.adapters.trainer_sampling import TrainerSampling
from gym_adapters.adapters.verl.loop_outputs import checked, sample_fields
from gym_adapters.adapters.verl.named_agent import named_agent
from gym_adapters.adapters.verl.plugin import AGENT_NAME
from gym_adapters.adapters.verl.rollout_group import (
    RolloutGroup,
    current_group,
)
from gym_adapters.adapters.verl.rows import RowIdentity
from gym_adapters.adapters.verl.run_settings import RunSettings
from gym_adapters.adapters.verl.server_generation import ServerGenerator
from gym_adapters.adapters.verl.version import check_verl
from gym_adapters.agents.selective import check_agent
from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.errors import InvalidConfig, MissingExtra
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.registry import load_environment
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.collect import Agent
from gym_adapters.rollouts.training_ledger import TrainingLedger
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer

try:
    from verl.experimental.agent_loop.agent_loop import (
        AgentLoopBase,
        AgentLoopMetrics,
        AgentLoopOutput,
        register,
    )
except ModuleNotFoundError as error:
    raise MissingExtra(
        "verl", package=error.name or "verl", needed_for="the verl adapter"
    ) from error

__all__ = ["GymAgentLoop", "speech_of"]

log = logging.getLogger(__name__)

# Seconds. verl parks requests while weights change, and a full batch queues for the servers.
TURN_TIMEOUT = 1800.0


@register(AGENT_NAME)
class GymAgentLoop(AgentLoopBase):
    """Runs one rollout of the environment that the dataset row names.

    verl makes one for every rollout. What is shared between rollouts (renderer, environment,
    resources) is kept in the worker process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_verl()
        self._settings = RunSettings.of(self.config)

    async def run(self, sampling_params: Mapping[str, Any], **row: Any) -> Any:
        """One rollout, once all rollouts of its prompt have ended.

        Args:
            sampling_params: verl's.
            **row: The dataset row, with ``uid``, ``session_id`` and ``global_steps``.

        Returns:
            An ``AgentLoopOutput``; several where the rollout has several segments; an empty list
            where it can't be trained on.

        Raises:
            GroupDropped: If too few rollouts of the prompt can be trained on, in one of them.
            InvalidRow: If the row is not one of ours.
        """
        identity = RowIdentity.of_extra_info(row.get("extra_info"))
        group = self._group()
        session, step = int(row["session_id"]), int(row["global_steps"])
        # A step samples from the weights that the step before it made.
        generator = ServerGenerator(self.server_manager, fallback_version=max(0, step - 1))
        run = _environment_run(identity.environment, identity.overrides, self._settings.agent)
        rollout = await self._roll_out(
            run,
            identity,
            generator,
            _sampling(_as_text(sampling_params)),
            seed=_seed(self._settings.seed, step, group.policy.validate),
            # Attempts are counted over the whole run: a task may come back.
            index=step * group.policy.size + session,
            request_id=f"{row['uid']}-{session}",
        )

        async def judge(rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
            judged = await run.compared(rollouts)
            await self._keep(judged, group)
            return judged

        ended = checked(rollout, self._settings.bounds)
        kept = await group.settle(session, ended, judge)
        return [] if kept is None else self._outputs(kept, generator, identity.components)

    async def _keep(self, rollouts: Sequence[Rollout], group: RolloutGroup) -> None:
        """Append a group to the ledger of its kind, where there is one."""
        settings, policy = self._settings, group.policy
        folder = settings.validation_ledger if policy.validate else settings.ledger
        if folder is None:
            return
        ledger = TrainingLedger(
            folder,
            model=settings.model,
            seed=settings.seed,
            group_size=policy.size,
            input=f"verl, {'validation' if policy.validate else 'training'}",
        )
        await ledger.append_async(rollouts)

    def _group(self) -> RolloutGroup:
        group = current_group()
        if group is None:
            raise InvalidConfig(
                "this loop must run in the adapter's worker. Fix: start verl with the overrides "
                "that gym_adapters.adapters.verl.verl_overrides() gives."
            )
        return group

    async def _roll_out(
        self,
        run: EnvironmentRun,
        identity: RowIdentity,
        generator: ServerGenerator,
        sampling: TrainerSampling,
        *,
        seed: int,
        index: int,
        request_id: str,
    ) -> Rollout:
        speech = speech_of(self.tokenizer, self.apply_chat_template_kwargs)
        bounds = self._settings.bounds
        room = bounds.prompt + bounds.response
        chat = TokenChatModel(
            generator,
            speech.renderer,
            speech.parser,
            name="policy",
            max_context=min(room, self._settings.max_context or room),
            max_completion=bounds.response,
            strict=not self._settings.takes_segments,
        )
        task = run.task(dict(identity.row))
        episode = await run.episode(task, seed=seed, rollout_index=index)
        agent, model = self._driver(chat)
        return await agent.run(
            episode,
            model,
            sampling=sampling(task),
            request_id=request_id,
            seed=seed,
        )

    def _driver(self, chat: TokenChatModel) -> tuple[Agent, ChatModel]:
        """What drives the episode, and the model it is given."""
        if self._settings.agent is not None:
            # A gateway keeps the ledger itself, of the model below: `checked` bounds its prompt.
            return named_agent(self._settings.agent), chat
        bounded = BoundedPrompt(chat, self._settings.bounds.prompt)
        return ToolAgent(AgentLimits(turn_timeout=TURN_TIMEOUT)), bounded

    def _outputs(
        self, rollout: Rollout, generator: ServerGenerator, components: Sequence[str]
    ) -> Any:
        fields = sample_fields(
            rollout,
            self._settings.bounds,
            versions=generator.versions,
            components=components,
        )
        metrics = AgentLoopMetrics(
            generate_sequences=rollout.timings.model,
            tool_calls=rollout.timings.environment,
            compute_score=rollout.timings.verify,
            num_preempted=-1 if generator.preempted is None else generator.preempted,
        )
        outputs = [
            AgentLoopOutput(**asdict(sample), metrics=metrics.model_copy()) for sample in fields
        ]
        return outputs[0] if len(outputs) == 1 else outputs


@dataclass(frozen=True, slots=True)
class Speech:
    """What it takes to speak to the policy."""

    renderer: TemplateRenderer
    parser: Any


@cache
def _environment_run(
    environment: str, overrides: tuple[str, ...], agent: str | None
) -> EnvironmentRun:
    """The environment, opened once a process; verl runs all its rollouts on one event loop."""
    entry = load_environment(environment)
    refuse_unsupported(Adapter.VERL, entry.environment)
    if agent is not None:
        check_agent(named_agent(agent), entry.environment)
    return EnvironmentRun(entry, config=entry.config(overrides))


def speech_of(tokenizer: Any, template_kwargs: Mapping[str, Any] | None) -> Speech:
    """What it takes to speak to the policy, made once a process.

    Raises:
        UsageError: If the tokenizer has no chat template.
    """
    return _speech(tokenizer, _as_text(template_kwargs))


@cache
def _speech(tokenizer: Any, template_kwargs: str) -> Speech:
    variables = orjson.loads(template_kwargs)
    return Speech(
        TemplateRenderer(tokenizer, template_kwargs=variables),
        output_parser(tokenizer, template_kwargs=variables),
    )


def _as_text(settings: Mapping[str, Any] | None) -> str:
    """Settings as a key to what was made of them."""
    plain = dict(settings or {})
    return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS, default=_plain).decode()


def _plain(value: Any) -> Any:
    """Containers of hydra as lists and dicts."""
    return dict(value) if isinstance(value, Mapping) else list(value)


@cache
def _sampling(settings: str) -> TrainerSampling:
    """The trainer's sampling parameters as ours; kept, so that a conflict is told once."""
    params = orjson.loads(settings)
    known = {"temperature", "top_p", "top_k", "logprobs"}
    extras = {key: value for key, value in params.items() if key not in known}
    # The neutral value is every server's default, and not every server knows the name.
    if extras.get("repetition_penalty") == 1.0:
        del extras["repetition_penalty"]
    return TrainerSampling(
        SamplingParams(
            temperature=float(params.get("temperature", 1.0)),
            top_p=float(params.get("top_p", 1.0)),
            top_k=max(0, int(params.get("top_k") or 0)),
            extras=extras,
        )
    )


def _seed(run_seed: int, step: int, validate: bool) -> int:
    """The seed of a step's episodes; a task that is seen again meets other random numbers."""
    packed = f"{run_seed}:{'validation' if validate else 'train'}:{step}".encode()
    return int.from_bytes(blake2b(packed, digest_size=6).digest())
