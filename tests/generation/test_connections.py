"""Connections never take more files than the process may open."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gym_adapters.generation.connections import MOST, OTHER_FILES, connection_limit

resource = pytest.importorskip("resource", reason="this system counts no files by process")

LOWERED = """
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (260, hard))
"""

# 300 conversations with an endpoint in the same process, so that a connection is two files.
TALK = """
import asyncio
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
    async with OpenAIEndpoint("m", f"http://127.0.0.1:{port}/v1") as endpoint:
        async def one(number):
            session = endpoint.open(tools=[], sampling=SamplingParams(), request_id=str(number))
            await session.respond([user_message("hi")])
        await asyncio.gather(*(one(number) for number in range(300)))

asyncio.get_event_loop_policy().new_event_loop().run_until_complete(talk())
print(asked, most)
"""


def said(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOWERED + code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


def test_conversations_wait_for_a_connection_where_files_are_few() -> None:
    asked, most = map(int, said(TALK))
    assert asked == 300  # none was asked again
    assert most == 260 - OTHER_FILES


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
