from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("datasets", reason="needs datasets")

from gym_adapters import Task
from gym_adapters.adapters.nemo_rl.datasets import GymDataset, gym_processor
from gym_adapters.adapters.nemo_rl.rows import GYM, nemo_rl_rows, write_nemo_rl_rows
from gym_adapters.errors import InvalidRow


def test_a_file_of_rows_is_a_dataset_named_after_it(sums: list[Task], tmp_path: Path) -> None:
    rows = nemo_rl_rows("arithmetic_tools", sums, native=True)
    write_nemo_rl_rows(rows, tmp_path / "train.jsonl")
    data = GymDataset(str(tmp_path / "train.jsonl"), env_name="gym")
    data.set_processor()
    assert data.task_name == "gym-train"
    assert data.processor is gym_processor
    assert data.dataset[GYM][:] == [row[GYM] for row in rows]
    assert data.dataset["task_name"][:] == ["gym-train"] * 3


def test_a_wrong_row_is_named_by_file_and_line(sums: list[Task], tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    (row, *_) = nemo_rl_rows("arithmetic_tools", sums, native=True)
    path.write_text(json.dumps(row) + "\n" + json.dumps({"question": "?"}) + "\n")
    with pytest.raises(InvalidRow, match=r"train\.jsonl:2: field 'gym'"):
        GymDataset(str(path))
