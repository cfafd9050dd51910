from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gym_adapters import Unsupported
from gym_adapters.adapters.nemo_rl.survivors import (
    SCORED_ROLE,
    failed_rows,
    group_numbers,
    mask_failed,
    use_survivors,
)


def exact(tasks: list[str], masked: list[bool]) -> dict[str, Any]:
    return {
        "agent_ref": [{"name": "a", "gym_task_id": task} for task in tasks],
        "mask_sample": torch.tensor(masked),
    }


def native(tasks: list[str], roles: list[str]) -> dict[str, Any]:
    return {
        "extra_env_info": [{"gym_task_id": task} for task in tasks],
        "message_log": [[{"role": "user"}, {"role": role}] for role in roles],
    }


def test_masked_samples_of_the_exact_path_failed() -> None:
    assert failed_rows(exact(["a", "a"], [False, True])).tolist() == [False, True]
    assert failed_rows(exact(["a", "a"], [False, False])) is None


def test_native_samples_without_a_verdict_failed_also_those_that_nemo_rl_cut() -> None:
    roles = [SCORED_ROLE, "environment_failed", "assistant", "environment"]
    batch = native(["a"] * 4, roles)
    assert failed_rows(batch).tolist() == [False, True, True, True]
    mask_failed(batch)
    assert batch["mask_sample"].tolist() == [False, True, True, True]


def test_groups_are_those_of_tasks() -> None:
    assert group_numbers(exact(["x", "y", "x"], [False] * 3)).tolist() == [[0], [1], [0]]
    assert group_numbers(native(["x", "y"], [SCORED_ROLE] * 2)).tolist() == [[0], [1]]


@pytest.mark.parametrize(
    "batch", [{}, {"agent_ref": [{"name": "b"}]}, {"extra_env_info": [None]}], ids=str
)
def test_batches_of_others_are_left_alone(batch: dict[str, Any]) -> None:
    assert group_numbers(batch) is None
    assert failed_rows(batch) is None


class Estimator:
    """The group's mean, as GRPO without normalisation."""

    calls = 0

    def compute_advantage(
        self, prompt_ids: Any, rewards: Any, mask: Any, **named: Any
    ) -> torch.Tensor:
        type(self).calls += 1
        same = (prompt_ids[:, None] == prompt_ids[None]).all(-1).float()
        baseline = same @ rewards / same.sum(-1)
        return (rewards - baseline).unsqueeze(-1).expand(mask.shape)


def patched() -> tuple[Any, Any]:
    trainer = SimpleNamespace(
        _apply_mask_sample_filter=lambda batch: int(batch["mask_sample"].sum()),
        dynamic_sampling=lambda batch, std, baseline, *_: (std, baseline),
        calculate_baseline_and_std_per_prompt=lambda *a, **k: (a[2], a[2]),
    )

    class Own(Estimator):
        pass

    estimators = SimpleNamespace(GRPOAdvantageEstimator=Own)
    use_survivors(trainer, estimators)  # type: ignore[arg-type]
    use_survivors(trainer, estimators)  # type: ignore[arg-type]
    return trainer, Own


def test_advantages_are_those_of_the_survivors_alone_and_zero_for_the_failed() -> None:
    _, estimator = patched()
    prompts = torch.zeros(5, 3)
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.25])
    batch = exact(["x", "x", "x", "y", "y"], [False, False, True, False, False])
    told = estimator().compute_advantage(prompts, rewards, torch.ones(5, 2), repeated_batch=batch)
    expected = [0.5, -0.5, 0.0, 0.125, -0.125]
    assert told.tolist() == [[value, value] for value in expected]


def test_a_batch_in_which_all_failed_trains_nothing() -> None:
    _, estimator = patched()
    batch = exact(["x", "x"], [True, True])
    told = estimator().compute_advantage(
        torch.zeros(2, 1), torch.zeros(2), torch.ones(2, 3), repeated_batch=batch
    )
    assert told.tolist() == [[0.0] * 3] * 2
    assert estimator.calls == 0


def test_the_loss_mask_leaves_native_failures_out() -> None:
    trainer, _ = patched()
    batch = native(["a", "a"], [SCORED_ROLE, "assistant"])
    assert trainer._apply_mask_sample_filter(batch) == 1


def test_a_nemo_rl_that_makes_advantages_elsewhere_is_refused() -> None:
    with pytest.raises(Unsupported, match="no _apply_mask_sample_filter, dynamic_sampling"):
        use_survivors(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


def test_dynamic_sampling_sees_the_survivors_of_each_task() -> None:
    seen = {}

    def statistics(groups: Any, rewards: Any, valid: Any, **named: Any) -> Any:
        seen.update(groups=groups.flatten().tolist(), valid=valid.tolist(), **named)
        return torch.full_like(rewards, 0.5), torch.ones_like(rewards)

    trainer = SimpleNamespace(
        _apply_mask_sample_filter=len,
        dynamic_sampling=lambda batch, std, baseline, *_: (std, baseline),
        calculate_baseline_and_std_per_prompt=statistics,
    )
    use_survivors(trainer, SimpleNamespace())  # type: ignore[arg-type]
    config = SimpleNamespace(
        grpo=SimpleNamespace(use_leave_one_out_baseline=True, use_dynamic_sampling=True)
    )
    batch = {**exact(["x", "x", "y"], [False, True, False]), "total_reward": torch.zeros(3)}
    std, baseline = trainer.dynamic_sampling(batch, None, None, 1, config, None)
    assert seen["groups"] == [0, 0, 1]
    assert seen["valid"] == [1.0, 0.0, 1.0]
    assert seen["leave_one_out_baseline"] is True
    assert std.tolist() == [1.0, 0.0, 1.0]
    assert baseline.tolist() == [0.5, 0.5, 0.5]
