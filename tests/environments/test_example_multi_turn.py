"""The script is followed to its end, and the last answer counts."""

from __future__ import annotations

from typing import Any

import pytest
from gym_adapters.environments.example_multi_turn.environment import FollowUps, FollowUpTask

from gym_adapters import Episode, EpisodeLimits, InvalidRow, OutcomeStatus
from gym_adapters.items import assistant_message, user_message

ROW: dict[str, Any] = {
    "responses_create_params": {"input": "What is 15 times 8?"},
    "follow_ups": ["Divide it by 6.", "Which city is that the number of?"],
    "expected_answer": "Eiffel",
}


async def test_each_answer_is_followed_up_and_the_last_one_judged() -> None:
    async with Episode(FollowUps, FollowUpTask.from_row(ROW)) as episode:
        await episode.start()
        step = await episode.advance([assistant_message("120")])
        assert step.items == (user_message("Divide it by 6."),)
        step = await episode.advance([assistant_message("20")])
        assert step.items == (user_message("Which city is that the number of?"),)
        step = await episode.advance([assistant_message("the EIFFEL tower's")])
    assert step.outcome is not None
    assert step.outcome.reward is not None
    assert step.outcome.reward.value == 1.0


async def test_the_answer_given_too_early_does_not_count() -> None:
    async with Episode(FollowUps, FollowUpTask.from_row(ROW)) as episode:
        await episode.start()
        for text in ("Eiffel", "Eiffel", "who knows"):
            step = await episode.advance([assistant_message(text)])
    assert step.outcome is not None
    assert step.outcome.reward is not None
    assert step.outcome.reward.value == 0.0


async def test_a_conversation_cut_short_gets_nothing() -> None:
    limits = EpisodeLimits(max_turns=2)
    async with Episode(FollowUps, FollowUpTask.from_row(ROW), limits=limits) as episode:
        await episode.start()
        await episode.advance([assistant_message("Eiffel")])
        step = await episode.advance([assistant_message("Eiffel")])
    assert step.outcome is not None
    assert step.outcome.status is OutcomeStatus.TRUNCATED
    assert step.outcome.reward is not None
    assert step.outcome.reward.value == 0.0


def test_the_fields_may_stand_under_verifier_metadata() -> None:
    params = ROW["responses_create_params"]
    nested = {"follow_ups": ["and?"], "expected_answer": "x"}
    row = {"responses_create_params": params, "verifier_metadata": nested}
    task = FollowUpTask.from_row(row)
    assert task.follow_ups == ["and?"]
    assert task.expected_answer == "x"
    assert task.to_row() == row
    top = FollowUpTask.from_row({**row, "expected_answer": "y"})
    assert top.expected_answer == "y"


@pytest.mark.parametrize("expected", ["", None])
def test_a_row_that_expects_nothing_is_refused(expected: Any) -> None:
    with pytest.raises(InvalidRow) as caught:
        FollowUpTask.from_row({**ROW, "expected_answer": expected})
    assert caught.value.field == "expected_answer"


def test_difficulty_is_how_many_follow_ups_there_are() -> None:
    def follow_ups(difficulty: float) -> int:
        [task] = FollowUps.generate_tasks(1, difficulty=difficulty)
        return len(task.follow_ups)

    assert (follow_ups(0.0), follow_ups(1.0)) == (1, 6)
