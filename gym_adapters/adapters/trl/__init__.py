"""TRL: train on environments with GRPOTrainer or AsyncGRPOTrainer. See docs/trl.md."""

from __future__ import annotations

from gym_adapters.adapters.trl.async_worker import RolloutWorker, rollout_worker
from gym_adapters.adapters.trl.blended_spec import blended_spec
from gym_adapters.adapters.trl.environments import (
    EnvironmentFactory,
    EnvironmentReward,
    environment_factory,
)
from gym_adapters.adapters.trl.reward import (
    RolloutReward,
    SingleTurnReward,
    reward_function,
    survivors_only,
)
from gym_adapters.adapters.trl.rollouts import RolloutFunction, rollout_function
from gym_adapters.adapters.trl.rows import blended_dataset, trl_dataset
from gym_adapters.adapters.trl.spec import TrlSpec, trl_spec

__all__ = [
    "EnvironmentFactory",
    "EnvironmentReward",
    "RolloutFunction",
    "RolloutReward",
    "RolloutWorker",
    "SingleTurnReward",
    "TrlSpec",
    "blended_dataset",
    "blended_spec",
    "environment_factory",
    "reward_function",
    "rollout_function",
    "rollout_worker",
    "survivors_only",
    "trl_dataset",
    "trl_spec",
]
