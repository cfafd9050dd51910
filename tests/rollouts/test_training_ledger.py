from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gym_adapters import JudgeError, Rollout, load_environment
from gym_adapters.reward import Outcome
from gym_adapters.rollouts.collect import collect
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.metrics import RolloutMetrics
from gym_adapters.rollouts.recorded import final_rollouts, read_rollouts, recorded_metrics
from gym_adapters.rollouts.training_ledger import TrainingLedger

WRITERS, BATCHES = 4, 10
WRITE = """
import sys
from dataclasses import replace
from pathlib import Path
from gym_adapters.rollouts.recorded import read_rollouts
from gym_adapters.rollouts.training_ledger import TrainingLedger

source, folder, writer = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rollouts = list(read_rollouts(source / "rollouts.jsonl"))
ledger = TrainingLedger(folder)
for batch in range(int(sys.argv[4])):
    index = writer * 1000 + batch
    ledger.append([replace(each, rollout_index=index) for each in rollouts])
"""


async def gold(name: str) -> list[Rollout]:
    entry = load_environment(name)
    tasks = entry.example_tasks()[:3]
    return [rollout async for rollout in collect(entry, tasks, "scripted:gold")]


@pytest.fixture
async def rollouts() -> list[Rollout]:
    return await gold("arithmetic_tools")


def test_what_is_appended_is_read_as_a_run(rollouts: list[Rollout], tmp_path: Path) -> None:
    ledger = TrainingLedger(tmp_path / "run", model="Qwen/Qwen3-0.6B", seed=3, group_size=8)
    ledger.append(rollouts[:1])
    ledger.append(rollouts[1:])
    kept = list(final_rollouts(tmp_path / "run"))
    assert [each.task_id for each in kept] == [each.task_id for each in rollouts]
    manifest = Manifest.read(tmp_path / "run" / "manifest.json")
    assert manifest.environment == "arithmetic_tools"
    assert (manifest.model, manifest.seed, manifest.num_repeats) == ("Qwen/Qwen3-0.6B", 3, 8)
    metrics = recorded_metrics(tmp_path / "run", RolloutMetrics())
    assert (metrics.rollouts, metrics.scored, metrics.reward_mean) == (3, 3, 1.0)


def test_failures_are_kept_apart(rollouts: list[Rollout], tmp_path: Path) -> None:
    outcome = Outcome.unscored(JudgeError("it is down"))
    TrainingLedger(tmp_path).append([rollouts[0], replace(rollouts[1], outcome=outcome)])
    metrics = recorded_metrics(tmp_path, RolloutMetrics())
    assert (metrics.scored, dict(metrics.failures)) == (1, {"judge": 1})


async def test_the_manifest_names_every_environment_seen(
    rollouts: list[Rollout], tmp_path: Path
) -> None:
    TrainingLedger(tmp_path).append(rollouts)
    TrainingLedger(tmp_path).append(await gold("mcqa"))
    manifest = Manifest.read(tmp_path / "manifest.json")
    assert manifest.environment == "arithmetic_tools, mcqa"
    assert set(manifest.blend or {}) == {"arithmetic_tools", "mcqa"}


def test_several_processes_append_whole_lines(rollouts: list[Rollout], tmp_path: Path) -> None:
    TrainingLedger(tmp_path / "source").append(rollouts)
    folder = tmp_path / "shared"
    command = [sys.executable, "-c", WRITE, str(tmp_path / "source"), str(folder)]
    writers = [subprocess.Popen([*command, str(number), str(BATCHES)]) for number in range(WRITERS)]
    assert [writer.wait(timeout=100) for writer in writers] == [0] * WRITERS
    keys = [(each.task_id, each.rollout_index) for each in final_rollouts(folder)]
    assert len(keys) == len(set(keys)) == WRITERS * BATCHES * len(rollouts)


def test_steps_that_are_done_again_are_dropped_with_a_torn_line(
    rollouts: list[Rollout], tmp_path: Path
) -> None:
    ledger = TrainingLedger(tmp_path, group_size=2)
    failed = replace(rollouts[1], outcome=Outcome.unscored(JudgeError("it is down")))
    for step in range(3):
        for attempt in (2 * step, 2 * step + 1):
            ledger.append([replace(each, rollout_index=attempt) for each in (rollouts[0], failed)])
    with (tmp_path / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"_ng_rollout_index": 5, "resp')
    assert ledger.keep_steps(3) == 0
    assert ledger.keep_steps(2) == 4
    again = TrainingLedger(tmp_path, group_size=2)
    again.append([replace(rollouts[0], rollout_index=attempt) for attempt in (4, 5)])
    kept = [each.rollout_index for each in read_rollouts(tmp_path / "rollouts.jsonl")]
    assert kept == [0, 1, 2, 3, 4, 5]
    failures = [each.rollout_index for each in read_rollouts(tmp_path / "failures.jsonl")]
    assert failures == [0, 1, 2, 3]
    assert TrainingLedger(tmp_path / "none").keep_steps(0) == 0


def test_the_next_number_of_each_task_follows_all_that_are_kept(
    rollouts: list[Rollout], tmp_path: Path
) -> None:
    ledger = TrainingLedger(tmp_path)
    assert ledger.next_indices() == {}
    first, second, third = rollouts
    failed = replace(first, rollout_index=7, outcome=Outcome.unscored(JudgeError("it is down")))
    ledger.append([replace(first, rollout_index=4), failed, second])
    with (tmp_path / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"_ng_rollout_index": 5, "resp')
    assert ledger.next_indices() == {first.task_id: 8, second.task_id: 1}
    assert ledger.next_indices()[third.task_id] == 0


def test_what_is_not_wanted_is_dropped_by_task_and_number(
    rollouts: list[Rollout], tmp_path: Path
) -> None:
    ledger = TrainingLedger(tmp_path)
    ledger.append([replace(each, rollout_index=index) for index in range(2) for each in rollouts])
    unwanted = (rollouts[1].task_id, 1)
    assert ledger.keep(lambda task_id, index: (task_id, index) != unwanted) == 1
    left = [(each.task_id, each.rollout_index) for each in final_rollouts(tmp_path)]
    assert len(left) == 5
    assert unwanted not in left
    assert TrainingLedger(tmp_path / "none").keep(lambda *_: False) == 0


async def test_a_write_that_is_cancelled_is_over_when_the_task_is(
    rollouts: list[Rollout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_write = threading.Event(), threading.Event()
    append = TrainingLedger.append

    def slow(ledger: TrainingLedger, given: list[Rollout]) -> None:
        begun.set()
        assert may_write.wait(60)
        append(ledger, given)

    monkeypatch.setattr(TrainingLedger, "append", slow)
    writing = asyncio.ensure_future(TrainingLedger(tmp_path).append_async(rollouts))
    assert await asyncio.to_thread(begun.wait, 60)
    writing.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not writing.done()
    may_write.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert len(list(final_rollouts(tmp_path))) == len(rollouts)
