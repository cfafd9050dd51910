from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import Any

import pytest

from gym_adapters import Episode, Task
from gym_adapters.bridges.child_process import ChildConfig, ChildEnvironment, ChildProcess
from gym_adapters.episode import open_episode_resources
from gym_adapters.errors import EnvironmentFailure
from gym_adapters.items import assistant_message, function_call

# Counts per session; dies, hangs, prints and fails when told to.
CHILD = """
import json, os, sys, time
counts = {}
print("a library prints on stdout", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    given, method = request["params"], request["method"]
    session, result, error = given["session"], None, None
    if method == "start":
        counts[session] = given["row"].get("first", 0)
        declared = {"type": "function", "name": "add", "parameters": {"type": "object"}}
        result = {"prompt": [{"role": "user", "content": "count"}], "tools": [declared]}
    elif method == "call_tool":
        how = given["arguments"].get("how")
        if how == "die":
            sys.stderr.write("segmentation fault in libfoo")
            sys.stderr.flush()
            os._exit(3)
        if how == "hang":
            continue
        if how == "babble":
            print("x" * 100_000)
        counts[session] += given["arguments"].get("n", 0)
        result = {"count": counts[session]}
    elif method == "reply":
        result = None if given["message"] == "done" else "go on"
    elif method == "verify":
        if counts[session] == 13:
            error = {"type": "verifier", "message": "bad luck"}
        else:
            result = {"reward": float(counts[session]), "components": {"sum": 1.0}}
    elif method == "close":
        del counts[session]
    answer = {"id": request["id"], "result": result}
    if error:
        answer["error"] = error
    print(json.dumps(answer), flush=True)
"""


def config(**options: Any) -> ChildConfig:
    return ChildConfig(command=(sys.executable, "-c", CHILD), **options)


def task(**fields: Any) -> Task:
    return Task.from_row({"responses_create_params": {"input": "x"}, **fields})


def add(**arguments: Any) -> list[Any]:
    import json

    return [function_call("add", json.dumps(arguments), "c")]


async def attempt(child: Any, settings: ChildConfig, *turns: Any, **fields: Any) -> Episode:
    episode = Episode(ChildEnvironment, task(**fields), config=settings, resources=child)
    async with episode:
        step = await episode.start()
        for turn in turns:
            if step.done:
                break
            step = await episode.advance(turn)
    return episode


DONE = [assistant_message("done")]


async def test_an_attempt_in_a_child_has_prompt_tools_reply_and_verdict() -> None:
    settings = config()
    async with open_episode_resources(ChildEnvironment, settings) as child:
        turns = [add(n=2), [assistant_message("hm")], add(n=3, how="babble"), DONE]
        episode = await attempt(child, settings, *turns, first=1)
        assert episode.prompt[0]["content"] == "count"
        assert episode.output[1]["output"] == '{"count":3}'
        assert episode.output[3]["content"] == "go on"
        assert episode.outcome.reward.value == 6.0
        assert episode.outcome.reward.components == {"sum": 1.0}


async def test_attempts_at_once_share_the_child_and_not_their_state() -> None:
    settings = config()
    async with open_episode_resources(ChildEnvironment, settings) as child:
        episodes = await asyncio.gather(
            *(attempt(child, settings, add(n=1), DONE, first=n) for n in range(10))
        )
        assert child.starts == 1
    assert [each.outcome.reward.value for each in episodes] == [n + 1.0 for n in range(10)]


async def test_an_error_of_the_child_names_its_boundary() -> None:
    settings = config()
    async with open_episode_resources(ChildEnvironment, settings) as child:
        episode = await attempt(child, settings, DONE, first=13)
    assert episode.outcome.failure.boundary == "verifier"
    assert "bad luck" in episode.outcome.failure.message


async def test_a_child_that_dies_says_why_and_is_started_again() -> None:
    settings = config(max_restarts=1)
    async with open_episode_resources(ChildEnvironment, settings) as child:
        dead = await attempt(child, settings, add(how="die"), DONE)
        # What a tool's failure says is told to the model; then the attempt can't go on.
        told = f"{dead.outcome.failure.message} {[i.get('output') for i in dead.output]}"
        assert "segmentation fault in libfoo" in told
        assert dead.outcome.reward is None
        alive = await attempt(child, settings, add(n=2), DONE)
        assert alive.outcome.reward.value == 2.0
        await attempt(child, settings, add(how="die"))
        last = await attempt(child, settings, DONE)
        assert "died 2 times" in last.outcome.failure.message
        assert child.starts == 2


async def test_a_child_killed_with_sigkill_takes_its_attempts_and_nothing_stays() -> None:
    settings = config(max_restarts=5)
    async with open_episode_resources(ChildEnvironment, settings) as child:
        await attempt(child, settings, DONE)
        # What earlier tests left to be collected must not be taken for ours.
        gc.collect()
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            hanging = [
                asyncio.create_task(attempt(child, settings, add(how="hang"))) for _ in range(20)
            ]
            async with asyncio.timeout(60):
                while len(child._waiting) < 20:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            os.kill(child._process.pid, signal.SIGKILL)
            async with asyncio.timeout(60):
                dead = await asyncio.gather(*hanging)
            assert [each.outcome.failure is not None for each in dead] == [True] * 20
            assert (await attempt(child, settings, DONE, first=7)).outcome.reward.value == 7.0
            assert not child._waiting
            assert len(os.listdir("/proc/self/fd")) <= files
        assert child.starts == 4
        process = child._process
    assert process.returncode is not None


async def test_a_child_that_does_not_answer_is_a_timeout() -> None:
    settings = config()
    async with open_episode_resources(ChildEnvironment, settings) as child:
        episode = Episode(ChildEnvironment, task(), config=settings, resources=child)
        async with episode:
            await episode.start()
            # Only what hangs is to meet the limit, however long a child takes to start.
            child._config = config(timeout=0.2)
            await episode.advance(add(how="hang"))
            child._config = settings
        # It hangs, so the next attempt gets another one.
        assert (await attempt(child, settings, DONE, first=7)).outcome.reward.value == 7.0
        assert child.starts == 2
    assert episode.outcome.failure.boundary == "timeout"


async def test_a_program_that_is_not_there_is_told() -> None:
    settings = ChildConfig(command=("/no/such/program",))
    async with ChildProcess(settings) as child:
        with pytest.raises(EnvironmentFailure, match="can't be started"):
            await child.ensure_running()


async def test_leaving_ends_the_child() -> None:
    async with ChildProcess(ChildConfig(command=("sleep", "60"))) as child:
        await child.ensure_running()
        process = child._process
    assert process.returncode is not None
