"""Real trainings that are resumed from a checkpoint, by a script of one's own."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")

from gym_adapters import Task
from gym_adapters.adapters.trl import trl_spec
from gym_adapters.adapters.trl.async_groups import GroupNumbers
from gym_adapters.rollouts.recorded import final_rollouts
from gym_adapters.testing.tiny_model import TinyPolicy

from .async_cpu import LocalPolicy

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]

# Groups of 4, two a step; evaluation after every step; a checkpoint after every second one.
SETTINGS = {
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "num_generations_eval": 1,
    "per_device_eval_batch_size": 2,
    "max_completion_length": 16,
}


def keys(folder: Path) -> list[tuple[str, int]]:
    return [(each.task_id, each.rollout_index) for each in final_rollouts(folder)]


def trained(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], folder: Path, **config: Any
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Keys of the rollouts and of the evaluation that a training has kept when it ends."""
    checkpoint = config.pop("checkpoint", None)
    rollouts, evaluation = folder / "rollouts", folder / "evaluation"
    spec = trl_spec(
        "arithmetic_tools",
        tasks=sums[:8],
        eval_tasks=sums[8:10],
        ledger=rollouts,
        eval_ledger=evaluation,
    )
    settings = {**SETTINGS, "output_dir": str(folder / "policy"), **config}
    trainer = make_trainer(policy, spec.trainer_arguments(), **settings)
    trainer.train(resume_from_checkpoint=checkpoint and str(folder / "policy" / checkpoint))
    return keys(rollouts), keys(evaluation)


@pytest.mark.parametrize("evaluated_first", [False, True])
def test_a_resumed_script_keeps_each_attempt_once_as_a_run_without_interruption(
    make_trainer: Any,
    policy: TinyPolicy,
    sums: list[Task],
    tmp_path: Path,
    evaluated_first: bool,
) -> None:
    whole = trained(
        make_trainer,
        *(policy, sums, tmp_path / "whole"),
        max_steps=4,
        eval_on_start=evaluated_first,
    )
    # What a run that ended after its third step has left behind, its last checkpoint the second's.
    folder = tmp_path / "resumed"
    lost = trained(make_trainer, policy, sums, folder, max_steps=3, eval_on_start=evaluated_first)
    assert len(lost[0]) == 3 * 8
    resumed = trained(
        make_trainer,
        *(policy, sums, folder),
        max_steps=4,
        eval_on_start=evaluated_first,
        checkpoint="checkpoint-2",
    )
    for kept, expected in zip(resumed, whole, strict=True):
        assert set(Counter(kept).values()) == {1}
        assert sorted(kept) == sorted(expected)
    assert len(resumed[0]) == 4 * 8
    assert {index for _, index in resumed[1]} == set(range(0 if evaluated_first else 1, 5))


def test_another_training_in_the_same_ledger_is_told_and_loses_nothing(
    make_trainer: Any,
    policy: TinyPolicy,
    sums: list[Task],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, _ = trained(make_trainer, policy, sums, tmp_path, max_steps=1)
    with caplog.at_level(logging.WARNING):
        after, _ = trained(make_trainer, policy, sums, tmp_path, max_steps=1)
    assert after[: len(before)] == before
    assert "holds the rollouts of another training" in caplog.text


def test_an_async_training_goes_on_behind_the_tasks_it_has_used(
    make_async: Any,
    policy: TinyPolicy,
    sums: list[Task],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def train(steps: int, checkpoint: str | None = None) -> None:
        local = LocalPolicy(policy)
        spec = trl_spec(
            "arithmetic_tools", tasks=sums, way="async", generator=local, ledger=tmp_path / "run"
        )
        trainer = make_async(
            policy,
            {**spec.trainer_arguments(), "weight_transfer": local},
            output_dir=str(tmp_path / "policy"),
            max_steps=steps,
            max_completion_length=16,
            save_strategy="steps",
            save_steps=2,
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        spec.close()

    train(3)
    before = list(final_rollouts(tmp_path / "run"))
    checkpoint = tmp_path / "policy" / "checkpoint-2"
    told = json.loads((checkpoint / "trainer_state.json").read_text())
    used = GroupNumbers([task.task_id for task in sums], 4)
    used.restore(told["stateful_callbacks"]["gym_adapters_rollout_worker"])
    kept = {
        (each.task_id, each.rollout_index): each.output
        for each in before
        if used.was_taken(each.task_id, each.rollout_index)
    }
    # Two steps of two groups, at least.
    assert 4 * 4 <= len(kept) < len(before)

    with caplog.at_level(logging.INFO, logger="gym_adapters"):
        train(4, str(checkpoint))
    assert "resumed at step 2 behind the tasks used" in caplog.text
    after = list(final_rollouts(tmp_path / "run"))
    assert set(Counter((each.task_id, each.rollout_index) for each in after).values()) == {1}
    assert [each.output for each in after[: len(kept)]] == list(kept.values())
    # Only what the checkpoint does not count as used was sampled: two more steps at least.
    again = after[len(kept) :]
    assert len(again) >= 2 * 8
    assert not any(used.was_taken(each.task_id, each.rollout_index) for each in again)
    expected = next(iter(used))
    ids = {each.task_id for each in again}
    assert sums[expected % len(sums)].task_id in ids
