from __future__ import annotations

import json
from pathlib import Path

import pytest

from gym_adapters import Task, Unsupported, load_environment
from gym_adapters.adapters.nemo_rl.rows import (
    GYM,
    RowIdentity,
    nemo_rl_rows,
    write_nemo_rl_rows,
)
from gym_adapters.errors import InvalidConfig, InvalidRow


def test_a_row_says_its_environment_and_gives_its_task_back(sums: list[Task]) -> None:
    row = nemo_rl_rows("arithmetic_tools", sums)[0]
    identity = RowIdentity.of_row(row)
    assert identity.environment == "arithmetic_tools"
    assert identity.row == sums[0].to_row()
    assert row["agent_ref"] == {
        "type": "responses_api_agents",
        "name": "arithmetic_tools",
        "gym_task_id": sums[0].task_id,
    }


def test_what_nemo_rl_stamps_on_a_row_leaves_the_task_as_it_is(sums: list[Task]) -> None:
    row = nemo_rl_rows("arithmetic_tools", sums)[0]
    row["_rowidx"] = 7
    row["responses_create_params"]["temperature"] = 0.5
    environment = load_environment("arithmetic_tools").environment
    again = environment.task_type.from_row(RowIdentity.of_row(row).row)
    assert again.task_id == sums[0].task_id


def test_rows_are_written_one_a_line(sums: list[Task], tmp_path: Path) -> None:
    rows = nemo_rl_rows("arithmetic_tools", sums)
    write_nemo_rl_rows(rows, tmp_path / "made" / "train.jsonl")
    lines = (tmp_path / "made" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize("row", [{}, {GYM: 3}, {GYM: "no json"}, {GYM: "[]"}, "text"])
def test_a_row_of_somebody_else_is_refused_with_the_fix(row: object) -> None:
    with pytest.raises(InvalidRow, match="write_nemo_rl_rows"):
        RowIdentity.of_row(row)


def test_no_tasks_and_wrong_settings_are_refused(sums: list[Task]) -> None:
    with pytest.raises(InvalidRow, match="no tasks"):
        nemo_rl_rows("arithmetic_tools", [])
    with pytest.raises(InvalidConfig, match="nonsense"):
        nemo_rl_rows("arithmetic_tools", sums, overrides=["nonsense=1"])


def test_the_native_path_refuses_what_it_cannot_carry() -> None:
    environment = load_environment("preference").environment
    tasks = list(environment.generate_tasks(1, seed=0, difficulty=0.0))
    assert nemo_rl_rows("preference", tasks)
    with pytest.raises(Unsupported, match="relative to the group"):
        nemo_rl_rows("preference", tasks, native=True)
