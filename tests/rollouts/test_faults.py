"""Whatever breaks, a run goes on or stops cleanly: each failure names its boundary, none has a
reward, and no rollout is lost or doubled."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from gym_adapters import Environment, Rollout, Task, Transcript, tool
from gym_adapters.agents.tool_agent import AgentLimits
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import ToolInfrastructureError
from gym_adapters.generation import openai_endpoint
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollouts import RolloutMetrics, read_rollouts
from gym_adapters.rollouts.append_file import AppendFile
from gym_adapters.rollouts.run import RunSettings, run
from gym_adapters.rollouts.run_folder import OnExisting

COUNT = 12
# So long that no busy machine needs it: where it is to pass, the clock leaps.
TURN = 300.0
Handler = Callable[[web.Request, int], Awaitable[web.StreamResponse]]


class Asker(Environment[Task]):
    """Calls a tool that is at fault where the prompt says so, then answers."""

    @property
    def fault(self) -> str:
        return str(self.task.responses_create_params["input"]).partition(" ")[2]

    @tool
    async def look(self) -> str:
        """Look."""
        if self.fault == "raises":
            raise KeyError("it is not there")
        if self.fault == "is down":
            raise ToolInfrastructureError("the service is down")
        if self.fault == "hangs":
            await asyncio.sleep(3600)
        return "seen"

    async def verify(self, transcript: Transcript) -> float:
        if self.fault == "no verdict":
            raise ZeroDivisionError
        return 1.0

    @classmethod
    def gold_turns(cls, task: Task) -> Sequence[Sequence[Item]]:
        return [[function_call("look", "{}", "call_0")], [assistant_message("done")]]


def settings(model: str, output: Path, fault: str = "") -> RunSettings:
    entry = EnvironmentEntry("Asker", Asker, None)

    def tasks() -> list[Task]:
        prompts = [f"{n} {fault if n % 3 == 0 else ''}" for n in range(COUNT)]
        return [Task.from_row({"responses_create_params": {"input": each}}) for each in prompts]

    return RunSettings(
        entry=entry,
        config=entry.config(),
        model=model,
        tasks=tasks,
        output=output,
        retries=0,
        # The other tools never wait, and what never waits has no time limit.
        episode_limits=EpisodeLimits(tool_timeout=0.2),
        agent_limits=AgentLimits(turn_timeout=TURN),
    )


class LeapsAtTheEnd:
    """Lets time pass once every rollout has finished or hangs."""

    def __init__(self, leap: Callable[[float], None]) -> None:
        self._leap, self._left = leap, COUNT

    async def hangs(self, request: web.Request, asked: int) -> web.StreamResponse:
        self._one_less()
        return await hangs(request, asked)

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        pass

    def finished(self, rollout: Rollout) -> None:
        self._one_less()

    def _one_less(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._leap(TURN)


def keys(output: Path) -> Counter[tuple[str, int]]:
    return Counter(
        (rollout.task_id, rollout.rollout_index)
        for rollout in read_rollouts(output / "rollouts.jsonl")
    )


def check_failed(output: Path, boundary: str) -> None:
    """A third failed at `boundary`, and the others have their reward."""
    failed = list(read_rollouts(output / "failures.jsonl"))
    assert [rollout.reward for rollout in failed] == [None] * (COUNT // 3)
    assert {str(each.outcome.failure.boundary) for each in failed if each.outcome.failure} == {
        boundary
    }
    scored = list(read_rollouts(output / "rollouts.jsonl"))
    assert [rollout.reward for rollout in scored] == [1.0] * (COUNT - COUNT // 3)
    assert not {each.task_id for each in failed} & {each.task_id for each in scored}


# Endpoints.


def good(asked: int) -> web.Response:
    message: dict[str, object] = {"role": "assistant", "content": "done"}
    if asked == 1:
        function = {"name": "look", "arguments": "{}"}
        message["tool_calls"] = [{"id": "a", "type": "function", "function": function}]
    return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})


async def error_500(request: web.Request, asked: int) -> web.StreamResponse:
    return web.json_response({"error": {"message": "broken"}}, status=500)


async def error_429(request: web.Request, asked: int) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "0.01"})


async def hangs(request: web.Request, asked: int) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return good(asked)


async def cuts_the_body(request: web.Request, asked: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def invalid_json(request: web.Request, asked: int) -> web.StreamResponse:
    return web.Response(text='{"choices": [', content_type="application/json")


async def no_choice(request: web.Request, asked: int) -> web.StreamResponse:
    return web.json_response({"choices": []})


async def empty_choice(request: web.Request, asked: int) -> web.StreamResponse:
    return web.json_response({"choices": [{}]})


async def broken_arguments(request: web.Request, asked: int) -> web.StreamResponse:
    if asked > 1:
        return good(asked)
    function = {"name": "look", "arguments": '{"broken": '}
    message = {"tool_calls": [{"id": "a", "type": "function", "function": function}]}
    return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})


@asynccontextmanager
async def faulty(
    handler: Handler, *, from_request: int = 1, times: int = 1000
) -> AsyncIterator[str]:
    """An endpoint that is at fault for every third task, so often, from its n-th request on."""
    done: Counter[str] = Counter()

    async def handle(request: web.Request) -> web.StreamResponse:
        messages = (await request.json())["messages"]
        asked = sum(message["role"] != "tool" for message in messages[1:]) + 1
        prompt = messages[0]["content"]
        if int(prompt.split()[0]) % 3 == 0 and asked >= from_request and done[prompt] < times:
            done[prompt] += 1
            return await handler(request, asked)
        return good(asked)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"openai:m@http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_endpoint, "LONGEST_PAUSE", 0.001)


@pytest.mark.parametrize("from_request", [1, 2])
@pytest.mark.parametrize(
    ("handler", "boundary"),
    [
        (error_500, "model"),
        (error_429, "model"),
        (hangs, "timeout"),
        (cuts_the_body, "model"),
        (invalid_json, "model"),
        (no_choice, "model"),
        (empty_choice, "model"),
    ],
)
async def test_an_endpoint_at_fault_costs_its_own_rollouts_alone(
    handler: Handler,
    boundary: str,
    from_request: int,
    tmp_path: Path,
    leap: Callable[[float], None],
) -> None:
    output = tmp_path / "run"
    observer = LeapsAtTheEnd(leap) if handler is hangs else None
    at_fault = handler if observer is None else observer.hangs
    async with faulty(at_fault, from_request=from_request) as spec:
        metrics = await run(settings(spec, output), observer)
        assert metrics.failures == {boundary: COUNT // 3}
        check_failed(output, boundary)
    async with faulty(handler, times=0) as healthy:
        mended = settings(healthy, output, "")
        # The address is part of what a run is made of: here it is the port that differs.
        manifest = output / "manifest.json"
        manifest.write_bytes(manifest.read_bytes().replace(spec.encode(), healthy.encode()))
        metrics = await run(replace(mended, on_existing=OnExisting.RESUME))
    assert (metrics.failures, metrics.reward_mean) == ({}, 1.0)
    assert sorted(keys(output).values()) == [1] * COUNT


@pytest.mark.parametrize("handler", [error_500, error_429, cuts_the_body])
async def test_a_fault_that_passes_costs_nothing(handler: Handler, tmp_path: Path) -> None:
    async with faulty(handler, times=2) as spec:
        metrics = await run(settings(spec, tmp_path / "run"))
    assert (metrics.failures, metrics.scored) == ({}, COUNT)


async def test_a_call_with_broken_json_is_the_models_to_mend(tmp_path: Path) -> None:
    async with faulty(broken_arguments) as spec:
        metrics = await run(settings(spec, tmp_path / "run"))
    assert (metrics.failures, metrics.scored) == ({}, COUNT)
    assert metrics.tool_errors == {"invalid_json": COUNT // 3}


# Environments.


@pytest.mark.parametrize(
    ("fault", "boundary"),
    [("is down", "tool"), ("hangs", "timeout"), ("no verdict", "verifier")],
)
async def test_an_environment_at_fault_costs_its_own_rollouts_alone(
    fault: str, boundary: str, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    metrics = await run(settings("scripted:gold", output, fault))
    assert metrics.failures == {boundary: COUNT // 3}
    check_failed(output, boundary)


async def test_a_tool_that_raises_is_told_to_the_model(tmp_path: Path) -> None:
    metrics = await run(settings("scripted:gold", tmp_path / "run", "raises"))
    assert (metrics.failures, metrics.scored) == ({}, COUNT)
    assert metrics.tool_errors == {"exception": COUNT // 3}


async def test_a_disk_that_fills_while_attempts_fail_loses_none_of_what_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    real = AppendFile.append

    def filling(self: AppendFile, lines: bytes) -> None:
        if self.path.name.startswith("failures"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, lines)

    monkeypatch.setattr(AppendFile, "append", filling)
    with pytest.raises(OSError, match="No space left"):
        await run(settings("scripted:gold", output, "is down"))
    monkeypatch.setattr(AppendFile, "append", real)
    again = settings("scripted:gold", output, "is down")
    await run(replace(again, on_existing=OnExisting.RESUME))
    check_failed(output, "tool")
    assert set(keys(output).values()) == {1}


# Signals.

# The command, whose model falls silent once a file has so many lines: a test that looks late
# must find the run under way.
HELD = """
import sys
from pathlib import Path
from gym_adapters.cli import main
from gym_adapters.testing import model_sources

path, most = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
gold = model_sources.gold_model


def held(environment, task, *, delay):
    def seconds(call):
        there = path.read_bytes().count(b"\\n") if path.exists() else 0
        return delay if there < most else 3600.0

    return gold(environment, task, delay=seconds)


model_sources.gold_model = held
main()
"""
FIVE = ["mcqa=2", "calendar", "example_single_tool_call", "instruction_following", "blackjack"]
ROLLOUTS = 240


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.timeout(400)
def test_five_environments_killed_three_times_and_interrupted_end_with_every_rollout_once(
    tmp_path: Path,
) -> None:
    pytest.importorskip("typer", reason="needs the extra cli")
    output = tmp_path / "run"
    path = output / "rollouts.jsonl"
    command = ["collect", *FIVE]
    command += ["-m", "scripted:gold@0.05", "-n", str(ROLLOUTS // 2), "-k", "2", "-c", "8"]
    command += ["-o", str(output), "--resume"]
    rng = random.Random(7)
    written = 0
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGKILL):
        enough = written + rng.randint(5, 35)
        held = [sys.executable, "-c", HELD, str(path), str(enough + 5), *command]
        with subprocess.Popen(held, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None and lines_of(path) < enough:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(number)
            _, err = process.communicate()
        assert process.returncode == (130 if number == signal.SIGINT else -number), err
        before, written = written, lines_of(path)
        assert before < written < ROLLOUTS
    whole = [sys.executable, "-m", "gym_adapters.cli", *command, "--json"]
    done = subprocess.run(whole, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(keys(output).values()) == [1] * ROLLOUTS
    metrics = orjson.loads((output / "metrics.json").read_bytes())
    assert metrics == orjson.loads(done.stdout)
    assert metrics["reward_mean"] == 1.0
    counts = {name: each["rollouts"] for name, each in metrics["environments"].items()}
    assert counts.pop("mcqa") == 80
    assert list(counts.values()) == [40] * 4
