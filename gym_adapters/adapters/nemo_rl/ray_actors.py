"""Our classes as Ray actors. NeMo RL finds `GymStepActor` by its dotted name."""

from __future__ import annotations

from gym_adapters.adapters.nemo_rl.rollouts import RolloutActor
from gym_adapters.adapters.nemo_rl.stepping import StepEnvironment
from gym_adapters.extras import require

__all__ = ["GymRolloutActor", "GymStepActor"]

_ray = require("ray", "nemo-rl", "the NeMo RL adapter")

# Ray takes one call at a time otherwise; NeMo RL's own options leave this as it is. A restarted
# step actor would have lost its episodes, so it isn't: the run ends with the reason.
GymRolloutActor = _ray.remote(max_concurrency=64)(RolloutActor)
GymStepActor = _ray.remote(max_concurrency=4096)(StepEnvironment)
