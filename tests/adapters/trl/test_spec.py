from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import InvalidConfig, InvalidRow, Task, UnknownEnvironment, Unsupported
from gym_adapters.adapters.trl import RolloutReward, trl_spec
from gym_adapters.adapters.trl.rows import ROW
from gym_adapters.testing.tiny_model import TinyPolicy


def length(completions: list[Any], **_: object) -> list[float]:
    return [0.0 for _ in completions]


def test_each_way_gives_the_arguments_that_grpo_trainer_takes(sums: list[Task]) -> None:
    keys = {"train_dataset", "reward_funcs", "callbacks"}
    rollout = trl_spec("arithmetic_tools", tasks=sums).trainer_arguments()
    tools = trl_spec("arithmetic_tools", tasks=sums, way="environment_factory")
    assert set(rollout) == keys | {"rollout_func"}
    assert set(tools.trainer_arguments()) == keys | {"environment_factory"}
    assert rollout["train_dataset"].column_names == ["prompt"]
    assert tools.train_dataset.column_names == ["prompt", ROW]
    assert [f.__name__ for f in rollout["reward_funcs"]] == ["arithmetic_tools"]


def test_rows_come_from_a_file_or_from_the_examples(sums: list[Task], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(task.to_row()) for task in sums[:3]))
    spec = trl_spec("arithmetic_tools", tasks=path, eval_tasks=str(path))
    assert [task.task_id for task in spec.tasks] == [task.task_id for task in sums[:3]]
    assert len(spec.trainer_arguments()["eval_dataset"]) == 3
    assert len(trl_spec("arithmetic_tools").tasks) >= 5


def test_a_bad_row_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"responses_create_params": {"input": "hi"}}\n')
    with pytest.raises(InvalidRow, match=r"rows\.jsonl:1"):
        trl_spec("arithmetic_tools", tasks=path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownEnvironment, match="arithmetic_tools"):
        trl_spec("no_such_environment")


def test_a_way_that_can_not_carry_the_environment_is_refused(sums: list[Task]) -> None:
    with pytest.raises(Unsupported, match="use environment_factory, or rollout_function"):
        trl_spec("arithmetic_tools", tasks=sums, way="reward")


def test_further_rewards_stand_after_the_environments(sums: list[Task]) -> None:
    spec = trl_spec("arithmetic_tools", tasks=sums, reward_funcs=[length])
    assert isinstance(spec.reward_funcs[0], RolloutReward)
    assert spec.reward_funcs[1].__name__ == "length"


def test_dropping_the_row_column_is_refused_when_the_trainer_is_made(
    make_trainer: Any, raw_policy: TinyPolicy, sums: list[Task]
) -> None:
    spec = trl_spec("arithmetic_tools", tasks=sums, way="environment_factory")
    with pytest.raises(InvalidConfig, match="gym_row"):
        make_trainer(raw_policy, spec.trainer_arguments(), remove_unused_columns=True)


def test_a_cut_distribution_is_warned_of(
    make_trainer: Any, raw_policy: TinyPolicy, sums: list[Task], caplog: pytest.LogCaptureFixture
) -> None:
    spec = trl_spec("arithmetic_tools", tasks=sums)
    make_trainer(raw_policy, spec.trainer_arguments(), top_p=0.9)
    assert "top_p=0.9" in caplog.text


def test_the_facts_are_learnt_from_the_trainer(
    make_trainer: Any, raw_policy: TinyPolicy, sums: list[Task]
) -> None:
    spec = trl_spec("arithmetic_tools", tasks=sums)
    make_trainer(raw_policy, spec.trainer_arguments(), max_completion_length=33)
    assert spec.facts.max_completion_length == 33
    assert spec.facts.was_cut([1, 2])
    assert not spec.facts.was_cut([1, raw_policy.tokenizer.eos_token_id])
