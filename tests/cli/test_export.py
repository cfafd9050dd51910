"""``gym-adapters export``, run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the extra cli")

from typer.testing import CliRunner, Result

from gym_adapters.cli.app import app
from gym_adapters.errors import InvalidConfig


def export(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["export", "verl-rows", *arguments], catch_exceptions=False)


def test_the_examples_are_what_is_written_by_default(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    done = export("arithmetic_tools", "--output", str(file))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert done.exit_code == 0
    assert done.stdout == f"{len(rows)} rows of arithmetic_tools in {file}\n"
    assert {row["agent_name"] for row in rows} == {"gym_adapters"}


def test_rows_of_a_file_go_with_settings_components_and_split(tmp_path: Path) -> None:
    source, file = tmp_path / "in.jsonl", tmp_path / "rows.jsonl"
    source.write_text(
        json.dumps(
            {
                "responses_create_params": {"input": "What is 1+2?"},
                "a": 1,
                "operator": "+",
                "b": 2,
                "expected_answer": 3,
                "mine": True,
            }
        )
    )
    export(
        "arithmetic_tools",
        *("-i", str(source), "-o", str(file), "--component", "correct", "--split", "test"),
    )
    (row,) = [json.loads(line) for line in file.read_text().splitlines()]
    told = json.loads(row["extra_info"]["gym"])
    assert told["row"]["mine"] is True
    assert told["components"] == ["correct"]
    assert row["extra_info"]["split"] == "test"


def test_tasks_can_be_generated_and_overrides_written_beside(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pytest.importorskip("pyarrow", reason="needs the extra verl")
    done = export("arithmetic_tools", "-n", "3", "-o", str(file), "--model", "some/model")
    overrides = (tmp_path / "train.overrides").read_text().splitlines()
    assert "3 rows" in done.stdout
    assert f"--overrides {tmp_path / 'train.overrides'}" in done.stdout
    assert "actor_rollout_ref.model.path='some/model'" in overrides
    assert f"data.train_files=['{file}']" in overrides


def test_a_wrong_ending_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="parquet"):
        export("arithmetic_tools", "-o", str(tmp_path / "rows.csv"))
