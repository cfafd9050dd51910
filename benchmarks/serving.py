"""CPU seconds that one call costs, client and server together, beside a floor without us.

Both run in this process and on one event loop, so process time is all that is spent. The floors do
the same transport and the same JSON, and nothing else. The last line is a whole attempt with our
client (`NemoGymResources`): seeding, a tool call, the verdict and the end, divided by the four.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from fastapi import FastAPI, Request, Response

from gym_adapters import Environment, EnvironmentEntry, Episode, Task, Transcript, tool
from gym_adapters.bridges.nemo_gym import NemoGymConfig, NemoGymResources
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import assistant_message, function_call
from gym_adapters.serving.environment_app import environment_app
from gym_adapters.serving.http_server import bare_app, serving


class Exact(Environment[Task]):
    @tool
    async def note(self, text: str) -> str:
        """Take a note."""
        return text

    async def verify(self, transcript: Transcript) -> float:
        return float(transcript.final_text == "42")


def request_body(size: int) -> dict[str, Any]:
    part = {"type": "output_text", "text": "42", "annotations": []}
    thinking = {"type": "reasoning_text", "text": "x" * size}
    output = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [thinking]},
        {"type": "message", "role": "assistant", "content": [part], "id": "msg_1"},
    ]
    row = {"responses_create_params": {"input": "What is it?"}, "expected": "42"}
    return {**row, "response": {"id": "resp_1", "object": "response", "output": output}}


@asynccontextmanager
async def fastapi_floor() -> AsyncIterator[str]:
    app: FastAPI = bare_app()

    async def verify(request: Request) -> Response:
        body = orjson.loads(await request.body())
        return Response(orjson.dumps({**body, "reward": 1.0}), media_type="application/json")

    app.add_route("/verify", verify, methods=["POST"])
    async with serving(app) as url:
        yield url


@asynccontextmanager
async def aiohttp_floor() -> AsyncIterator[str]:
    async def verify(request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        return web.Response(
            body=orjson.dumps({**body, "reward": 1.0}), content_type="application/json"
        )

    app = web.Application()
    app.router.add_post("/verify", verify)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def ours() -> AsyncIterator[str]:
    async with (
        environment_app([EnvironmentEntry("exact", Exact, None)]) as (app, _),
        serving(app) as url,
    ):
        yield url


async def cpu_per_call(
    post: Callable[[], Awaitable[None]], calls: int, concurrency: int
) -> tuple[float, float]:
    """CPU and wall seconds a call."""

    async def some(count: int) -> None:
        for _ in range(count):
            await post()

    await some(20)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(some(calls // concurrency) for _ in range(concurrency)))
    done = calls // concurrency * concurrency
    return (time.process_time() - cpu) / done, (time.perf_counter() - wall) / done


async def measure(url: str, body: dict[str, Any], *, seed: bool, calls: int) -> tuple[float, float]:
    row = orjson.dumps({key: body[key] for key in body if key != "response"})
    data = orjson.dumps(body)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:

        async def post() -> None:
            cookies: dict[str, str] = {}
            if seed:
                async with client.post(f"{url}/seed_session", data=row) as answer:
                    cookies = {k: m.value for k, m in answer.cookies.items()}
            async with client.post(f"{url}/verify", data=data, cookies=cookies) as answer:
                assert orjson.loads(await answer.read())["reward"] == 1.0

        return await cpu_per_call(post, calls, 32)


async def measure_client(url: str, *, size: int, calls: int) -> tuple[float, float]:
    """The same for a call of our own client."""
    tools = [each.declaration() for each in Exact.class_tools.values()]
    row = {"responses_create_params": {"input": "What is it?", "tools": tools}, "expected": "42"}
    task, config = Task.from_row(row), NemoGymConfig(url=url)
    turn = [function_call("note", orjson.dumps({"text": "x" * size}).decode(), "c1")]
    async with open_episode_resources(NemoGymResources, config) as client:

        async def attempt() -> None:
            async with Episode(NemoGymResources, task, config=config, resources=client) as episode:
                await episode.start()
                await episode.advance(turn)
                step = await episode.advance([assistant_message("42")])
                assert step.outcome is not None
                assert step.outcome.reward is not None
                assert step.outcome.reward.value == 1.0

        cpu, wall = await cpu_per_call(attempt, calls // 4, 32)
    return cpu / 4, wall / 4


async def main(calls: int, size: int) -> None:
    body = request_body(size)
    kinds: list[tuple[str, Any, bool]] = [
        ("bare aiohttp", aiohttp_floor, False),
        ("bare FastAPI and uvicorn", fastapi_floor, False),
        ("/verify without a session", ours, False),
        ("/seed_session and /verify", ours, True),
    ]
    floor = 0.0
    print(f"{calls} calls, 32 at once, {len(orjson.dumps(body))} bytes each way")
    for name, server, seed in kinds:
        async with server() as url:
            cpu, wall = await measure(url, body, seed=seed, calls=calls)
        floor = floor or cpu
        print(f"{name:28} {cpu * 1e6:7.0f} us CPU  {wall * 1e6:7.0f} us wall  {cpu / floor:5.1f}x")
    async with ours() as url:
        cpu, wall = await measure_client(url, size=size, calls=calls)
    name = "a call of our own client"
    print(f"{name:28} {cpu * 1e6:7.0f} us CPU  {wall * 1e6:7.0f} us wall  {cpu / floor:5.1f}x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--size", type=int, default=4000, help="bytes of thinking in the response")
    given = parser.parse_args()
    asyncio.run(main(given.calls, given.size))
