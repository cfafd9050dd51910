"""A reward function for verl's own single-turn loop: the environment's verdict on one answer.

Tell verl ``reward.custom_reward_function.path=pkg://gym_adapters.adapters.verl.reward`` and
``reward.custom_reward_function.name=compute_score``. The dataset is that of `verl_rows`, without
its column ``agent_name``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from typing import Any

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import EnvironmentRun
from gym_adapters.adapters.verl.rows import RowIdentity
from gym_adapters.errors import RolloutError
from gym_adapters.items import assistant_message
from gym_adapters.registry import load_environment
from gym_adapters.reward import Outcome, OutcomeStatus

__all__ = ["compute_score"]


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any],
    **options: Any,
) -> dict[str, float]:
    """The reward of one answer, under ``score``, and the row's components under their names.

    The keys are the same for every sample of a dataset. An answer that the environment can't score
    has no reward, and the error is raised: verl then leaves the rollout out. Whether an answer was
    cut is not told here, so none counts as truncated.

    Args:
        data_source: Not used; the row says which environment it is for.
        solution_str: The answer.
        ground_truth: Not used.
        extra_info: Of a row that `verl_rows` made.
        **options: Whatever else verl passes.

    Raises:
        RolloutError: If the answer could not be scored.
        InvalidRow: If the row is not one of ours.
        Unsupported: If the environment needs more than one turn.
    """
    identity = RowIdentity.of_extra_info(extra_info)
    run = _environment_run(identity.environment, identity.overrides)
    attempt = _attempt(run, identity, solution_str)
    outcome = await run.loop.run_from(attempt)
    if outcome.reward is None:
        failure = outcome.failure
        raise RolloutError(failure.message if failure is not None else "there is no verdict")
    parts = outcome.reward.components
    return {
        "score": outcome.reward.value,
        "truncated": float(outcome.status is OutcomeStatus.TRUNCATED),
        **{f"component/{name}": parts.get(name, float("nan")) for name in identity.components},
    }


async def _attempt(run: EnvironmentRun, identity: RowIdentity, answer: str) -> Outcome:
    task = run.task(dict(identity.row))
    episode = await run.episode(task, seed=0, rollout_index=0, max_turns=1)
    async with episode:
        step = await episode.start()
        if step.outcome is None:
            step = await episode.advance([assistant_message(answer)])
    if step.outcome is None:
        raise asyncio.InvalidStateError("an episode of one turn did not end with it")
    return step.outcome


@cache
def _environment_run(environment: str, overrides: tuple[str, ...]) -> EnvironmentRun:
    entry = load_environment(environment)
    refuse_unsupported(Adapter.VERL_REWARD, entry.environment)
    return EnvironmentRun(entry, config=entry.config(overrides))
