"""The client of NeMo Gym's gymnasium-style servers, with our own server as the peer."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from aiohttp import web

from gym_adapters import Environment, EnvironmentEntry, Episode, Task, Transcript, tool
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.bridges.nemo_gym import NemoGymConfig
from gym_adapters.bridges.nemo_gym_steps import NemoGymSteps
from gym_adapters.episode import EpisodeLimits, open_episode_resources
from gym_adapters.items import function_call
from gym_adapters.rollout import Rollout
from gym_adapters.serving.environment_app import environment_app
from gym_adapters.serving.http_server import serving
from gym_adapters.testing import ScriptedChatModel


class Quiz(Environment[Task]):
    live = 0

    async def start(self) -> None:
        type(self).live += 1
        self.looked: list[str] = []

    @tool
    async def look_up(self, word: str) -> str:
        """Look a word up."""
        self.looked.append(word)
        return f"{word} is {len(word)} letters long"

    async def reply(self, message: str) -> str | None:
        return None if message == "bye" else f"no, {message} is wrong"

    async def verify(self, transcript: Transcript) -> float:
        if transcript.final_text == "crash":
            raise ValueError("a bug")
        return float(len(self.looked)) / 4

    async def close(self) -> None:
        type(self).live -= 1


ROW = {
    "responses_create_params": {
        "input": "guess",
        "tools": [each.declaration() for each in Quiz.class_tools.values()],
    }
}
LOOK = [function_call("look_up", '{"word": "cat"}', "c1")]


async def played(url: str, *turns: Any, limits: EpisodeLimits | None = None) -> Rollout:
    config = NemoGymConfig(url=url)
    async with open_episode_resources(NemoGymSteps, config) as client:
        task = Task.from_row(ROW)
        episode = Episode(NemoGymSteps, task, config=config, resources=client, limits=limits)
        return await ToolAgent().run(episode, ScriptedChatModel(list(turns)))


async def over_http(*turns: Any, limits: EpisodeLimits | None = None) -> Rollout:
    entry = EnvironmentEntry("quiz", Quiz, None)
    async with environment_app([entry]) as (app, servers), serving(app) as url:
        rollout = await played(url, *turns, limits=limits)
        assert len(servers[0].sessions) == 0
    assert Quiz.live == 0
    return rollout


async def test_over_http_is_as_in_process() -> None:
    turns = (LOOK, "dog", "bye")
    rollout = await over_http(*turns)
    local = await ToolAgent().run(Episode(Quiz, Task.from_row(ROW)), ScriptedChatModel(list(turns)))
    assert rollout.output == local.output
    assert rollout.prompt == local.prompt
    assert rollout.reward == local.reward == 0.25
    assert rollout.outcome.stop_reason == local.outcome.stop_reason


async def test_a_verdict_that_fails_is_no_reward() -> None:
    rollout = await over_http(LOOK, "crash", "bye")
    assert rollout.reward == 0.25
    rollout = await over_http(LOOK, "crash", limits=EpisodeLimits(max_turns=1))
    assert rollout.outcome.status.value == "truncated"


def server_of(*steps: Any, first: Any = None) -> web.Application:
    """Gives these answers to steps, in turn."""
    script = iter(steps)

    async def reset(request: web.Request) -> web.Response:
        answer = web.json_response({"observation": first, "info": {}})
        answer.set_cookie("session", "s1")
        return answer

    async def step(request: web.Request) -> web.Response:
        assert request.cookies["session"] == "s1"
        answer = next(script)
        return web.Response(text=answer) if isinstance(answer, str) else web.json_response(answer)

    app = web.Application()
    app.router.add_post("/reset", reset)
    app.router.add_post("/step", step)
    return app


async def against(app: web.Application, *turns: Any) -> Rollout:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        return await played(f"http://127.0.0.1:{runner.addresses[0][1]}", *turns)
    finally:
        await runner.cleanup()


def seen(observation: Any, reward: Any, *, done: bool = False, **info: Any) -> dict[str, Any]:
    told = {"observation": observation, "reward": reward, "truncated": False, "info": info}
    return {**told, "terminated": done}


async def test_rewards_are_summed_and_observations_read() -> None:
    app = server_of(seen("on", 0.5), seen(None, 1.0, done=True), first="begin")
    rollout = await against(app, "a", "b")
    assert [item["content"] for item in rollout.prompt] == ["guess", "begin"]
    assert rollout.output[1]["content"] == "on"
    assert rollout.reward == 1.5


async def test_a_call_gets_its_own_output() -> None:
    outputs = [{"call_id": "other", "output": "no"}, {"call_id": "call_0", "output": "yes"}]
    app = server_of(seen(None, 0.0, tool_outputs=outputs), seen(None, 1, done=True))
    rollout = await against(app, LOOK, "b")
    assert rollout.output[1]["output"] == "yes"
    assert rollout.reward == 1.0


@pytest.mark.parametrize("answer", ["[]", "nonsense", '{"observation": "x", "reward": null}'])
async def test_an_answer_that_is_no_step_is_a_failure(answer: str) -> None:
    rollout = await against(server_of(answer), "a")
    assert rollout.outcome.failure is not None
    assert rollout.outcome.failure.boundary.value == "environment"
