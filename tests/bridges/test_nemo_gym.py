"""The client of NeMo Gym's servers, with our own server as the peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from aiohttp import web

from gym_adapters import (
    Environment,
    EnvironmentEntry,
    Episode,
    JudgeError,
    Reward,
    Task,
    Transcript,
    tool,
)
from gym_adapters.bridges.nemo_gym import NemoGymConfig, NemoGymResources
from gym_adapters.episode import open_episode_resources
from gym_adapters.errors import InvalidConfig
from gym_adapters.items import assistant_message, function_call, reasoning
from gym_adapters.rollouts import collect
from gym_adapters.serving.environment_app import environment_app
from gym_adapters.serving.http_server import Listener, serving
from gym_adapters.testing import ScriptedChatModel


class CounterTask(Task):
    initial_count: int


class Counter(Environment[CounterTask]):
    live = 0

    async def start(self) -> None:
        type(self).live += 1
        self.count = self.task.initial_count

    @tool
    async def add(self, n: int) -> dict[str, int]:
        """Add."""
        if n == 13:
            raise JudgeError("out of order")
        self.count += n
        return {"count": self.count}

    async def verify(self, transcript: Transcript) -> Reward:
        if transcript.final_text == "crash":
            raise ValueError("a bug")
        return Reward(float(self.count), {"count": float(self.count)}, {"said": "ok"})

    async def close(self) -> None:
        type(self).live -= 1


TOOLS = [Counter.class_tools["add"].declaration()]
ROW = {"responses_create_params": {"input": "x", "tools": TOOLS}, "initial_count": 1}


@asynccontextmanager
async def peer(**options: Any) -> AsyncIterator[str]:
    entries = [EnvironmentEntry("counter", Counter, None)]
    async with environment_app(entries) as (app, servers), serving(app, **options) as url:
        yield url
        assert len(servers[0].sessions) == 0


async def attempt(url: str, *turns: Any, row: Any = ROW, **options: Any) -> Episode:
    config = NemoGymConfig(url=url, **options)
    async with (
        open_episode_resources(NemoGymResources, config) as client,
        Episode(NemoGymResources, Task.from_row(row), config=config, resources=client) as episode,
    ):
        step = await episode.start()
        for turn in turns:
            if step.done:
                break
            step = await episode.advance(turn)
    return episode


def add(arguments: str) -> list[Any]:
    return [reasoning("hm"), function_call("add", arguments, "c")]


DONE = [assistant_message("done")]


async def test_over_http_is_as_in_process() -> None:
    turns = [add('{"n": 2}'), add('{"n": "x"}'), DONE]
    async with peer() as url:
        remote = await attempt(url, *turns)
    async with Episode(Counter, CounterTask.from_row(ROW)) as local:
        await local.start()
        for turn in turns:
            await local.advance(turn)
    assert remote.output == local.output
    assert remote.outcome == local.outcome
    assert Counter.live == 0


async def test_collect_runs_over_http() -> None:
    model = ScriptedChatModel([add('{"n": 2}'), DONE])
    async with peer() as url:
        runs = collect(
            NemoGymResources,
            [Task.from_row(ROW)],
            model,
            num_repeats=20,
            config=NemoGymConfig(url=url),
        )
        assert [rollout.reward async for rollout in runs] == [3.0] * 20


@pytest.mark.parametrize(
    ("turn", "boundary"),
    [([assistant_message("crash")], "verifier"), (add('{"n": 13}'), "judge")],
)
async def test_a_failure_keeps_its_boundary_and_has_no_reward(turn: Any, boundary: str) -> None:
    async with peer() as url:
        episode = await attempt(url, turn)
    assert episode.outcome.reward is None
    assert episode.outcome.failure.boundary == boundary
    assert Counter.live == 0


async def test_a_row_that_the_server_refuses_is_told() -> None:
    async with peer() as url:
        episode = await attempt(url, row={"responses_create_params": {"input": "x"}})
    assert "initial_count" in episode.outcome.failure.message


async def test_a_tool_with_the_name_of_an_endpoint_is_refused() -> None:
    declared = {"type": "function", "name": "verify", "parameters": {}}
    row = {"responses_create_params": {"input": "x", "tools": [declared]}, "initial_count": 1}

    async def handle(request: web.Request) -> web.Response:
        return web.json_response({})

    async with answering(handle) as url:
        episode = await attempt(url, row=row)
    assert "verify" in episode.outcome.failure.message


async def test_a_server_that_is_not_there_is_a_failure() -> None:
    episode = await attempt("http://127.0.0.1:9")
    assert episode.outcome.failure.boundary == "environment"


async def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_TOKEN", "s3cret")
    async with peer(listener=Listener(token="s3cret")) as url:
        refused = await attempt(url, DONE)
        assert "401" in refused.outcome.failure.message
        good = await attempt(url, DONE, token_variable="PEER_TOKEN")
        assert good.outcome.reward.value == 1.0
        with pytest.raises(InvalidConfig, match="NO_SUCH"):
            await attempt(url, token_variable="NO_SUCH")


@asynccontextmanager
async def answering(handle: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_cookies_are_carried_and_nothing_is_asked_twice() -> None:
    asked: list[tuple[str, str | None]] = []

    async def handle(request: web.Request) -> web.Response:
        path = request.match_info["path"]
        asked.append((path, request.cookies.get("s")))
        if path == "verify":
            return web.json_response({"detail": "Internal Server Error"}, status=500)
        answer = web.json_response({})
        answer.set_cookie("s", f"after-{path}")
        return answer

    async with answering(handle) as url:
        episode = await attempt(url, add("{}"), DONE)
    assert episode.outcome.failure.boundary == "verifier"
    assert asked == [("seed_session", None), ("add", "after-seed_session"), ("verify", "after-add")]


@pytest.mark.parametrize("body", [b"no json", b"[]", b"{}", b'{"reward": "high"}', b"null"])
async def test_an_answer_without_a_reward_is_no_reward(body: bytes) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body)

    async with answering(handle) as url:
        episode = await attempt(url, DONE)
    assert episode.outcome.reward is None
    assert episode.outcome.failure.boundary == "verifier"


async def test_an_answer_that_is_too_large_is_a_failure() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 10_000)

    async with answering(handle) as url:
        episode = await attempt(url, DONE, max_bytes=1000)
    assert "too many bytes" in episode.outcome.failure.message


async def test_a_prompt_that_the_server_gives_replaces_the_rows() -> None:
    async def handle(request: web.Request) -> web.Response:
        told = [{"role": "user", "content": "from the server"}]
        declared = {"type": "function", "name": "look", "parameters": {"type": "object"}}
        return web.json_response({"obs": told, "tools": [declared], "reward": 1.0})

    async with answering(handle) as url:
        episode = await attempt(url, DONE)
    assert episode.prompt[0]["content"] == "from the server"
    assert [each["name"] for each in episode.tools] == ["look"]
