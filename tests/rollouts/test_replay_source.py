"""What was said once can be said again, by the same attempts at the same tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from gym_adapters import Boundary, InvalidConfig, InvalidRow, Rollout
from gym_adapters.registry import load_environment
from gym_adapters.rollouts import collect
from gym_adapters.rollouts.json_line import json_line
from gym_adapters.rollouts.run import RunSettings, run


async def collected(model: str, count: int = 5, **options: int) -> list[Rollout]:
    entry = load_environment("example_single_tool_call")
    tasks = entry.environment.generate_tasks(count, seed=0)
    found = [each async for each in collect(entry, tasks, model, **options)]
    return sorted(found, key=lambda each: (each.task_id, each.rollout_index))


def written(path: Path, rollouts: list[Rollout]) -> Path:
    path.write_bytes(b"".join(json_line(rollout.to_json()) for rollout in rollouts))
    return path


@pytest.mark.parametrize("model", ["scripted:gold", "scripted:garbage", "scripted:empty"])
async def test_a_replay_says_does_and_earns_the_same(model: str, tmp_path: Path) -> None:
    before = await collected(model, num_repeats=2)
    path = written(tmp_path / "rollouts.jsonl", before)
    after = await collected(f"replay:{path}", num_repeats=2)
    assert [each.output for each in after] == [each.output for each in before]
    assert [each.outcome for each in after] == [each.outcome for each in before]
    assert {each.provenance.model for each in after} == {f"replay:{path}"}


async def test_the_folder_of_a_run_will_do(tmp_path: Path) -> None:
    entry = load_environment("example_single_tool_call")

    def tasks() -> object:
        return entry.environment.generate_tasks(3, seed=0)

    output = tmp_path / "run"
    config = entry.config()
    settings = RunSettings(
        entry=entry,
        config=config,
        model="scripted:gold",
        tasks=tasks,
        output=output,  # type: ignore[arg-type]
    )
    await run(settings)
    assert [each.reward for each in await collected(f"replay:{output}", 3)] == [1.0] * 3


async def test_an_attempt_that_was_not_recorded_is_a_failure_and_no_reward(tmp_path: Path) -> None:
    path = written(tmp_path / "rollouts.jsonl", await collected("scripted:gold", 2))
    after = await collected(f"replay:{path}", 3)
    assert sorted(str(each.reward) for each in after) == ["1.0", "1.0", "None"]
    (failure,) = [each.outcome.failure for each in after if each.outcome.failure is not None]
    assert failure.boundary is Boundary.MODEL
    assert "no such attempt" in failure.message


async def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no file of rollouts"):
        await collected(f"replay:{tmp_path / 'absent'}")
    with pytest.raises(InvalidConfig, match="replay:FILE"):
        await collected("replay:")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": 1}\n')
    with pytest.raises(InvalidRow, match=r"rows\.jsonl:1"):
        await collected(f"replay:{path}")


async def test_what_was_not_recorded_is_asked_for_once(tmp_path: Path) -> None:
    path = written(tmp_path / "rollouts.jsonl", await collected("scripted:gold", 1))
    retried: list[Rollout] = []
    entry = load_environment("example_single_tool_call")
    tasks = entry.environment.generate_tasks(1, seed=0)
    model = f"replay:{path}"
    again = collect(
        entry, tasks, model, num_repeats=2, retries=3, retry_pause=60.0, on_retry=retried.append
    )
    after = sorted([each async for each in again], key=lambda each: each.rollout_index)
    assert [each.reward for each in after] == [1.0, None]
    assert retried == []
    failure = after[1].outcome.failure
    assert failure is not None
    assert failure.message.endswith(f"number 1 of task {after[1].task_id}")
