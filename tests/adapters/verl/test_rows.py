from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gym_adapters import Task
from gym_adapters.adapters.verl.plugin import AGENT_NAME
from gym_adapters.adapters.verl.rows import GYM, RowIdentity, verl_rows, write_verl_rows
from gym_adapters.errors import InvalidConfig, InvalidRow, Unsupported


def test_a_row_has_what_verl_reads(sums: list[Task]) -> None:
    rows = verl_rows("arithmetic_tools", sums[:2], split="test")
    assert [row["extra_info"]["index"] for row in rows] == [0, 1]
    first = rows[0]
    assert first["agent_name"] == AGENT_NAME
    assert first["data_source"] == "arithmetic_tools"
    assert first["ability"] == "math"
    assert first["prompt"] == [{"role": "user", "content": "What is 2+4?"}]
    assert first["reward_model"] == {"style": "rule", "ground_truth": sums[0].task_id}
    assert first["extra_info"]["split"] == "test"


def test_a_row_says_which_environment_and_task_it_is_for(sums: list[Task]) -> None:
    (row,) = verl_rows("arithmetic_tools", sums[:1], components=["correct"])
    identity = RowIdentity.of_extra_info(row["extra_info"])
    assert identity == RowIdentity("arithmetic_tools", (), ("correct",), sums[0].to_row())


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_rows_come_back_from_verls_own_dataset_as_they_were(
    ending: str, sums: list[Task], tmp_path: Path, policy: Any
) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    odd = Task.from_row({**sums[0].to_row(), "nested": {"only": ["here", None]}})
    environment = "arithmetic_tools"
    rows = verl_rows(environment, [type(sums[0]).from_row(odd.to_row()), *sums[1:3]])
    path = tmp_path / "deep" / f"rows.{ending}"
    write_verl_rows(rows, path)
    config = OmegaConf.create(
        {"filter_overlong_prompts": False, "cache_dir": str(tmp_path / "cache")}
    )
    dataset = RLHFDataset(str(path), policy.tokenizer, config)
    assert len(dataset) == 3
    read = [dataset[index] for index in range(3)]
    assert [it["index"] for it in read] == [0, 1, 2]
    identities = [RowIdentity.of_extra_info(it["extra_info"]) for it in read]
    assert identities[0].row == odd.to_row()
    assert identities[1].row == sums[1].to_row()
    assert read[2]["agent_name"] == AGENT_NAME
    assert read[2]["raw_prompt"] == rows[2]["prompt"]


def test_a_folder_is_named_in_full(environment_folder: Any, monkeypatch: Any) -> None:
    folder = Path(
        environment_folder(
            "from gym_adapters import Environment, Task\n"
            "class Own(Environment[Task]):\n"
            "    name = 'own'\n"
            "    async def verify(self, transcript): return 1.0\n"
        )
    )
    monkeypatch.chdir(folder.parent)
    task = Task.from_row({"responses_create_params": {"input": "hi"}})
    (row,) = verl_rows(folder.name, [task])
    assert json.loads(row["extra_info"][GYM])["environment"] == str(folder)


def test_nothing_is_written_for_what_can_not_be_carried(sums: list[Task]) -> None:
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]
    bad = type(sums[0]).from_row({**sums[0].to_row(), "responses_create_params": {"input": image}})
    with pytest.raises(Unsupported, match="images"):
        verl_rows("arithmetic_tools", [bad])
    with pytest.raises(InvalidRow, match="no tasks"):
        verl_rows("arithmetic_tools", [])
    with pytest.raises(InvalidConfig):
        verl_rows("arithmetic_tools", sums, overrides=["nonsense=1"])


def test_an_ending_that_verl_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"\.parquet and \.jsonl"):
        write_verl_rows([], tmp_path / "rows.csv")


@pytest.mark.parametrize("extra_info", [None, {}, {GYM: "{}"}, {GYM: "no json"}, {GYM: 3}])
def test_a_row_of_another_making_is_refused(extra_info: object) -> None:
    with pytest.raises(InvalidRow, match="export verl-rows"):
        RowIdentity.of_extra_info(extra_info)
