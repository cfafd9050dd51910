from __future__ import annotations

import subprocess
import sys
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
