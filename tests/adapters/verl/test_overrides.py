from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gym_adapters.adapters.verl import launch as launch_module
from gym_adapters.adapters.verl.launch import check_overrides, launch, main
from gym_adapters.adapters.verl.overrides import read_overrides, verl_overrides, write_overrides
from gym_adapters.errors import InvalidConfig, Unsupported


def overrides(**options: Any) -> list[str]:
    return verl_overrides(
        "arithmetic_tools", **{"model": "m", "train_files": "t.parquet", **options}
    )


def composed(*extra: str, **options: Any) -> Any:
    return check_overrides([*overrides(**options), "actor_rollout_ref.rollout.name=vllm", *extra])


def test_verls_configuration_takes_them() -> None:
    config = composed(group_size=6, batch_size=5, max_response_length=77)
    assert config.actor_rollout_ref.rollout.n == 6
    assert config.data.train_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size == 5
    assert config.actor_rollout_ref.rollout.response_length == 77
    assert config.algorithm.adv_estimator == "grpo"
    assert list(config.data.train_files) == [str(Path("t.parquet").resolve())]


def test_the_cards_budget_is_the_default_of_a_rollout() -> None:
    assert composed().data.max_response_length == 4 * 256


def test_odd_paths_survive_hydra(tmp_path: Path) -> None:
    odd = tmp_path / "it's a, [folder]=x" / "t.parquet"
    config = composed(train_files=[odd], model="/models/it's (mine)")
    assert list(config.data.train_files) == [str(odd)]
    assert config.actor_rollout_ref.model.path == "/models/it's (mine)"


def test_without_validation_files_there_is_no_validation() -> None:
    assert composed().trainer.val_before_train is False
    with_files = composed(val_files="v.parquet")
    assert with_files.trainer.val_before_train is True
    assert list(with_files.data.val_files) == [str(Path("v.parquet").resolve())]


def test_own_overrides_win() -> None:
    assert composed(extra=["actor_rollout_ref.rollout.n=3"]).actor_rollout_ref.rollout.n == 3


def test_hydras_own_settings_are_left_to_hydra() -> None:
    assert composed("hydra.run.dir=/tmp/x").data.train_batch_size == 32


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="at least 1"):
        overrides(group_size=0)


def test_a_file_of_overrides_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "run.overrides"
    write_overrides(["a=1", "+b.c='x y'"], file)
    file.write_text(file.read_text() + "\n# a remark\n")
    assert read_overrides(file) == ["a=1", "+b.c='x y'"]
    with pytest.raises(InvalidConfig, match="can't be read"):
        read_overrides(tmp_path / "absent")


def test_a_wrong_key_is_told_before_anything_starts() -> None:
    with pytest.raises(InvalidConfig, match="no_such_key"):
        composed("trainer.no_such_key=1")


def test_a_run_that_can_not_work_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("it was started")

    monkeypatch.setattr(launch_module.subprocess, "run", started)
    bad = [*overrides(), "actor_rollout_ref.rollout.name=vllm", "trainer.use_v1=False"]
    with pytest.raises(Unsupported, match="V0"):
        launch(bad)
    write_overrides(bad, tmp_path / "bad")
    assert main(["--overrides", str(tmp_path / "bad")]) == 2
    assert "error: verl's V0 trainer" in capsys.readouterr().err


def test_the_launcher_runs_verls_own_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Done:
        returncode = 3

    def run(command: list[str], env: dict[str, str]) -> Done:
        asked.append((command, env))
        return Done()

    monkeypatch.setattr(launch_module.subprocess, "run", run)
    lines = [*overrides(), "actor_rollout_ref.rollout.name=vllm"]
    assert launch(lines, environment_variables={"OWN": "1"}) == 3
    ((command, env),) = asked
    assert command[1:3] == ["-m", "verl.trainer.main_ppo"]
    assert command[3:] == lines
    assert env["OWN"] == "1"
