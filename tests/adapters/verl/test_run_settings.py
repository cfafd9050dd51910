from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gym_adapters.adapters.verl.run_settings import RunSettings, tell_biases
from gym_adapters.errors import InvalidConfig, Unsupported


def changed(config: Any, **settings: Any) -> Any:
    from omegaconf import OmegaConf

    copy = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    for key, value in settings.items():
        OmegaConf.update(copy, key.replace("__", "."), value)
    return copy


def test_what_is_read(verl_config: Any) -> None:
    settings = RunSettings.of(verl_config)
    assert (settings.bounds.prompt, settings.bounds.response) == (128, 160)
    assert (settings.group_size, settings.validation_group_size) == (4, 1)
    assert settings.has_baseline
    assert settings.takes_segments
    assert settings.max_context is None


@pytest.mark.parametrize(
    ("estimator", "has_baseline"),
    [("gae", False), ("reinforce_plus_plus", False), ("rloo", True), ("grpo_passk", True)],
)
def test_only_grpo_takes_several_samples_of_a_rollout(
    estimator: str, has_baseline: bool, verl_config: Any
) -> None:
    settings = RunSettings.of(changed(verl_config, algorithm__adv_estimator=estimator))
    assert not settings.takes_segments
    assert settings.has_baseline is has_baseline


ROLLOUT = "actor_rollout_ref__rollout__"


@pytest.mark.parametrize(
    ("setting", "error", "told"),
    [
        ({"trainer__use_v1": False}, Unsupported, "V0 trainer can't leave out"),
        ({f"{ROLLOUT}calculate_log_probs": False}, InvalidConfig, "calculate_log_probs=True"),
        (
            {f"{ROLLOUT}agent__agent_loop_manager_class": None},
            InvalidConfig,
            "agent_loop_manager_class=",
        ),
        ({f"{ROLLOUT}enable_rollout_routing_replay": True}, Unsupported, "routed experts"),
        ({"algorithm__adv_estimator": "remax"}, Unsupported, "ReMax"),
    ],
)
def test_what_can_not_work_is_refused_with_the_fix(
    setting: dict[str, Any], error: type[Exception], told: str, verl_config: Any
) -> None:
    with pytest.raises(error, match=told):
        RunSettings.of(changed(verl_config, **setting))


def test_what_is_seldom_meant_is_told(verl_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    tell_biases(verl_config)
    assert caplog.text == ""
    tell_biases(
        changed(
            verl_config,
            **{f"{ROLLOUT}top_p": 0.9, "trainer__v1__sampler__sync_refill_failed_groups": False},
        )
    )
    assert "biases importance ratios" in caplog.text
    assert "sync_refill_failed_groups=True" in caplog.text


def test_the_manager_checks_before_it_starts_anything(verl_config: Any) -> None:
    from gym_adapters.adapters.verl.manager import GymAgentLoopManager

    with pytest.raises(Unsupported, match="V0"):
        GymAgentLoopManager(changed(verl_config, trainer__use_v1=False), None, None, None)


def test_the_manager_cuts_the_ledgers_once_where_a_resumed_run_begins(
    verl_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gym_adapters.adapters.verl import manager

    monkeypatch.setattr(manager.AgentLoopManagerTQ, "generate_sequences", lambda *_: None)
    cut: list[tuple[str, int]] = []
    monkeypatch.setattr(
        manager.TrainingLedger,
        "keep_steps",
        lambda ledger, steps: cut.append((ledger.folder.name, steps)) or 0,
    )

    def began(*batches: tuple[int, bool]) -> list[tuple[str, int]]:
        cut.clear()
        folders = {"ledger": str(tmp_path / "run"), "validation_ledger": str(tmp_path / "eval")}
        made = manager.GymAgentLoopManager(
            changed(verl_config, gym_adapters=folders), None, None, None
        )
        for step, validates in batches:
            batch = {"global_steps": step, **({"validate": True} if validates else {})}
            made.generate_sequences(batch)
        return list(cut)

    assert began((0, True), (1, False), (2, False), (2, True)) == []
    assert began((2, True), (3, False), (4, False), (4, True)) == [("eval", 2), ("run", 3)]
    assert began((3, False)) == [("run", 3)]
