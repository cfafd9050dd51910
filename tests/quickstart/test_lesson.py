"""The quickstart really learns, from its rewards and from nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest

pytest.importorskip("trl", reason="the quickstart trains with TRL: install the extra trl")

from gym_adapters.errors import ModelError, UsageError
from gym_adapters.quickstart import QuickstartResult, QuickstartSettings, quickstart
from gym_adapters.quickstart.lesson import TrainingStep, pass_rate, shuffled, split_tasks
from gym_adapters.registry import load_environment
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.metrics import RolloutMetrics
from gym_adapters.rollouts.recorded import read_rollouts

LEAST_GAIN = 0.25
MOST_GAIN_OF_THE_CONTROL = 0.05


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.steps: list[TrainingStep] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total))

    def warmed_up(self, step: int, total: int, loss: float) -> None:
        return None

    def trained(self, step: TrainingStep) -> None:
        self.steps.append(step)

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        return None

    def finished(self, rollout: Rollout) -> None:
        return None


def learn(output: Path, *, seed: int, shuffle_rewards: bool = False) -> QuickstartResult:
    settings = QuickstartSettings(output=output, seed=seed, shuffle_rewards=shuffle_rewards)
    return quickstart(settings, Told())


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "seed",
    [
        0,
        pytest.param(1, marks=pytest.mark.full),
        pytest.param(2, marks=pytest.mark.full),
    ],
)
def test_the_held_out_pass_rate_rises(tmp_path: Path, seed: int) -> None:
    result = learn(tmp_path, seed=seed)
    assert result.gain >= LEAST_GAIN
    assert not result.before.failures
    assert not result.after.failures
    assert_left_behind(tmp_path, result)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_is_learnt_from_the_rewards_of_others(tmp_path: Path, seed: int) -> None:
    result = learn(tmp_path, seed=seed, shuffle_rewards=True)
    assert result.gain < MOST_GAIN_OF_THE_CONTROL


def assert_left_behind(output: Path, result: QuickstartResult) -> None:
    settings = QuickstartSettings()
    expected = settings.held_out * settings.attempts
    for stage, metrics in (("before", result.before), ("after", result.after)):
        rollouts = list(read_rollouts(output / stage / "rollouts.jsonl"))
        assert len(rollouts) == expected == metrics.rollouts
        assert all(rollout.segments[0].sampled_ids for rollout in rollouts)
    assert (output / "reward_curve.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "policy" / "model.safetensors").is_file()
    written = orjson.loads((output / "metrics.json").read_bytes())
    assert written["pass_rate_after"] - written["pass_rate_before"] == pytest.approx(result.gain)
    assert [step["step"] for step in written["curve"]] == list(range(1, settings.steps + 1))
    lines = (output / "training.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line) for line in lines] == written["curve"]


def test_no_task_is_both_trained_on_and_held_out() -> None:
    training, held_out = split_tasks(load_environment("arithmetic_tools"), QuickstartSettings())
    assert len(held_out) == QuickstartSettings().held_out
    assert {task.task_id for task in training}.isdisjoint(task.task_id for task in held_out)


def test_more_held_out_tasks_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="hold out fewer"):
        split_tasks(load_environment("arithmetic_tools"), QuickstartSettings(held_out=100))


def test_shuffled_rewards_are_the_same_rewards_and_failures_stay_where_they_were() -> None:
    rewards = [1.0, None, 0.0, 0.5, None, 0.25]
    dealt = shuffled(rewards, random.Random(1))
    assert [reward is None for reward in dealt] == [reward is None for reward in rewards]
    assert sorted(r for r in dealt if r is not None) == [0.0, 0.25, 0.5, 1.0]
    assert dealt != rewards


def test_a_folder_that_holds_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UsageError, match="--overwrite"):
        quickstart(QuickstartSettings(output=tmp_path), Told())
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_a_folder_that_can_not_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a file has no folders below it")
    told = Told()
    with pytest.raises(UsageError, match=r"can't write to .* --output"):
        quickstart(QuickstartSettings(output=file / "run"), told)
    assert told.stages == []


def test_a_batch_that_does_not_hold_whole_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of the group"):
        quickstart(QuickstartSettings(output=tmp_path, batch_size=12, group_size=8), Told())


def test_a_pass_rate_of_nothing_scored_is_an_error_not_zero() -> None:
    with pytest.raises(ModelError, match="no attempt was scored"):
        pass_rate(RolloutMetrics().metrics())
