"""Environments as OpenEnv servers, stepped over a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

pytest.importorskip("websockets", reason="needs the extra openenv")

from gym_adapters import Environment, EnvironmentEntry, Reward, Task, Transcript, tool
from gym_adapters.serving.http_server import Listener, serving
from gym_adapters.serving.openenv_server import OpenEnvServer, openenv_app
from gym_adapters.serving.sessions import SessionLimits


class Shop(Environment[Task]):
    live = 0

    async def start(self) -> None:
        type(self).live += 1
        self.bought: list[str] = []

    @tool
    async def buy(self, thing: str) -> str:
        """Buy a thing."""
        self.bought.append(thing)
        return f"{len(self.bought)} things"

    async def reply(self, message: str) -> str | None:
        return None if message == "done" else f"you said {message}"

    async def verify(self, transcript: Transcript) -> Reward:
        if "bomb" in self.bought:
            raise ValueError("the verifier has a bug")
        value = float(len(self.bought))
        return Reward(value, {"things": value}, {"bought": self.bought})

    async def close(self) -> None:
        type(self).live -= 1


ROWS = [{"responses_create_params": {"input": f"shop {n}"}} for n in range(3)]


@asynccontextmanager
async def shop(
    listener: Listener | None = None, **options: Any
) -> AsyncIterator[tuple[str, aiohttp.ClientSession, OpenEnvServer]]:
    entry = EnvironmentEntry("shop", Shop, None)
    async with (
        openenv_app(entry, rows=ROWS, **options) as (app, server),
        serving(app, listener, websockets=True) as url,
        aiohttp.ClientSession() as http,
    ):
        yield url, http, server
    assert Shop.live == 0


async def ask(socket: Any, kind: str, **data: Any) -> Any:
    await socket.send_json({"type": kind, "data": data})
    return await asyncio.wait_for(socket.receive_json(), 60)


async def test_an_attempt_is_stepped_to_its_reward() -> None:
    async with shop() as (url, http, _), http.ws_connect(f"{url}/ws") as socket:
        told = (await ask(socket, "reset", seed=4, episode_id="e1"))["data"]
        assert told["observation"]["text"] == "shop 1"
        assert [each["name"] for each in told["observation"]["tools"]] == ["buy"]
        assert (told["reward"], told["done"]) == (None, False)
        tools = (await ask(socket, "step", type="list_tools"))["data"]["observation"]["tools"]
        assert tools[0]["input_schema"]["required"] == ["thing"]
        arguments = {"thing": "hat"}
        told = await ask(socket, "step", type="call_tool", tool_name="buy", arguments=arguments)
        assert told["data"]["observation"]["result"] == "1 things"
        told = (await ask(socket, "step", message="hello"))["data"]
        assert told["observation"]["text"] == "you said hello"
        state = await ask(socket, "state")
        assert state == {"type": "state", "data": {"episode_id": "e1", "step_count": 2}}
        told = (await ask(socket, "step", message="done"))["data"]
        assert (told["reward"], told["done"]) == (1.0, True)
        assert told["metadata"]["components"] == {"things": 1.0}
        again = await ask(socket, "step", message="more")
        assert again["data"]["code"] == "EXECUTION_ERROR"


async def test_resets_take_the_rows_in_turn_or_their_own() -> None:
    async with shop() as (url, http, _), http.ws_connect(f"{url}/ws") as socket:
        texts = [(await ask(socket, "reset"))["data"]["observation"]["text"] for _ in range(4)]
        assert texts == ["shop 0", "shop 1", "shop 2", "shop 0"]
        own = {"responses_create_params": {"input": "mine"}}
        assert (await ask(socket, "reset", row=own))["data"]["observation"]["text"] == "mine"
        assert Shop.live == 1


async def test_a_failed_attempt_is_an_error_and_no_reward() -> None:
    async with shop() as (url, http, _), http.ws_connect(f"{url}/ws") as socket:
        await ask(socket, "reset")
        await ask(socket, "step", type="call_tool", tool_name="buy", arguments={"thing": "bomb"})
        told = await ask(socket, "step", message="done")
        assert told["type"] == "error"
        assert told["data"]["code"] == "EXECUTION_ERROR"
        assert told["data"]["message"].startswith("verifier: ")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[]", "UNKNOWN_TYPE"),
        ('{"type": "mcp", "data": {}}', "UNKNOWN_TYPE"),
        ('{"type": "reset", "data": {"row": 1}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"row": {"responses_create_params": 1}}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": []}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {}}', "EXECUTION_ERROR"),
    ],
)
async def test_malformed_messages_are_told_and_the_connection_lives(raw: str, code: str) -> None:
    async with shop() as (url, http, _), http.ws_connect(f"{url}/ws") as socket:
        await socket.send_str(raw)
        assert (await socket.receive_json())["data"]["code"] == code
        assert (await ask(socket, "reset"))["type"] == "observation"
        assert (await ask(socket, "step", action=1))["data"]["code"] == "VALIDATION_ERROR"
        assert (await ask(socket, "step", items=[{"type": 3}]))["data"]["code"] == (
            "VALIDATION_ERROR"
        )


async def test_a_client_that_vanishes_leaves_nothing() -> None:
    async with shop() as (url, http, server):
        sockets = [await http.ws_connect(f"{url}/ws") for _ in range(20)]
        for socket in sockets:
            await ask(socket, "reset")
        assert (server.under_way, Shop.live) == (20, 20)
        for socket in sockets:
            socket._response.connection.transport.abort()
        async with asyncio.timeout(60):
            while server.under_way or Shop.live:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert server.counts.closed == 20


async def test_connections_are_bounded_and_expire() -> None:
    async with shop(sessions=SessionLimits(max_sessions=1)) as (url, http, server):
        async with http.ws_connect(f"{url}/ws") as first:
            await ask(first, "reset")
            async with http.ws_connect(f"{url}/ws") as second:
                told = await second.receive_json()
                assert told["data"]["code"] == "CAPACITY_REACHED"
            # From its next answer on, the first may say nothing for as long as this.
            server._limits = SessionLimits(max_sessions=1, idle_timeout=0.1)
            await ask(first, "state")
            assert (await asyncio.wait_for(first.receive(), 60)).type is aiohttp.WSMsgType.CLOSE
        async with asyncio.timeout(60):
            while server.under_way:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert server.counts.expired == 1


async def test_other_interfaces_need_a_token() -> None:
    async with shop(Listener(token="secret")) as (url, http, _):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await http.ws_connect(f"{url}/ws")
        headers = {"Authorization": "Bearer secret"}
        async with http.ws_connect(f"{url}/ws", headers=headers) as socket:
            assert (await ask(socket, "reset"))["type"] == "observation"


async def test_a_page_of_another_site_can_not_connect() -> None:
    async with shop() as (url, http, server):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await http.ws_connect(f"{url}/ws", origin="https://evil.example")
        async with http.ws_connect(f"{url}/ws", origin="http://localhost:3000") as socket:
            assert (await ask(socket, "reset"))["type"] == "observation"
        assert server.counts.opened == 1
