"""The command line that trains, in this process and for one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import InvalidConfig, Task
from gym_adapters.adapters.trl.train import GymArguments, _file, _settings_for, argument_names, main
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.recorded import final_rollouts
from gym_adapters.testing.tiny_model import TinyPolicy

CPU = {
    "use_cpu": "true",
    "bf16": "false",
    "gradient_checkpointing": "false",
    "dtype": "float32",
    "attn_implementation": "eager",
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": "true",
    "logging_steps": "1",
    "max_steps": "2",
    "per_device_train_batch_size": "4",
}


def words(**options: Any) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def rows(tasks: list[Task], path: Path) -> Path:
    path.write_bytes(b"".join(orjson.dumps(task.to_row()) + b"\n" for task in tasks))
    return path


def test_grpo_keeps_the_rollouts_of_training_and_of_evaluation_apart(
    policy: TinyPolicy, sums: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    given = words(
        environment="arithmetic_tools",
        tasks=rows(sums[:4], tmp_path / "train.jsonl"),
        eval_tasks=rows(sums[4:6], tmp_path / "held_out.jsonl"),
        ledger=tmp_path / "rollouts",
        eval_ledger=tmp_path / "evaluation",
        metrics_file=tmp_path / "metrics.jsonl",
        model_name_or_path=policy.model_path,
        output_dir=tmp_path / "policy",
        num_generations=2,
        num_generations_eval=1,
        per_device_eval_batch_size=2,
        max_completion_length=24,
        eval_strategy="steps",
        eval_steps=2,
        **CPU,
    )
    assert main(["grpo", *given]) == 0
    kept = list(final_rollouts(tmp_path / "rollouts"))
    assert len(kept) == 2 * 4
    # Attempts at a task are numbered over all steps.
    assert {each.rollout_index for each in kept} == {0, 1, 2, 3}
    assert len({(each.task_id, each.rollout_index) for each in kept}) == len(kept)
    assert {each.provenance.weights_version for each in kept} == {0, 1}
    assert {each.task_id for each in kept} <= {task.task_id for task in sums[:4]}
    held_out = [each.task_id for each in final_rollouts(tmp_path / "evaluation")]
    assert sorted(held_out) == sorted(task.task_id for task in sums[4:6])
    manifest = Manifest.read(tmp_path / "rollouts" / "manifest.json")
    assert (manifest.environment, manifest.num_repeats) == ("arithmetic_tools", 2)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    logged = [orjson.loads(line) for line in lines]
    assert [each["step"] for each in logged if "reward" in each] == [1, 2]
    assert [each["step"] for each in logged if "eval_reward" in each] == [2]
    assert (tmp_path / "policy" / "model.safetensors").is_file()


def test_what_is_wrong_is_told_and_nothing_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(train_file=tmp_path / "absent.jsonl", output_dir=tmp_path, **CPU)
    assert main(["sft", *given, "--model_name_or_path", "tiny"]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main([]) == main(["ppo"]) == 2
    assert "grpo, sft, dpo, kto" in capsys.readouterr().err


def test_every_method_takes_trls_own_arguments_and_ours() -> None:
    assert {"learning_rate", "num_generations", "lora_r", "ledger"} <= argument_names("grpo")
    for method in ("sft", "dpo", "kto"):
        assert {"learning_rate", "lora_r", "train_file"} <= argument_names(method)
    with pytest.raises(InvalidConfig, match="no method 'ppo'"):
        argument_names("ppo")


def test_settings_and_files_of_several_environments_go_each_to_its_own() -> None:
    own = GymArguments(
        environment=["mcqa", "calendar"],
        tasks=["m.jsonl", "c.jsonl"],
        settings=["mcqa.lenient=true", "calendar.size=3"],
    )
    assert _settings_for("mcqa", own) == ["lenient=true"]
    assert _settings_for("calendar", own) == ["size=3"]
    assert (_file(own, "tasks", 1), _file(own, "eval_tasks", 1)) == ("c.jsonl", None)
    own.settings = ["lenient=true"]
    with pytest.raises(InvalidConfig, match="names none of mcqa, calendar"):
        _settings_for("mcqa", own)
    own.tasks = ["m.jsonl"]
    with pytest.raises(InvalidConfig, match="1 files are given for 2 environments"):
        _file(own, "tasks", 0)


def test_one_environment_takes_settings_as_they_are() -> None:
    own = GymArguments(environment=["mcqa"], settings=["lenient=true"])
    assert _settings_for("mcqa", own) == ["lenient=true"]
