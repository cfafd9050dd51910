"""A session's tools over MCP, called by the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gym_adapters import Environment, JudgeError, Task, Transcript, tool

mcp = pytest.importorskip("mcp", reason="needs the official MCP client")
if not hasattr(mcp, "Client"):
    pytest.skip("needs version 2 of the official MCP client", allow_module_level=True)


class Box(Environment[Task]):
    async def start(self) -> None:
        self.held: list[str] = []

    @tool
    async def put(self, thing: str, times: int = 1) -> dict[str, int]:
        """Put a thing into the box.

        Args:
            thing: What to put.
            times: How often.
        """
        self.held += [thing] * times
        return {"held": len(self.held)}

    @tool
    async def break_down(self) -> str:
        """Fail for a reason that is not the model's."""
        raise JudgeError("the judge is out")

    async def verify(self, transcript: Transcript) -> float:
        return float(len(self.held))


class Crate(Box):
    """Another."""


ROW = {"responses_create_params": {"input": "fill the box"}}


async def seeded(peer: Any, path: str = "") -> str:
    await peer.post(f"{path}/seed_session", ROW)
    return str(peer.last.headers["X-NeMo-Gym-Session-Token"])


@asynccontextmanager
async def client_of(url: str, session: str) -> AsyncIterator[Any]:
    from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

    async with (
        create_mcp_http_client(headers={"X-NeMo-Gym-Session-Token": session}) as http,
        mcp.Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        yield client


async def test_the_official_client_calls_the_tools_of_its_own_session(serve: Any) -> None:
    async with serve(Box, cookies=False) as peer:
        one, other = await seeded(peer), await seeded(peer)
        async with client_of(peer.url, one) as first, client_of(peer.url, other) as second:
            listed = (await first.list_tools()).tools
            assert [each.name for each in listed] == ["put", "break_down"]
            assert listed[0].description == "Put a thing into the box."
            assert listed[0].input_schema["properties"]["thing"]["type"] == "string"
            held = await first.call_tool("put", {"thing": "a", "times": 3})
            assert [part.text for part in held.content] == ['{"held":3}']
            assert not held.is_error
            held = await second.call_tool("put", {"thing": "b"})
            assert held.content[0].text == '{"held":1}'
        headers = {"X-NeMo-Gym-Session-Token": one}
        body = {**ROW, "response": {"output": []}}
        assert (await peer.post("/verify", body, headers=headers))[1]["reward"] == 3.0


async def test_what_a_model_gets_wrong_is_a_result_it_can_read(serve: Any) -> None:
    async with (
        serve(Box, cookies=False) as peer,
        client_of(peer.url, await seeded(peer)) as client,
    ):
        unknown = await client.session.call_tool("verify", {})
        assert unknown.is_error
        assert json.loads(unknown.content[0].text)["error"]["type"] == "unknown_tool"
        bad = await client.call_tool("put", {"thing": "a", "times": "often"})
        assert json.loads(bad.content[0].text)["error"]["type"] == "invalid_arguments"


async def test_a_tool_that_is_down_is_an_error_and_leaves_no_verdict(serve: Any) -> None:
    async with serve(Box, cookies=False) as peer:
        session = await seeded(peer)
        async with client_of(peer.url, session) as client:
            with pytest.raises(mcp.MCPError, match="the judge is out"):
                await client.call_tool("break_down", {})
        headers = {"X-NeMo-Gym-Session-Token": session}
        body = {**ROW, "response": {"output": []}}
        assert (await peer.post("/verify", body, headers=headers))[0] == 503


async def test_without_the_session_in_the_header_nothing_is_answered(serve: Any) -> None:
    """A cookie does not do: with it, agents post what their model took for a tool."""
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with serve(Box) as peer:
        assert (await peer.post("/mcp", ping))[0] == 404
        session = await seeded(peer)
        assert (await peer.post("/mcp", ping))[1]["error"]["type"] == "unknown_tool"
        wrong = {"X-NeMo-Gym-Session-Token": session[:-1]}
        assert (await peer.post("/mcp", ping, headers=wrong))[0] == 404


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ([], -32600),
        ({"id": 1, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": [1], "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 1}}, -32602),
    ],
)
async def test_malformed_messages_are_told(serve: Any, message: Any, code: int) -> None:
    async with serve(Box, cookies=False) as peer:
        headers = {"X-NeMo-Gym-Session-Token": await seeded(peer)}
        status, answer = await peer.post("/mcp", message, headers=headers)
        assert (status, answer["error"]["code"]) == (200, code)


async def test_a_notification_gets_no_answer(serve: Any) -> None:
    async with serve(Box, cookies=False) as peer:
        headers = {"X-NeMo-Gym-Session-Token": await seeded(peer)}
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert await peer.post("/mcp", note, headers=headers) == (202, "")


async def test_seeding_tells_the_way_where_it_is_asked_to(serve: Any) -> None:
    async with serve(Box, cookies=False) as peer:
        assert (await peer.post("/seed_session", ROW))[1] == {}
    async with serve(Box, Crate, cookies=False, expose_tools_over_mcp=True) as peer:
        _, told = await peer.post("/box/seed_session", ROW)
        assert told["mcp"] == {
            "server_name": "box",
            "url_path": "/box/mcp",
            "transport": "http",
            "headers": {"X-NeMo-Gym-Session-Token": peer.last.headers["X-NeMo-Gym-Session-Token"]},
        }
