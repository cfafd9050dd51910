"""Running NeMo RL's own scripts with our environments known to them; NeMo RL is not edited.

::

    python -m gym_adapters.adapters.nemo_rl.launcher examples/nemo_gym/run_grpo_nemo_gym.py \
        --config run.yaml

NeMo RL makes environments before it loads datasets, and has no hook for plug-ins: so what it must
know is registered here, before its script starts.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gym_adapters.adapters.nemo_rl.spinup import spinup_rollout_actor
from gym_adapters.adapters.nemo_rl.survivors import use_survivors
from gym_adapters.errors import Unsupported, UsageError

__all__ = ["DATASET", "ENVIRONMENT", "PROCESSOR", "STEP_ACTOR", "main", "register"]

ENVIRONMENT = "gym"
"""Name of the native path's environment: ``data.default.env_name`` and a key of ``env``."""
PROCESSOR = "gym_adapters"
"""Name of its processor: ``data.default.processor``."""
DATASET = "gym_adapters.adapters.nemo_rl.datasets.GymDataset"
"""Its dataset: ``data.train.dataset_name``."""
STEP_ACTOR = "gym_adapters.adapters.nemo_rl.ray_actors.GymStepActor"


def register() -> None:
    """Make both paths known to the NeMo RL of this process. Twice does nothing more.

    Raises:
        UsageError: If NeMo RL can't be imported.
        Unsupported: If it makes advantages in another way than the versions known here.
    """
    try:
        registry: Any = importlib.import_module(
            "nemo_rl.distributed.ray_actor_environment_registry"
        )
        cluster: Any = importlib.import_module("nemo_rl.distributed.virtual_cluster")
        environments: Any = importlib.import_module("nemo_rl.environments.utils")
        processors: Any = importlib.import_module("nemo_rl.data.processors")
        grpo: Any = importlib.import_module("nemo_rl.algorithms.grpo")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"NeMo RL can't be imported ({error}). Run this in the environment of a NeMo RL "
            "checkout: its distribution on PyPI is empty."
        ) from error
    from gym_adapters.adapters.nemo_rl.datasets import gym_processor

    registry.ACTOR_ENVIRONMENT_REGISTRY[STEP_ACTOR] = cluster.PY_EXECUTABLES.SYSTEM
    if ENVIRONMENT not in environments.ENV_REGISTRY:
        environments.register_env(ENVIRONMENT, STEP_ACTOR)
    if PROCESSOR not in processors.PROCESSOR_REGISTRY:
        processors.register_processor(PROCESSOR, gym_processor)
    use_survivors(grpo)
    grpo.spinup_nemo_gym_actor = spinup_rollout_actor
    _refuse_data_plane()


def _refuse_data_plane() -> None:
    """NeMo RL's data-plane trainer does not show `survivors` which samples failed."""
    try:
        data_plane: Any = importlib.import_module("nemo_rl.algorithms.grpo_sync")
    except ImportError:  # an older NeMo RL, or one without its packages
        return

    def grpo_train_sync(*_: Any, **__: Any) -> None:
        raise Unsupported(
            "NeMo RL's data-plane trainer would count failed rollouts in their groups' baselines. "
            "Fix: data_plane.enabled=false"
        )

    data_plane.grpo_train_sync = grpo_train_sync


def main(arguments: Sequence[str] | None = None) -> None:
    """Register, then run a NeMo RL script with the arguments that follow its path.

    Raises:
        UsageError: If there is no such script, or NeMo RL can't be imported.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or not Path(given[0]).is_file():
        raise UsageError(
            "name a script of NeMo RL and its arguments: python -m "
            "gym_adapters.adapters.nemo_rl.launcher examples/run_grpo.py --config run.yaml"
        )
    register()
    sys.argv = given
    runpy.run_path(given[0], run_name="__main__")


if __name__ == "__main__":
    main()
