"""TRL: train on an environment with GRPOTrainer. See docs/trl.md."""

from __future__ import annotations

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
from gym_adapters.adapters.trl.rows import trl_dataset
from gym_adapters.adapters.trl.spec import TrlSpec, trl_spec

__all__ = [
    "EnvironmentFactory",
    "EnvironmentReward",
    "RolloutFunction",
    "RolloutReward",
    "SingleTurnReward",
    "TrlSpec",
    "environment_factory",
    "reward_function",
    "rollout_function",
    "survivors_only",
    "trl_dataset",
    "trl_spec",
]
