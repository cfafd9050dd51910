from __future__ import annotations

from typing import Any

import pytest

from gym_adapters import Task
from gym_adapters.adapters.verl.reward import compute_score
from gym_adapters.adapters.verl.rows import RowIdentity, verl_rows
from gym_adapters.errors import InvalidRow, RolloutError, Unsupported

SINGLE = """
from gym_adapters import Environment, JudgeError, Reward, Task


class Single(Environment[Task]):
    name = "single"

    async def verify(self, transcript):
        if transcript.final_text == "fail":
            raise JudgeError("the judge is down")
        return Reward(float(transcript.final_text == "yes"), {"length": len(transcript.final_text)})
"""


@pytest.fixture
def row(environment_folder: Any) -> dict[str, Any]:
    task = Task.from_row({"responses_create_params": {"input": "yes or no?"}})
    name = environment_folder(SINGLE)
    (row,) = verl_rows(name, [task], components=["length", "absent"])
    return row


async def test_an_answer_has_the_environments_verdict_and_the_rows_schema(
    row: dict[str, Any],
) -> None:
    score = await compute_score("single", "yes", "", row["extra_info"])
    other = await compute_score("single", "no", "", {**row["extra_info"], "num_turns": 2}, x=1)
    assert (score["score"], score["component/length"]) == (1.0, 3.0)
    assert (other["score"], other["component/length"]) == (0.0, 2.0)
    assert (
        list(score) == list(other) == ["score", "truncated", "component/length", "component/absent"]
    )


async def test_a_failure_is_no_number(row: dict[str, Any]) -> None:
    with pytest.raises(RolloutError, match="the judge is down"):
        await compute_score("single", "fail", "", row["extra_info"])


async def test_rows_of_another_making_and_environments_with_tools_are_refused(
    sums: list[Task],
) -> None:
    with pytest.raises(InvalidRow):
        await compute_score("x", "yes", "", {})
    text = RowIdentity("arithmetic_tools", (), (), sums[0].to_row()).to_text()
    with pytest.raises(Unsupported, match="use the agent loop"):
        await compute_score("x", "yes", "", {"gym": text})


async def test_verls_reward_worker_calls_it(row: dict[str, Any], verl_config: Any) -> None:
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn

    config = OmegaConf.create(OmegaConf.to_container(verl_config, resolve=False))
    config.reward.custom_reward_function.path = "pkg://gym_adapters.adapters.verl.reward"
    config.reward.custom_reward_function.name = "compute_score"
    function = get_custom_reward_fn(config)
    score = await function(
        data_source="single", solution_str="yes", ground_truth="", extra_info=row["extra_info"]
    )
    assert score["score"] == 1.0
