from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("transformers", reason="needs transformers")

from aiohttp import web

from gym_adapters import Environment, Episode, EpisodeLimits, InvalidConfig, Task, Transcript, tool
from gym_adapters.agents.remote_agent import RemoteAgent
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.errors import JudgeError
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.reward import StopReason
from gym_adapters.rollouts import collect
from gym_adapters.serving.gateway import running_gateway
from gym_adapters.testing import ScriptedGenerator
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer

# A harness that knows nothing of this library.
HARNESS = """
import json, sys, urllib.request
task = json.load(sys.stdin)
def post(url, body):
    headers = {"Authorization": "Bearer " + task["api_key"], "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=60).read().decode()
history = task["input"]
while True:
    answer = json.loads(post(task["base_url"] + "/responses",
                             {"model": "m", "input": history, "tools": task["tools"]}))
    history += answer["output"]
    calls = [item for item in answer["output"] if item["type"] == "function_call"]
    for call in calls:
        output = post(task["tools_url"] + "/" + call["name"], json.loads(call["arguments"]))
        history.append({"type": "function_call_output", "call_id": call["call_id"],
                        "output": output})
    if not calls:
        break
"""
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>'


class Adding(Environment[Task]):
    live = 0

    async def start(self) -> None:
        type(self).live += 1
        self.called = False

    @tool
    async def add(self, a: int, b: int) -> int:
        """Add."""
        self.called = True
        if a == 13:
            raise JudgeError("out of order")
        return a + b

    async def verify(self, transcript: Transcript) -> float:
        return float(self.called and transcript.final_text == "5")

    async def close(self) -> None:
        type(self).live -= 1


class Chatty(Adding):
    async def reply(self, message: str) -> str | None:
        return None


TASK = Task.from_row({"responses_create_params": {"input": "2+3?"}})


def policy(*turns: str) -> TokenChatModel:
    tokenizer = tiny_tokenizer()
    script = [tokenizer(turn, add_special_tokens=False)["input_ids"] for turn in turns]
    return TokenChatModel(
        ScriptedGenerator(lambda _, __, turn: script[turn % len(script)]),
        TemplateRenderer(tokenizer),
        output_parser(tokenizer),
        name="scripted",
    )


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


async def run(program: str, model: TokenChatModel, **options: Any) -> Any:
    environment = options.pop("environment", Adding)
    limits = options.pop("limits", None)
    async with running_gateway() as gateway:
        agent = RemoteAgent(gateway, command=python(program), **options)
        rollout = await agent.run(Episode(environment, TASK, limits=limits), model)
        assert len(gateway.sessions) == 0
    assert Adding.live == 0
    return rollout


async def test_a_foreign_agent_gives_the_rollout_of_the_agent_in_process() -> None:
    rollout = await run(HARNESS, policy(CALL, "5<|im_end|>"))
    ours = await ToolAgent().run(Episode(Adding, TASK), policy(CALL, "5<|im_end|>"))
    assert rollout.reward == 1.0
    assert list(rollout.segments) == list(ours.segments)
    assert [item["type"] for item in rollout.output] == [item["type"] for item in ours.output]
    assert rollout.output[1] == ours.output[1]
    assert rollout.usage == ours.usage
    assert rollout.outcome == ours.outcome


async def test_the_proxy_of_a_company_stands_not_between_an_agent_and_its_policy() -> None:
    around = {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "intra.net", "no_proxy": ""}
    rollout = await run(HARNESS, policy(CALL, "5<|im_end|>"), environ=around)
    assert rollout.reward == 1.0
    told = "import os, sys; sys.exit(os.environ['NO_PROXY'])"
    rollout = await run(told, policy("5<|im_end|>"), environ=around)
    assert "intra.net,127.0.0.1" in rollout.outcome.failure.message


async def test_collect_takes_a_foreign_agent() -> None:
    async with running_gateway() as gateway:
        agent = RemoteAgent(gateway, command=python(HARNESS))
        rollouts = [
            rollout
            async for rollout in collect(
                Adding, [TASK], policy(CALL, "5<|im_end|>"), num_repeats=2, agent=agent
            )
        ]
    assert [rollout.reward for rollout in rollouts] == [1.0, 1.0]


async def test_an_agent_that_crashes_leaves_an_unscored_rollout_that_says_why() -> None:
    rollout = await run("import sys; sys.exit('no such flag')", policy("5<|im_end|>"))
    assert rollout.reward is None
    assert rollout.outcome.failure.boundary == "model"
    assert "no such flag" in rollout.outcome.failure.message


def is_gone(pid: int) -> bool:
    """Whether it has ended; a zombie that nobody here can reap has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_an_agent_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open(os.environ['PID_FILE'], 'w').write(str(child.pid))\ntime.sleep(600)"
    )
    path, limit = tmp_path / "pid", 1.0
    # A busy machine takes longer to get it as far as hanging.
    while not path.exists() or not path.read_text():
        limit *= 2
        assert limit < 100
        rollout = await run(program, policy("5"), timeout=limit, environ={"PID_FILE": str(path)})
        assert rollout.outcome.failure.boundary == "timeout"
    async with asyncio.timeout(60):
        while not is_gone(int(path.read_text())):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


async def test_the_turn_budget_ends_an_agent_and_the_attempt_is_truncated() -> None:
    rollout = await run(HARNESS, policy(CALL), limits=EpisodeLimits(max_turns=2))
    assert rollout.outcome.stop_reason is StopReason.MAX_TURNS
    assert (rollout.reward, rollout.usage.turns) == (0.0, 2)


async def test_a_broken_tool_is_the_tools_failure_and_not_the_agents() -> None:
    rollout = await run(HARNESS, policy(CALL.replace("2", "13")))
    assert rollout.outcome.failure.boundary == "judge"


async def test_an_agent_that_asks_nothing_has_no_verdict() -> None:
    rollout = await run("pass", policy("5"))
    assert "without a model call" in rollout.outcome.failure.message


async def test_an_environment_that_replies_is_refused() -> None:
    rollout = await run(HARNESS, policy("5"), environment=Chatty)
    assert "replies" in rollout.outcome.failure.message


@asynccontextmanager
async def service(status: int) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        task = await request.json()
        import aiohttp

        async with aiohttp.ClientSession() as client:
            body = {"model": "m", "input": task["input"], "tools": task["tools"]}
            if status == 200:
                async with client.post(f"{task['base_url']}/responses", json=body) as answer:
                    assert answer.status == 200
        return web.Response(status=status, text="as told")

    app = web.Application()
    app.router.add_post("/", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def test_an_agent_may_be_a_service() -> None:
    async with running_gateway() as gateway:
        async with service(200) as url:
            good = await RemoteAgent(gateway, url=url).run(
                Episode(Adding, TASK), policy("5<|im_end|>")
            )
        async with service(503) as url:
            bad = await RemoteAgent(gateway, url=url).run(Episode(Adding, TASK), policy("5"))
    assert len(good.segments) == 1
    assert "as told" in bad.outcome.failure.message


async def test_a_remote_agent_is_a_command_or_a_url() -> None:
    async with running_gateway() as gateway:
        for options in ({}, {"command": []}, {"command": ["a"], "url": "http://x"}, {"url": "x"}):
            with pytest.raises(InvalidConfig):
                RemoteAgent(gateway, **options)
