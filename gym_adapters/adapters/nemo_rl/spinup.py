"""Starting `RolloutActor` where NeMo RL would start NeMo Gym."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from gym_adapters.adapters.nemo_rl.settings import ActorSettings
from gym_adapters.errors import InvalidConfig, Unsupported
from gym_adapters.extras import require

__all__ = ["spinup_rollout_actor"]

SPINUP_TIMEOUT = 600.0


def spinup_rollout_actor(
    env_configs: Mapping[str, Any],
    base_urls: Sequence[str],
    model_name: str,
    *,
    tokenizer: Any,
    enable_router_replay: bool = False,
    **_: Any,
) -> Any:
    """The actor's handle, ready; in place of NeMo RL's ``spinup_nemo_gym_actor``.

    Args:
        env_configs: NeMo RL's ``env``.
        base_urls: Its vLLM servers.
        model_name: The served name.
        tokenizer: The policy's.
        enable_router_replay: Refused.

    Raises:
        InvalidConfig: If a setting is wrong, or failed rollouts would be trained on.
        Unsupported: If routed experts are asked for.
        MissingExtra: Without Ray.
    """
    ray = require("ray", "nemo-rl", "the NeMo RL adapter")
    settings = checked_settings(env_configs, enable_router_replay)
    from gym_adapters.adapters.nemo_rl.ray_actors import GymRolloutActor

    # The driver's variables, as NeMo RL gives its own environments.
    options = {"runtime_env": {"env_vars": dict(os.environ)}}
    actor = GymRolloutActor.options(**options).remote(
        list(base_urls), model_name, settings.model_dump()
    )
    ray.get(actor.set_tokenizer.remote(tokenizer), timeout=SPINUP_TIMEOUT)
    return actor


def checked_settings(env_configs: Mapping[str, Any], enable_router_replay: bool) -> ActorSettings:
    """Our part of NeMo RL's ``env``.

    Raises:
        InvalidConfig: If a setting is wrong, or failed rollouts would be trained on.
        Unsupported: If routed experts are asked for.
    """
    if enable_router_replay:
        raise Unsupported(
            "NeMo RL's server gives routed experts that this adapter does not pass on. Fix: "
            "policy.router_replay.enabled=false"
        )
    if not env_configs.get("should_mask_flagged_samples", True):
        raise InvalidConfig(
            "env.should_mask_flagged_samples=false would train on failed rollouts, as if their "
            "reward were 0. Fix: leave it out."
        )
    own = dict(env_configs.get("nemo_gym") or {})
    return ActorSettings.of(own.get("gym_adapters"))
