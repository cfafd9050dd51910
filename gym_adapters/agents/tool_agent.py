"""The plain agent loop: ask the model, give its turn to the episode, until the episode ends."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from gym_adapters import __version__
from gym_adapters.episode import Episode, Step
from gym_adapters.errors import Boundary, ModelError, RolloutTimeout, UsageError, boundary
from gym_adapters.generation.chat import ChatModel, ChatSession, ModelTurn
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.reward import StopReason
from gym_adapters.rollout import Provenance, Rollout, Timings, TokenUsage

__all__ = ["AgentLimits", "ToolAgent"]


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """Budgets of one rollout; past any of them the attempt is verified as it stands, as truncated.

    Attributes:
        max_sampled_tokens: Tokens sampled over all turns; ``None`` for no bound.
        time_limit: Seconds of wall time until no further turn is begun; ``None`` for no bound.
        turn_timeout: Seconds of wall time for one model call; past it the rollout is unscored.
    """

    max_sampled_tokens: int | None = None
    time_limit: float | None = None
    turn_timeout: float = 600.0


@dataclass(slots=True)
class _Meter:
    """Running totals of one rollout."""

    began: float = field(default_factory=time.perf_counter)
    model_time: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, turn: ModelTurn, seconds: float) -> None:
        self.model_time += seconds
        self.input_tokens += turn.usage.input_tokens
        self.output_tokens += turn.usage.output_tokens


class ToolAgent:
    """Drives one `Episode` with one `ChatModel`.

    Args:
        limits: Budgets of a rollout. The turn budget is the episode's (`EpisodeLimits`).
    """

    def __init__(self, limits: AgentLimits | None = None) -> None:
        self.limits = limits if limits is not None else AgentLimits()

    async def run(
        self,
        episode: Episode,
        model: ChatModel,
        *,
        sampling: SamplingParams | None = None,
        request_id: str | None = None,
        seed: int | None = None,
    ) -> Rollout:
        """Run `episode` to its end and close it.

        A failure anywhere makes the rollout unscored; only cancellation raises.

        Args:
            episode: A fresh episode.
            model: The policy.
            sampling: Sampling of each turn; `max_tokens` is the budget of one turn.
            request_id: Names the rollout to the engine; by default task and index.
            seed: Recorded in the provenance.
        """
        name = request_id or f"{episode.task.task_id}-{episode.rollout_index}"
        meter = _Meter()
        session: ChatSession | None = None
        async with episode:
            step = await episode.start(constraints=True)
            if not step.done:
                try:
                    session = model.open(
                        tools=episode.tools,
                        sampling=sampling if sampling is not None else SamplingParams(),
                        request_id=name,
                    )
                    await self._drive(episode, session, step, meter)
                except UsageError as error:
                    # What a model can't be used for, it can't in the middle of a rollout either.
                    episode.fail(_refused(error))
                except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
                    episode.fail(error)
        return _rollout(episode, model, session, meter, seed)

    async def _drive(
        self, episode: Episode, session: ChatSession, step: Step, meter: _Meter
    ) -> None:
        while not step.done:
            reason = self._spent(meter)
            if reason is not None:
                step = await episode.truncate(reason)
                break
            began = time.perf_counter()
            turn = await self._turn(session, step)
            if turn is None:
                step = await episode.truncate(StopReason.CONTEXT)
                break
            meter.add(turn, time.perf_counter() - began)
            step = await episode.advance(turn.items, finish_reason=turn.finish_reason)

    async def _turn(self, session: ChatSession, step: Step) -> ModelTurn | None:
        with boundary(Boundary.MODEL, "generation"):
            try:
                async with asyncio.timeout(self.limits.turn_timeout):
                    # Sessions that know no constraints go on with environments of none.
                    return await (
                        session.respond(step.items)
                        if step.constraint is None
                        else session.respond(step.items, constraint=step.constraint)
                    )
            except TimeoutError as error:
                raise RolloutTimeout(
                    f"the model gave no turn within {self.limits.turn_timeout} s"
                ) from error

    def _spent(self, meter: _Meter) -> StopReason | None:
        limits = self.limits
        if (
            limits.max_sampled_tokens is not None
            and meter.output_tokens >= limits.max_sampled_tokens
        ):
            return StopReason.LENGTH
        if limits.time_limit is not None and time.perf_counter() - meter.began > limits.time_limit:
            return StopReason.TIME
        return None


def _refused(error: UsageError) -> ModelError:
    refused = ModelError(str(error))
    refused.__cause__ = error
    return refused


def _rollout(
    episode: Episode,
    model: ChatModel,
    session: ChatSession | None,
    meter: _Meter,
    seed: int | None,
) -> Rollout:
    if episode.outcome is None:
        raise RuntimeError("the agent loop ended without an outcome")
    spent = episode.timings
    segments = tuple(session.segments) if session is not None else ()
    versions = [span.weights_version for s in segments for span in s.spans if span.sampled]
    return Rollout(
        row=episode.task.to_row(),
        task_id=episode.task.task_id,
        rollout_index=episode.rollout_index,
        prompt=episode.prompt,
        output=tuple(episode.output),
        tools=episode.tools,
        outcome=episode.outcome,
        segments=segments,
        timings=Timings(
            total=time.perf_counter() - meter.began,
            model=meter.model_time,
            environment=spent.environment,
            verify=spent.verify,
        ),
        usage=TokenUsage(meter.input_tokens, meter.output_tokens, episode.turns),
        provenance=Provenance(
            environment=episode.environment.name,
            environment_version=episode.environment.version,
            library_version=__version__,
            model=model.name,
            template_hash=model.template_hash,
            weights_version=versions[-1] if versions else None,
            seed=seed,
        ),
        task_index=episode.task_index,
    )
