"""Failed rollouts, kept out of NeMo RL's loss and out of their groups' baselines.

NeMo RL masks a sample out of the loss, and counts its reward in its group's baseline all the same.
It takes samples of one prompt for one group, so two tasks with the same prompt are one group, and
attempts at one task whose prompts differ are several. Both are put right where advantages are
made, in the process that trains: batches that are not ours pass untouched.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from gym_adapters.errors import Unsupported

__all__ = ["SCORED_ROLE", "TASK_ID", "failed_rows", "group_numbers", "mask_failed", "use_survivors"]

SCORED_ROLE = "environment_scored"
"""Role of the message that ends a sample of the native path which has a reward.

NeMo RL gives an environment no way to say that there is none. So a native sample without this
message has none: it failed, or NeMo RL cut it and never asked.
"""

TASK_ID = "gym_task_id"
"""Key that names the task, in a row's ``agent_ref`` and in the native path's metadata."""

_ESTIMATORS = (
    "GRPOAdvantageEstimator",
    "GDPOAdvantageEstimator",
    "ReinforcePlusPlusAdvantageEstimator",
    "RawRewardAdvantageEstimator",
)
_PATCHED = (
    "_apply_mask_sample_filter",
    "dynamic_sampling",
    "calculate_baseline_and_std_per_prompt",
)
_DONE = "_gym_adapters_survivors"

Batch = Any
"""NeMo RL's ``BatchedDataDict``."""


def failed_rows(batch: Batch) -> Any:
    """Which rows of a batch have no reward: a bool tensor (B,), or ``None`` for not one."""
    import torch

    failed = None
    if "mask_sample" in batch:
        failed = torch.as_tensor(batch["mask_sample"]).bool()
    native = _task_ids(batch, "extra_env_info")
    if native is not None:
        cut = torch.tensor([log[-1]["role"] != SCORED_ROLE for log in batch["message_log"]])
        failed = cut if failed is None else failed | cut
    return failed if failed is not None and bool(failed.any()) else None


def group_numbers(batch: Batch) -> Any:
    """Which group each row is of: an int64 tensor (B, 1); ``None`` for batches that aren't ours."""
    import torch

    ids = _task_ids(batch, "agent_ref") or _task_ids(batch, "extra_env_info")
    if ids is None:
        return None
    numbers: dict[str, int] = {}
    return torch.tensor([[numbers.setdefault(task, len(numbers))] for task in ids])


def mask_failed(batch: Batch) -> None:
    """Write what `failed_rows` tells into the batch's ``mask_sample``."""
    failed = failed_rows(batch)
    if failed is not None:
        batch["mask_sample"] = failed


def use_survivors(grpo: ModuleType | None = None, estimators: ModuleType | None = None) -> None:
    """Have NeMo RL leave failed rollouts out, and group by task. Twice does nothing more.

    Args:
        grpo: ``nemo_rl.algorithms.grpo``, imported by default.
        estimators: ``nemo_rl.algorithms.advantage_estimator``, imported by default.

    Raises:
        ModuleNotFoundError: Without NeMo RL.
        Unsupported: If this NeMo RL makes advantages in another way.
    """
    trainer: Any = grpo or importlib.import_module("nemo_rl.algorithms.grpo")
    made: Any = estimators or importlib.import_module("nemo_rl.algorithms.advantage_estimator")
    absent = [name for name in _PATCHED if not hasattr(trainer, name)]
    if absent:
        raise Unsupported(
            f"this NeMo RL has no {', '.join(absent)} in nemo_rl.algorithms.grpo, where failed "
            "rollouts are left out. See docs/nemo_rl.md, 'Versions'."
        )
    if not hasattr(trainer, _DONE):
        trainer._apply_mask_sample_filter = _filter(trainer._apply_mask_sample_filter)
        trainer.dynamic_sampling = _sampling(
            trainer.dynamic_sampling, trainer.calculate_baseline_and_std_per_prompt
        )
        setattr(trainer, _DONE, True)
    for name in _ESTIMATORS:
        estimator = getattr(made, name, None)
        if estimator is not None and _DONE not in vars(estimator):
            estimator.compute_advantage = _advantages(estimator.compute_advantage)
            setattr(estimator, _DONE, True)


def _task_ids(batch: Batch, key: str) -> list[str] | None:
    told = batch.get(key)
    if not isinstance(told, list) or not told:
        return None
    ids = [each.get(TASK_ID) if isinstance(each, Mapping) else None for each in told]
    return None if None in ids else [str(each) for each in ids]


def _filter(original: Callable[[Batch], int]) -> Callable[[Batch], int]:
    @functools.wraps(original)
    def apply_mask_sample_filter(repeated_batch: Batch) -> int:
        mask_failed(repeated_batch)
        return original(repeated_batch)

    return apply_mask_sample_filter


def _sampling(original: Callable[..., Any], statistics: Callable[..., Any]) -> Callable[..., Any]:
    """Dynamic sampling keeps rows whose group's rewards vary: those of the survivors."""

    @functools.wraps(original)
    def dynamic_sampling(
        repeated_batch: Batch,
        std: Any,
        baseline: Any,
        dynamic_sampling_num_gen_batches: int,
        master_config: Any,
        *rest: Any,
        **named: Any,
    ) -> Any:
        groups = group_numbers(repeated_batch)
        if groups is not None:
            import torch

            mask_failed(repeated_batch)
            failed = failed_rows(repeated_batch)
            rewards = repeated_batch["total_reward"]
            valid = torch.ones_like(rewards) if failed is None else (~failed).to(rewards.dtype)
            spread = repeated_batch.get("unshaped_total_reward")
            baseline, std = statistics(
                groups,
                rewards,
                valid,
                leave_one_out_baseline=master_config.grpo.use_leave_one_out_baseline,
                std_rewards=spread if master_config.grpo.use_dynamic_sampling else None,
            )
            if failed is not None:
                std = torch.where(failed, torch.zeros_like(std), std)
        return original(
            repeated_batch,
            std,
            baseline,
            dynamic_sampling_num_gen_batches,
            master_config,
            *rest,
            **named,
        )

    return dynamic_sampling


def _advantages(original: Callable[..., Any]) -> Callable[..., Any]:
    """Advantages of the rows that have a reward, as if the others were not there; theirs are 0."""

    @functools.wraps(original)
    def compute_advantage(self: Any, prompt_ids: Any, rewards: Any, mask: Any, **named: Any) -> Any:
        batch = named.get("repeated_batch")
        groups = None if batch is None else group_numbers(batch)
        if groups is None:
            return original(self, prompt_ids, rewards, mask, **named)
        groups = groups.to(prompt_ids.device)
        failed = failed_rows(batch)
        if failed is None:
            return original(self, groups, rewards, mask, **named)
        kept = (~failed).nonzero().flatten()
        if not len(kept):
            return rewards.new_zeros(mask.shape)
        chosen = {name: _chosen(value, kept, len(failed)) for name, value in named.items()}
        told = original(self, groups[kept], rewards[kept], mask[kept], **chosen)
        if isinstance(told, tuple):
            return tuple(_spread(each, kept, mask) for each in told)
        return _spread(told, kept, mask)

    return compute_advantage


def _chosen(value: Any, kept: Any, size: int) -> Any:
    """The kept rows of whatever has one entry a row."""
    select = getattr(value, "select_indices", None)
    if select is not None:
        return select(kept.tolist())
    if hasattr(value, "shape") and len(value.shape) and value.shape[0] == size:
        return value[kept.to(value.device)]
    return value


def _spread(told: Any, kept: Any, mask: Any) -> Any:
    if told is None:
        return None
    whole = told.new_zeros(mask.shape)
    whole[kept.to(whole.device)] = told
    return whole
