"""Connections never take more files than the process may open."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gym_adapters.generation import connections as limits
from gym_adapters.generation.connections import (
    MOST,
    OTHER_FILES,
    connection_limit,
    connections,
    raise_file_limit,
)

resource = pytest.importorskip("resource", reason="this system counts no files by process")

LOWERED = """
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (260, hard))
"""

# 300 conversations with an endpoint in the same process, so that a connection is two files.
TALK = """
import asyncio
from contextlib import AsyncExitStack
from gym_adapters.generation.openai_endpoint import OpenAIEndpoint
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import user_message

BODY = b'{"choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}'
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
asked = now = most = 0

async def answer(reader, writer):
    global asked, now, most
    now += 1
    most = max(most, now)
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        size = head.lower().partition(b"content-length:")[2].partition(b"\\r")[0]
        await reader.readexactly(int(size))
        asked += 1
        await asyncio.sleep(0.02)
        writer.write(HEAD % len(BODY) + BODY)

async def talk():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with AsyncExitStack() as stack:
        address = f"http://127.0.0.1:{port}/v1"
        endpoints = [
            await stack.enter_async_context(OpenAIEndpoint("m", address))
            for _ in range(int(sys.argv[1]))
        ]
        async def one(number):
            endpoint = endpoints[number % len(endpoints)]
            session = endpoint.open(tools=[], sampling=SamplingParams(), request_id=str(number))
            await session.respond([user_message("hi")])
        await asyncio.gather(*(one(number) for number in range(300)))

asyncio.get_event_loop_policy().new_event_loop().run_until_complete(talk())
print(asked, most)
"""


def said(code: str, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOWERED + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


@pytest.mark.parametrize("endpoints", [1, 3])
def test_conversations_wait_for_a_connection_where_files_are_few(endpoints: int) -> None:
    asked, most = map(int, said(TALK, endpoints))
    assert asked == 300  # none was asked again
    assert most == 260 - OTHER_FILES


async def test_a_pool_is_shared_until_its_last_user_is_done_and_one_of_ones_own_is_not() -> None:
    async with connections() as one:
        async with connections() as two, connections(3) as own:
            assert one is two
            assert own is not one
            assert own.limit == 3
        assert own.closed
        assert not one.closed
    assert one.closed
    async with connections() as later:
        assert not later.closed


def test_a_pool_takes_no_more_than_was_asked_for() -> None:
    assert connection_limit(4) == 4
    assert 4 < connection_limit() <= MOST


def test_commands_raise_the_limit_of_the_process() -> None:
    code = """
sys.argv = ["gym-adapters", "envs", "--help"]
from gym_adapters.cli import main
try:
    main()
except SystemExit:
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    allowed = MOST + OTHER_FILES if hard == resource.RLIM_INFINITY else hard
    assert int(said(code)[-1]) == min(MOST + OTHER_FILES, allowed)


@pytest.mark.parametrize("error", [ValueError("exceeds"), OSError("invalid")])
def test_a_system_that_refuses_a_higher_limit_keeps_its_own(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuses:
        RLIMIT_NOFILE, RLIM_INFINITY = 7, -1

        def getrlimit(self, which: int) -> tuple[int, int]:
            return (256, self.RLIM_INFINITY)

        def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
            raise error

    monkeypatch.setattr(limits, "_resource", Refuses)
    raise_file_limit()
    assert connection_limit() == 256 - OTHER_FILES
