"""verifiers itself, from PyPI, in a virtual environment of its own, behind the child's protocol."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gym_adapters import Episode, InvalidConfig, Task
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.bridges.verifiers import VerifiersConfig, VerifiersTaskset, taskset_rows
from gym_adapters.episode import open_episode_resources
from gym_adapters.errors import EnvironmentFailure
from gym_adapters.items import function_call
from gym_adapters.reward import Outcome
from gym_adapters.rollout import Rollout
from gym_adapters.testing import ScriptedChatModel

TASKSET = '''
"""A taskset as verifiers wants one: tasks with data, a tool server, rewards and a metric."""
import verifiers.v1 as vf
from verifiers.v1.utils.decorators import tool

class SumData(vf.TaskData):
    answer: int

class SumState(vf.State):
    used: int = 0

class Calculator(vf.Toolset[vf.ToolsetConfig, SumState]):
    @vf.tool
    def add(self, a: int, b: int) -> str:
        """Add two numbers."""
        self.state.used += 1
        return str(a + b)

class SumTask(vf.Task[SumData, SumState]):
    @classmethod
    def toolsets(cls, config):
        return [Calculator(vf.ToolsetConfig())]

    @vf.reward(weight=0.75)
    async def right(self, trace) -> float:
        said = [each.message for each in trace.nodes if each.sampled][-1].content
        return float(said == str(self.data.answer))

    @vf.reward(weight=0.25)
    async def used(self, trace) -> float:
        return float(trace.state.used > 0)

    @vf.metric
    async def turns(self, trace) -> float:
        if self.data.answer == 13:
            raise ValueError("out of luck")
        return float(sum(each.sampled for each in trace.nodes))

class Sums(vf.Taskset[SumTask, vf.TasksetConfig]):
    def load(self):
        print("loading, loudly")
        for a, b in [(1, 1), (2, 3), (6, 7)]:
            yield SumTask(SumData(prompt=f"{a}+{b}?", system_prompt="Add.", answer=a + b),
                          self.config.task)

__all__ = ["Sums"]
'''
BOXED = TASKSET.replace("class SumTask(", "class SumTask(").replace(
    "async def used(self, trace)", "async def used(self, trace, runtime)"
)


@pytest.fixture
def settings(make_venv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VerifiersConfig:
    (tmp_path / "sums.py").write_text(TASKSET, encoding="utf-8")
    (tmp_path / "boxed.py").write_text(BOXED, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return VerifiersConfig(python=str(make_venv("verifiers==0.4.0")), taskset="sums")


async def attempts(settings: VerifiersConfig, rows: list[Any], turns: Any) -> list[Rollout]:
    async with open_episode_resources(VerifiersTaskset, settings) as resources:

        async def one(row: Any) -> Rollout:
            task = Task.from_row(row)
            episode = Episode(VerifiersTaskset, task, config=settings, resources=resources)
            return await ToolAgent().run(episode, ScriptedChatModel(list(turns)))

        return list(await asyncio.gather(*map(one, rows)))


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_a_taskset_gives_scored_rollouts(settings: VerifiersConfig) -> None:
    rows = await taskset_rows(settings)
    assert [row["verifiers"]["idx"] for row in rows] == [0, 1, 2]
    assert rows[1]["responses_create_params"]["input"] == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "2+3?"},
    ]
    call = [function_call("calculator_add", json.dumps({"a": 2, "b": 3}), "c1")]
    first, second, third = await attempts(settings, rows, [call, "5"])
    assert [tool["name"] for tool in second.tools] == ["calculator_add"]
    assert second.output[1]["output"] == "5"
    assert (first.reward, second.reward) == (0.25, 1.0)
    assert second.outcome.reward is not None
    assert second.outcome.reward.components == {"right": 0.75, "used": 0.25}
    assert second.outcome.reward.info == {"metrics": {"turns": 2.0}}
    assert third.reward is None
    assert failure_of(third.outcome) == "verifier"
    assert "out of luck" in str(third.outcome.failure)
    (silent,) = await attempts(settings, rows[1:2], ["5"])
    assert silent.reward == 0.75


def failure_of(outcome: Outcome) -> str:
    assert outcome.failure is not None
    return outcome.failure.boundary.value


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_what_the_child_cannot_do_is_refused(settings: VerifiersConfig) -> None:
    (row, *_) = await taskset_rows(settings, 1)
    boxed = settings.model_copy(update={"taskset": "boxed"})
    other = {**row, "verifiers": {"idx": 1, "key": row["verifiers"]["key"]}}
    beyond = {**row, "verifiers": {"idx": 9}}
    for config, wrong, says in [
        (boxed, {**row, "verifiers": {"idx": 0}}, "used needs a runtime"),
        (settings, other, "another one than the row's"),
        (settings, beyond, "no task 9"),
        (settings, {**row, "verifiers": {}}, "verifiers.idx"),
    ]:
        (rollout,) = await attempts(config, [wrong], ["5"])
        assert failure_of(rollout.outcome) == "environment"
        assert says in str(rollout.outcome.failure)
    missing = settings.model_copy(update={"taskset": "nothing_such"})
    with pytest.raises(EnvironmentFailure, match="nothing_such"):
        await taskset_rows(missing)


async def test_an_interpreter_that_is_not_there_is_told() -> None:
    config = VerifiersConfig(python="/nowhere/python", taskset="sums")
    with pytest.raises(EnvironmentFailure, match="/nowhere/python"):
        await taskset_rows(config)
    (rollout,) = await attempts(config, [{"responses_create_params": {"input": "?"}}], ["5"])
    assert failure_of(rollout.outcome) == "environment"


async def test_a_taskset_must_be_named() -> None:
    with pytest.raises(InvalidConfig, match="taskset="):
        await taskset_rows(VerifiersConfig())
