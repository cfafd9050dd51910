"""Whether prompts and budgets fit the context, and how many tokens a run takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gym_adapters.adapters.environment_run import EnvironmentRun
from gym_adapters.doctor.finding import Finding, failed, fine, warned
from gym_adapters.doctor.setup import Setup
from gym_adapters.errors import GymAdaptersError
from gym_adapters.items import FunctionTool, Item
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.task import Task
from gym_adapters.tokens.template_renderer import TemplateRenderer

__all__ = ["Opening", "length_findings", "openings", "prompt_sizes", "token_finding"]

PART = "lengths"
# Seconds in which an environment must have started each of a few attempts.
PATIENCE = 60.0
ROLLOUTS_AT_LEAST = 2


@dataclass(frozen=True, slots=True)
class Opening:
    """How an episode begins.

    Attributes:
        items: The prompt.
        tools: Tools that the model may call.
    """

    items: tuple[Item, ...]
    tools: tuple[FunctionTool, ...]


def openings(
    entry: EnvironmentEntry, tasks: Sequence[Task], settings: Sequence[str]
) -> list[Opening]:
    """Start one episode of each task, and end it there.

    Raises:
        GymAdaptersError: If none can be started, with the first reason.
    """
    run = EnvironmentRun(entry, config=entry.config(settings))
    try:
        return run.loop.run(_started(run, tasks))
    finally:
        run.close()


async def _started(run: EnvironmentRun, tasks: Sequence[Task]) -> list[Opening]:
    found: list[Opening] = []
    async with asyncio.timeout(PATIENCE):
        for task in tasks:
            episode = await run.episode(task, seed=0, rollout_index=0)
            async with episode:
                step = await episode.start()
                failure = step.outcome.failure if step.outcome is not None else None
                if failure is not None:
                    raise GymAdaptersError(f"{failure.boundary}: {failure.message}")
                found.append(Opening(episode.prompt, tuple(episode.tools)))
    return found


def prompt_sizes(renderer: TemplateRenderer, found: Sequence[Opening]) -> list[int]:
    """Tokens of each prompt.

    Raises:
        GymAdaptersError: If the template can't express one.
    """
    return [len(renderer.prompt_ids(each.items, each.tools)) for each in found]


def length_findings(
    sizes: Sequence[int],
    setup: Setup | None,
    *,
    context: int | None,
    budget: int,
) -> Iterator[Finding]:
    """Whether the longest prompt and the budget after it fit.

    Args:
        sizes: Tokens of each prompt, at least one.
        setup: What a recipe asks for.
        context: Most tokens the model takes; ``None`` where it doesn't say.
        budget: Tokens after the prompt that the environment's card asks for.
    """
    longest = max(sizes)
    yield fine(PART, "prompts", f"{min(sizes)} to {longest} tokens, of {len(sizes)} looked at")
    if setup is not None and setup.max_prompt is not None and longest > setup.max_prompt:
        yield failed(
            PART,
            "prompt limit",
            f"the longest prompt has {longest} tokens, and the recipe allows {setup.max_prompt}",
            f"data.max_prompt_length of at least {longest}",
        )
    limit, whose = _limit(setup, context)
    if limit is None:
        yield warned(
            PART, "context", "neither model nor recipe gives it", "max_position_embeddings"
        )
        return
    asked = setup.max_completion if setup is not None else None
    yield _fits(longest, asked, budget, limit, whose)


def _limit(setup: Setup | None, context: int | None) -> tuple[int | None, str]:
    """The smallest of the limits, and whose it is."""
    limits = [(context, "the model")]
    if setup is not None:
        limits.append((setup.max_total, "the recipe"))
    known = [(limit, whose) for limit, whose in limits if limit is not None]
    return min(known) if known else (None, "")


def _fits(longest: int, asked: int | None, budget: int, limit: int, whose: str) -> Finding:
    wanted = asked if asked is not None else budget
    origin = "the recipe" if asked is not None else "the environment's card"
    told = f"prompt {longest} + budget {wanted} of {origin}, against {limit} of {whose}"
    if longest >= limit:
        fix = "a longer context, or shorter tasks"
        return failed(PART, "context", f"{told}: nothing is left to answer in", fix)
    if longest + wanted <= limit:
        return fine(PART, "context", told)
    fix = f"a budget of at most {limit - longest} tokens, or a longer context"
    if asked is None:
        # The card's is what an attempt may take, not what it will.
        return warned(PART, "context", f"{told}: long attempts are cut", fix)
    return failed(PART, "context", f"{told}: the last tokens can't be sampled", fix)


def token_finding(setup: Setup, longest_prompt: int, budget: int) -> Finding | None:
    """At most how many tokens a step, and a run, works through; ``None`` where it can't be told."""
    if setup.rollouts_per_step is None:
        return None
    each = longest_prompt + (setup.max_completion or budget)
    if setup.max_total is not None:
        each = min(each, setup.max_total)
    step = each * setup.rollouts_per_step
    told = f"at most {step:,} a step ({setup.rollouts_per_step} samples × {each:,})"
    if setup.steps is not None:
        told += f", {step * setup.steps:,} in {setup.steps} steps"
    if setup.samples and setup.rollouts_per_step < ROLLOUTS_AT_LEAST:
        fix = "a larger batch: a group needs several rollouts"
        return failed("memory", "tokens", told, fix)
    return fine("memory", "tokens", told)
