"""An environment's judge may be a model, in every kind of run, and its failures are the judge's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from gym_adapters import (
    Boundary,
    Environment,
    EnvironmentConfig,
    InvalidConfig,
    Rollout,
    Task,
    Transcript,
)
from gym_adapters.items import Item, assistant_message, user_message
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollouts import collect
from gym_adapters.rollouts.model_judge import model_judge, open_run_resources
from gym_adapters.rollouts.replay import reverify
from gym_adapters.verifiers.judge import (
    Judge,
    JudgeRequest,
    Labels,
    ask_equivalence,
    judge_opener,
    open_judge,
)


class JudgedConfig(EnvironmentConfig):
    """Who judges."""

    judge: str = "exact"


class Judged(Environment[Task]):
    """A judge says whether the answer is a yes."""

    Config = JudgedConfig
    config: JudgedConfig
    resources: Judge

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Judge]:
        assert isinstance(config, JudgedConfig)
        async with open_judge(config.judge) as judge:
            yield judge

    async def verify(self, transcript: Transcript) -> float:
        answer = transcript.final_text
        request = JudgeRequest((user_message(f"is it yes: {answer}"),), "yes", answer)
        return float((await ask_equivalence(self.resources, request, Labels(), timeout=60)).equal)

    @classmethod
    def gold_turns(cls, task: Task) -> Sequence[Sequence[Item]]:
        return [[assistant_message("yes")]]


ENTRY = EnvironmentEntry("Judged", Judged, None)
TASKS = [Task.from_row({"responses_create_params": {"input": f"{n}"}}) for n in range(4)]


async def test_a_judge_that_is_an_endpoint_gives_the_verdict() -> None:
    asked: list[dict[str, object]] = []

    async def verdict(request: web.Request) -> web.Response:
        asked.append(orjson.loads(await request.read()))
        return answer("so [[A=B]]")

    async with serving(verdict) as url:
        rollouts = await judged_by(f"openai:judge@{url}")
    assert [rollout.reward for rollout in rollouts] == [1.0] * 4
    assert {body["model"] for body in asked} == {"judge"}
    assert [body["messages"] for body in asked] == [
        [{"role": "user", "content": "is it yes: yes"}]
    ] * 4
    assert {body["temperature"] for body in asked} == {0.0}


@pytest.mark.parametrize("status", [400, 401])
async def test_a_judge_that_fails_leaves_rollouts_unscored_and_itself_at_fault(
    status: int,
) -> None:
    async def broken(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=status)

    async with serving(broken) as url:
        rollouts = await judged_by(f"openai:judge@{url}")
    assert [rollout.reward for rollout in rollouts] == [None] * 4
    failures = [rollout.outcome.failure for rollout in rollouts]
    assert {failure.boundary for failure in failures if failure} == {Boundary.JUDGE}


async def test_a_judge_without_a_verdict_leaves_the_rollout_unscored() -> None:
    rollouts = await judged_by("scripted:empty")
    failures = [rollout.outcome.failure for rollout in rollouts]
    assert {failure.boundary for failure in failures if failure} == {Boundary.JUDGE}
    assert len(failures) == 4


async def test_what_a_judge_missed_is_made_up_for_by_another() -> None:
    missed = await judged_by("scripted:empty")

    async def verdict(request: web.Request) -> web.Response:
        return answer("[[A!=B]]")

    async with serving(verdict) as url:
        config = JudgedConfig(judge=f"openai:judge@{url}")
        again = [each async for each in reverify(ENTRY, missed, config=config)]
    assert [rollout.reward for rollout in again] == [0.0] * 4


async def test_a_judge_that_does_not_exist_ends_the_run_before_it_begins() -> None:
    with pytest.raises(InvalidConfig, match="NAME@URL"):
        await judged_by("openai:judge")
    with pytest.raises(InvalidConfig, match="no model can be opened here"):
        await judged_by("not a judge")


async def test_a_judge_of_the_callers_own_stays_one() -> None:
    async with model_judge(f"{__name__}:say_equal") as judge:
        assert await judge.ask(JudgeRequest((), "a", "b")) == "[[A=B]]"


async def say_equal(items: Sequence[Item]) -> str:
    return "[[A=B]]"


async def test_the_opener_is_there_while_resources_open_and_gone_after() -> None:
    async with open_run_resources(Judged, JudgedConfig(judge="scripted:empty")):
        assert judge_opener.get() is None
    opening = open_run_resources(Judged, JudgedConfig(judge="scripted:empty"))
    await asyncio.create_task(opening.__aenter__())
    await opening.__aexit__(None, None, None)


def answer(text: str) -> web.Response:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return web.json_response({"choices": [choice]})


async def judged_by(judge: str) -> list[Rollout]:
    config = JudgedConfig(judge=judge)
    return [each async for each in collect(ENTRY, TASKS, "scripted:gold", config=config)]


@asynccontextmanager
async def serving(handler: object) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
