"""OpenEnv itself, from PyPI, in a virtual environment of its own: both ways."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the extra remote")
pytest.importorskip("websockets", reason="needs the extra openenv")

from gym_adapters import Environment, EnvironmentEntry, Episode, Task, Transcript, tool
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.bridges.openenv import OpenEnvConfig, OpenEnvMessages, OpenEnvTask, OpenEnvTools
from gym_adapters.bridges.openenv_trace import segments_of_trace, training_trace
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import function_call
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment, Span
from gym_adapters.serving.http_server import serving
from gym_adapters.serving.openenv_server import openenv_app
from gym_adapters.testing import ScriptedChatModel

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

# With every feature of a real one: seeds, typed actions, observations with further fields.
GUESSING = """
import random, sys
import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app

class Guess(Action):
    message: str

class Hint(Observation):
    text: str = ""
    tries: int = 0

class Guessing(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self._state = State()

    def reset(self, seed=None, episode_id=None, **kwargs):
        self.number = random.Random(seed).randint(1, 10)
        self._state = State(episode_id=episode_id, step_count=0)
        return Hint(text="Guess a number from 1 to 10.")

    def step(self, action, timeout_s=None, **kwargs):
        self._state.step_count += 1
        guess = int(action.message)
        if guess == self.number:
            return Hint(text="right", tries=self._state.step_count, reward=1.0, done=True)
        hint = "higher" if guess < self.number else "lower"
        return Hint(text=hint, tries=self._state.step_count, reward=-0.1)

    @property
    def state(self):
        return self._state

app = create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=8)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]))
"""

TOOLS = """
import sys
import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server import State, create_fastapi_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server import Observation

class Adding(MCPEnvironment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        mcp = FastMCP("adding")

        @mcp.tool
        def add(a: int, b: int) -> int:
            "Add two numbers."
            self.total = a + b
            return a + b

        super().__init__(mcp)
        self._state = State()

    def reset(self, seed=None, episode_id=None, **kwargs):
        return Observation(metadata={"text": "add"})

    def _step_impl(self, action, timeout_s=None, **kwargs):
        raise ValueError("tools only")

    def step(self, action, timeout_s=None, **kwargs):
        seen = super().step(action, timeout_s=timeout_s, **kwargs)
        return self.scored(action, seen)

    async def step_async(self, action, timeout_s=None, **kwargs):
        seen = await super().step_async(action, timeout_s=timeout_s, **kwargs)
        return self.scored(action, seen)

    def scored(self, action, seen):
        if getattr(action, "tool_name", None) == "add" and getattr(self, "total", None) == 5:
            seen.reward, seen.done = 1.0, True
        return seen

    @property
    def state(self):
        return self._state

app = create_fastapi_app(Adding, CallToolAction, CallToolObservation, max_concurrent_envs=8)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]))
"""

# Their client, on a server of ours.
CLIENT = """
import asyncio, json, sys
from openenv.core.generic_client import GenericEnvClient

async def main():
    async with GenericEnvClient(base_url=sys.argv[1]) as env:
        first = await env.reset(seed=1)
        call = {"type": "call_tool", "tool_name": "add", "arguments": {"number": 4}}
        second = await env.step(call)
        state = await env.state()
        last = await env.step({"message": "done"})
        print(json.dumps([[each.observation, each.reward, each.done]
                          for each in (first, second, last)] + [state]))

asyncio.run(main())
"""

# Their own check of a trace of ours.
TRACE = """
import json, sys
from openenv.core.harness.training import TrainingTrace
print(TrainingTrace.model_validate(json.load(sys.stdin)).model_dump_json())
"""


@pytest.fixture(scope="module")
def openenv(make_venv: Any) -> str:
    return str(make_venv("openenv==0.10.0"))


async def said_by(python: str, program: str, *arguments: str, given: bytes = b"") -> Any:
    process = await asyncio.create_subprocess_exec(
        python,
        "-c",
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(given), 120)
    assert process.returncode == 0, err.decode()[-3000:]
    return json.loads(out.decode().splitlines()[-1])


async def played(kind: type[OpenEnvTools], url: str, turns: Any, **config: Any) -> Rollout:
    row = {"responses_create_params": {"input": "play"}, "reset": {"seed": 7}}
    settings = OpenEnvConfig(url=url, **config)
    async with open_episode_resources(kind, settings) as resources:
        episode = Episode(kind, OpenEnvTask.from_row(row), config=settings, resources=resources)
        return await ToolAgent().run(episode, ScriptedChatModel(list(turns)))


async def test_an_openenv_server_is_bridged(
    openenv: str, run_server: Any, free_port: int, tmp_path: Path
) -> None:
    command = [openenv, "-c", GUESSING, str(free_port)]
    with run_server(command, tmp_path, free_port) as url:
        options = {"observation_field": "text"}
        turns = [str(number) for number in range(1, 11)]
        rollouts = await asyncio.gather(
            *(played(OpenEnvMessages, url, turns, **options) for _ in range(6))
        )
        broken = await played(OpenEnvMessages, url, ["what?"], **options)
    for rollout in rollouts:
        assert rollout.outcome.failure is None
        tries = rollout.usage.turns
        assert rollout.reward == pytest.approx(1.0 - 0.1 * (tries - 1))
        texts = [item["content"] for item in rollout.output if item.get("role") == "user"]
        assert texts == ["higher"] * (tries - 1) + ["right"]
    assert len({rollout.reward for rollout in rollouts}) == 1
    assert broken.reward is None
    assert "invalid literal for int()" in broken.outcome.failure.message


async def test_the_tools_of_an_openenv_server_are_tools(
    openenv: str, run_server: Any, free_port: int, tmp_path: Path
) -> None:
    command = [openenv, "-c", TOOLS, str(free_port)]
    calls = [
        [function_call("add", json.dumps(arguments), f"c{n}")]
        for n, arguments in enumerate([{"a": 1, "b": 1}, {"a": "x", "b": 1}, {"a": 2, "b": 3}])
    ]
    with run_server(command, tmp_path, free_port) as url:
        rollout = await played(OpenEnvTools, url, calls)
    assert rollout.outcome.failure is None
    assert [each["name"] for each in rollout.tools] == ["add"]
    assert rollout.tools[0]["parameters"]["required"] == ["a", "b"]
    outputs = [i["output"] for i in rollout.output if i["type"] == "function_call_output"]
    assert (outputs[0], outputs[2]) == ("2", "5")
    assert json.loads(outputs[1])["error"]["type"] == "tool_error"
    assert rollout.reward == 1.0


class Count(Environment[Task]):
    live = 0

    async def start(self) -> None:
        type(self).live += 1
        self.total = 0

    @tool
    async def add(self, number: int) -> int:
        """Add."""
        self.total += number
        return self.total

    async def verify(self, transcript: Transcript) -> float:
        return float(self.total)

    async def close(self) -> None:
        type(self).live -= 1


async def test_openenvs_client_steps_a_server_of_ours(openenv: str) -> None:
    rows = [{"responses_create_params": {"input": f"count {n}"}} for n in range(2)]
    async with (
        openenv_app(EnvironmentEntry("count", Count, None), rows=rows) as (app, server),
        serving(app, websockets=True) as url,
    ):
        first, second, last, state = await said_by(openenv, CLIENT, url)
        async with asyncio.timeout(20):
            while server.under_way:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
    assert first[0]["text"] == "count 1"
    assert first[1:] == [None, False]
    assert second[0]["result"] == "4"
    assert state["step_count"] == 1
    assert last[1:] == [4.0, True]
    assert Count.live == 0


async def test_openenv_takes_a_trace_of_ours_and_gives_it_back(openenv: str) -> None:
    spans = (Span(0, 2, True), Span(2, 3, False), Span(3, 4, True))
    segments = [
        Segment([1, 2], [3, 4, 5, 6], [1, 1, 0, 1], [-0.5, -0.25, 0.0, -1.0], spans),
        Segment([9], [8], [1], [-2.0], (Span(0, 1, True),)),
    ]
    trace = json.dumps(training_trace(segments)).encode()
    assert segments_of_trace(await said_by(openenv, TRACE, given=trace)) == segments
