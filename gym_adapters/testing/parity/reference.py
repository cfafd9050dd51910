"""The rollouts that every trainer must have received: our agent, in this process, no trainer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.episode import Episode, EpisodeLimits
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.registry import load_environment
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.groups import compared
from gym_adapters.rollouts.model_judge import open_run_resources
from gym_adapters.testing.parity.case import Attempt, ParityCase, Room
from gym_adapters.testing.parity.received import EpisodeSeed

__all__ = ["reference_rollouts", "room_for", "why_none_is_scored"]

ROOMY = 1 << 20
# Tokens beside those that the reference needed, where no budget is to matter: room for a prompt
# that comes out longer with another seed.
SLACK = 512


async def reference_rollouts(
    case: ParityCase, episodes: Mapping[Attempt, EpisodeSeed] | None = None
) -> dict[Attempt, Rollout]:
    """One rollout for each attempt, group rewards included.

    Args:
        case: What to run.
        episodes: What the random numbers follow from; by default seed 0 and the attempt's index.
    """
    seeds = episodes if episodes is not None else {}
    entry = load_environment(case.environment)
    config = entry.config()
    limits = EpisodeLimits()
    if entry.card is not None:
        limits = EpisodeLimits(max_turns=entry.card.budget.max_turns)
    model = _model(case)
    done: dict[Attempt, Rollout] = {}
    async with open_run_resources(entry.environment, config) as resources:
        for attempt in case.attempts:
            own = seeds.get(attempt, EpisodeSeed(0, attempt.index))
            episode = Episode(
                entry.environment,
                case.tasks[attempt.task],
                config=config,
                resources=resources,
                seed=own.seed,
                rollout_index=own.rollout_index,
                limits=limits,
            )
            done[attempt] = await ToolAgent().run(
                episode,
                model,
                sampling=SamplingParams(),
                request_id=f"{attempt.task}-{attempt.index}",
                seed=own.seed,
            )
        for place in range(len(case.tasks)):
            group = [attempt for attempt in case.attempts if attempt.task == place]
            judged = await compared(
                entry.environment,
                [done[attempt] for attempt in group],
                config=config,
                resources=resources,
            )
            done.update(zip(group, judged, strict=True))
    return done


def why_none_is_scored(cases: Sequence[ParityCase]) -> str | None:
    """The first failure, where every rollout of all `cases` fails; ``None`` where one does not.

    Such rollouts reach no trainer, so that nothing was compared.
    """
    reason = None
    for case in cases:
        for rollout in asyncio.run(reference_rollouts(case)).values():
            failure = rollout.outcome.failure
            if failure is None:
                return None
            reason = reason or f"{failure.boundary.value}: {failure.message}"
    return reason


def room_for(case: ParityCase, rollouts: Sequence[Rollout]) -> Room:
    """Room for exactly the case's budget; where it has none, for more than `rollouts` need."""
    segments = [segment for rollout in rollouts for segment in rollout.segments]
    prompt = max((len(segment.prompt_ids) for segment in segments), default=SLACK)
    if case.max_completion is not None:
        return Room(prompt, case.max_completion)
    longest = max((len(segment.completion_ids) for segment in segments), default=SLACK)
    return Room(prompt + SLACK, longest + SLACK)


def _model(case: ParityCase) -> TokenChatModel:
    from gym_adapters.tokens.output_parser import output_parser
    from gym_adapters.tokens.template_renderer import TemplateRenderer

    tokenizer = case.tokenizer()
    return TokenChatModel(
        case.generator(_attempt_of),
        TemplateRenderer(tokenizer),
        output_parser(tokenizer),
        name="policy",
        max_completion=case.max_completion if case.max_completion is not None else ROOMY,
    )


def _attempt_of(request_id: str) -> Attempt:
    task, _, index = request_id.partition("-")
    return Attempt(int(task), int(index))
