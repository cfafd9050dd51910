"""verl on a CPU, FOR TESTING ONLY: a platform, and a rollout engine made of transformers.

verl trains on GPUs. With this package its real ``main_ppo`` runs on two cores and 4 GB, so that an
adapter, or an environment, can be tested in the trainer it is for. It uses verl's own points of
extension and leaves every file of verl as it is. Set `environment_variables()` in the process that
starts verl, and give verl `OVERRIDES`.
"""

from __future__ import annotations

from gym_adapters.testing.verl_cpu.settings import OVERRIDES, environment_variables

__all__ = ["OVERRIDES", "environment_variables"]
