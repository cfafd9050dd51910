"""The instruction_following environment: old and new rows, both gradings, recorded rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gym_adapters.environments.instruction_following.environment import (
    InstructionFollowing,
    InstructionFollowingTask,
)

from gym_adapters import InvalidRow, Reward, StopReason, Transcript, Unsupported
from gym_adapters.items import assistant_message
from gym_adapters.task import read_rows

ASKED: dict[str, Any] = {
    "instruction_id_list": ["punctuation:no_comma", "count:lowercase_counting"],
    "kwargs": [None, {"N": 2}],
}


def make_task(**fields: Any) -> InstructionFollowingTask:
    return InstructionFollowingTask.from_row({"responses_create_params": {"input": "?"}, **fields})


async def judged(
    task: InstructionFollowingTask, text: str, stop: StopReason = StopReason.ANSWERED
) -> Reward:
    transcript = Transcript(task.input, [assistant_message(text)], stop)
    return Reward.of(await InstructionFollowing(task).verify(transcript))


@pytest.mark.parametrize("row", [ASKED, {"verifier_metadata": ASKED}, {"id": 1, **ASKED}])
async def test_old_and_new_rows_are_judged_alike(row: dict[str, Any]) -> None:
    task = make_task(**row)
    assert (await judged(task, "One two three")).value == 1.0
    half = await judged(task, "One two three, four")
    assert half.value == 0.0
    assert half.components == {"fraction": 0.0}
    assert half.info["follow_instruction_list"] == [False, False]


async def test_fractions_are_given_where_the_row_asks_for_them() -> None:
    task = make_task(**ASKED, grading_mode="fraction")
    assert (await judged(task, "One, two three")).value == 0.5
    assert (await judged(task, "One two three")).value == 1.0
    nested = make_task(**ASKED, verifier_metadata={"grading_mode": "fraction"})
    assert (await judged(nested, "One, two three")).value == 0.5


async def test_a_cut_text_follows_nothing() -> None:
    task = make_task(**ASKED, grading_mode="fraction")
    assert (await judged(task, "One", StopReason.LENGTH)).value == 0.0


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({}, "instruction_id_list"),
        ({**ASKED, "kwargs": [None]}, "instruction_id_list"),
        ({"instruction_id_list": [], "kwargs": []}, "instruction_id_list"),
        ({**ASKED, "kwargs": [None, {}]}, r"kwargs\[1\]"),
        ({**ASKED, "grading_mode": "weighted"}, "grading_mode"),
        ({**ASKED, "instruction_id_list": ["no:such", "no:such"]}, r"kwargs\[0\]"),
    ],
)
def test_rows_that_cant_be_judged_are_refused(row: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRow, match=field):
        make_task(**row)


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
async def test_generated_requests_can_be_followed_and_not_by_accident(difficulty: float) -> None:
    for task in InstructionFollowing.generate_tasks(40, seed=9, difficulty=difficulty):
        assert len(task.asked.instruction_id_list) == 1 + round(difficulty * 4)
        (turn,) = InstructionFollowing.gold_turns(task)
        transcript = Transcript(task.input, turn, StopReason.ANSWERED)
        assert Reward.of(await InstructionFollowing(task).verify(transcript)).value == 1.0
        assert (await judged(task, "asdf")).value == 0.0


def test_no_gold_is_claimed_where_none_can_be_composed() -> None:
    task = make_task(instruction_id_list=["keywords:palindrome"], kwargs=[None])
    with pytest.raises(Unsupported, match="palindrome"):
        InstructionFollowing.gold_turns(task)


async def test_recorded_rollouts_get_their_recorded_verdicts(nemo_gym_fixtures: Path) -> None:
    for line, row in read_rows(nemo_gym_fixtures / "instruction_following.jsonl"):
        task = InstructionFollowingTask.from_row(row["task"])
        transcript = Transcript(task.input, row["response"]["output"], StopReason.ANSWERED)
        reward = Reward.of(await InstructionFollowing(task).verify(transcript))
        recorded = row["recorded_extras"]["follow_instruction_list"]
        assert (line, reward.info["follow_instruction_list"]) == (line, recorded)
        assert reward.value == row["recorded_reward"]
