"""Mending programs: the hidden tests decide, and can't be talked round."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gym_adapters.environments.code_debugging.environment import (
    CodeDebugging,
    CodeDebuggingTask,
)
from gym_adapters.environments.code_debugging.programs import PROGRAMS

from gym_adapters import Episode, Outcome, Unsupported
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import assistant_message, function_call
from gym_adapters.registry import load_environment
from gym_adapters.sandbox import ProcessSandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    # A program has its CPU time; a machine that stands still for a while must not be its fault.
    config = load_environment("code_debugging").config(["sandbox.wall_time=60"])
    async with open_episode_resources(CodeDebugging, config) as opened:
        yield opened


def task() -> CodeDebuggingTask:
    hidden = {"function": "double", "inputs": ["1", "2"], "outputs": ["2", "4"]}
    return CodeDebuggingTask.from_row(
        {
            "responses_create_params": {"input": "Mend it."},
            "program": "def double(n):\n    return n * n\n",
            "tests": "from program import double\nassert double(1) == 2, double(1)\nprint('ok')\n",
            "hidden_tests": hidden,
        }
    )


def call(name: str, **arguments: Any) -> Any:
    return [function_call(name, json.dumps(arguments), "call_0")]


async def play(sandbox: Any, *turns: Any) -> tuple[list[Any], Outcome | None]:
    heard = []
    async with Episode(CodeDebugging, task(), resources=sandbox) as episode:
        await episode.start()
        for turn in turns:
            step = await episode.advance(turn)
            heard += [item["output"] for item in step.items]
        await episode.advance([assistant_message("done")])
    return heard, episode.outcome


def value(outcome: Outcome | None) -> float:
    assert outcome is not None
    assert outcome.reward is not None, outcome.failure
    return outcome.reward.value


async def test_tests_show_the_traceback_and_pass_once_the_fault_is_mended(
    sandbox: ProcessSandbox,
) -> None:
    right = "def double(n):\n    return n + n\n"
    heard, outcome = await play(
        sandbox, call("run_tests"), call("write_program", text=right), call("run_tests")
    )
    first, last = json.loads(heard[0]), json.loads(heard[2])
    assert first["exit_code"] == 1
    assert 'File "test_program.py", line 2' in first["stderr"]
    assert first["stderr"].endswith("AssertionError: 1\n")
    assert (last["exit_code"], last["stdout"]) == (0, "ok\n")
    assert value(outcome) == 1.0


@pytest.mark.parametrize(
    "cheat",
    [
        "def double(n):\n    return 2\n",
        "import os\nprint('ok')\nos._exit(0)\n",
        "raise SystemExit(0)\n",
        "class Any:\n    def __eq__(self, other): return True\ndef double(n): return Any()\n",
        "import os\ndef double(n):\n    os.write(3, b'4')\n    os._exit(0)\n",
        "",
    ],
)
async def test_programs_that_only_seem_right_score_0(sandbox: ProcessSandbox, cheat: str) -> None:
    _, outcome = await play(sandbox, call("write_program", text=cheat))
    assert value(outcome) == 0.0


async def test_code_can_be_tried_beside_the_program(sandbox: ProcessSandbox) -> None:
    heard, _ = await play(
        sandbox,
        call("run_code", code="import program; print(program.double(3))"),
        call("run_code", code="print('x' * 10000)"),
        call("run_code", code="while True: pass"),
        call("read_program"),
    )
    assert json.loads(heard[0])["stdout"] == "9\n"
    assert "6001 characters left out" in json.loads(heard[1])["stdout"]
    assert json.loads(heard[2])["exit_code"] < 0
    assert heard[3] == task().program


async def test_without_its_sandbox_a_rollout_is_unscored() -> None:
    async with Episode(CodeDebugging, task()) as episode:
        await episode.start()
        step = await episode.advance([assistant_message("done")])
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary == "sandbox"


@pytest.mark.parametrize("name", list(PROGRAMS))
async def test_every_fault_can_be_told_by_a_test(name: str, sandbox: ProcessSandbox) -> None:
    program, rng = PROGRAMS[name], random.Random(0)
    for number, (right, wrong) in enumerate(program.faults):
        assert program.source.count(right) >= 1
        assert right != wrong
        broken = program.broken([number])
        cases = [program.draw(rng) for _ in range(40)]
        told = False
        for arguments in cases:
            done = await sandbox.run_python(
                broken, function=name, arguments=[json.dumps(a) for a in arguments]
            )
            if done.result is None or json.loads(done.result) != program.answer(arguments):
                told = True
                break
        assert told, (name, right)


def test_rows_of_others_have_no_gold() -> None:
    with pytest.raises(Unsupported, match="programs it broke"):
        CodeDebugging.gold_turns(task())


def test_the_examples_are_the_generators_own() -> None:
    rows = [asked.to_row() for asked in load_environment("code_debugging").example_tasks()]
    made = [
        asked.to_row()
        for seed, difficulty in enumerate((0.0, 0.5, 1.0))
        for asked in CodeDebugging.generate_tasks(2, seed=seed, difficulty=difficulty)
    ]
    assert rows == made
