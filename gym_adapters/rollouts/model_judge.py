"""Judges that are models: an environment's ``judge=<model spec>`` opens one for the run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.episode import open_episode_resources
from gym_adapters.generation.chat import ChatSession
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.rollouts.models import model_schemes, model_source
from gym_adapters.task import Task
from gym_adapters.verifiers.judge import ChatJudge, Judge, imported_judge, judge_opener

__all__ = ["JUDGE_SAMPLING", "model_judge", "open_run_resources"]

JUDGE_SAMPLING = SamplingParams(max_tokens=4096, temperature=0.0)
"""A verdict is to be the same each time; the budget leaves room for thinking before it."""


class Judging(Environment[Task]):
    """What a model source is told that its model is for."""

    name = "judge"


@asynccontextmanager
async def model_judge(spec: str, *, seed: int = 0) -> AsyncIterator[Judge]:
    """The model that `spec` names, as a judge.

    Args:
        spec: As for `model_source`; anything that names no kind of model is ``module:name``, a
            judge or an async function of the caller's own.
        seed: Of sampling, for models that take one.

    Raises:
        UsageError: If there is no such model or judge.
    """
    if spec.partition(":")[0] not in model_schemes():
        yield imported_judge(spec)
        return
    task = Task.from_row({"responses_create_params": {"input": "judge"}})
    async with model_source(spec, seed=seed) as source:

        def open_session(name: str) -> ChatSession:
            model = source.for_rollout(Judging, task)
            return model.open(tools=[], sampling=JUDGE_SAMPLING, request_id=name)

        yield ChatJudge(open_session)


@asynccontextmanager
async def open_run_resources(
    environment: type[Environment[Any]], config: EnvironmentConfig | None = None, *, seed: int = 0
) -> AsyncIterator[Any]:
    """The resources of one run, where judges may be models.

    Args:
        environment: Its class.
        config: Its settings, by default the class's own.
        seed: Of judges that sample with one.
    """
    token = judge_opener.set(partial(model_judge, seed=seed))
    try:
        opening = open_episode_resources(environment, config)
        resources = await opening.__aenter__()
    finally:
        # Before the body: it may be left from another context, where a token is worth nothing.
        judge_opener.reset(token)
    async with AsyncExitStack() as stack:
        stack.push_async_exit(opening)
        yield resources
