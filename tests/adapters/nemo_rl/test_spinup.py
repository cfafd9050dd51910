from __future__ import annotations

import pytest

from gym_adapters.adapters.nemo_rl.spinup import checked_settings
from gym_adapters.errors import InvalidConfig, Unsupported


def test_settings_stand_beside_nemo_rls_own() -> None:
    configs = {"nemo_gym": {"num_gpu_nodes": 0, "gym_adapters": {"max_turns": 3}}}
    assert checked_settings(configs, False).max_turns == 3
    assert checked_settings({}, False).max_turns is None


def test_training_on_failed_rollouts_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="should_mask_flagged_samples"):
        checked_settings({"should_mask_flagged_samples": False}, False)


def test_router_replay_is_refused() -> None:
    with pytest.raises(Unsupported, match="router_replay"):
        checked_settings({}, True)
