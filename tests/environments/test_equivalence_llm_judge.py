"""The equivalence_llm_judge environment: what a judge is shown, and what its verdicts are worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gym_adapters.environments.equivalence_llm_judge.environment import (
    EquivalenceConfig,
    EquivalenceLlmJudge,
    EquivalenceTask,
    _tell_that_nobody_judges,
)

from gym_adapters import Boundary, Episode, InvalidConfig, InvalidRow, Outcome, load_environment
from gym_adapters.items import assistant_message, final_text, item_text
from gym_adapters.task import read_rows
from gym_adapters.verifiers.judge import ExactJudge, ScriptedJudge

YES, NO = "[[A=B]] yes", "[[A!=B]] no"
PATTERN = {"template_metadata": {"output_regex": r"Answer: (\w+)"}}


def make_task(**fields: Any) -> EquivalenceTask:
    row = {"responses_create_params": {"input": "Capital of Peru?"}, "expected_answer": "Lima"}
    return EquivalenceTask.from_row({**row, **fields})


async def outcome_of(
    text: str, judge: ScriptedJudge, task: EquivalenceTask | None = None, **settings: Any
) -> Outcome:
    async with Episode(
        EquivalenceLlmJudge,
        task or make_task(),
        config=EquivalenceConfig(**settings),
        resources=judge,
    ) as episode:
        await episode.start()
        step = await episode.advance([assistant_message(text)])
    assert step.outcome is not None
    return step.outcome


def value_of(outcome: Outcome) -> float:
    assert outcome.reward is not None, outcome.failure
    return outcome.reward.value


@pytest.mark.parametrize(
    ("replies", "settings", "row", "reward"),
    [
        ([YES], {}, {}, 1.0),
        ([NO], {}, {}, 0.0),
        ([YES, YES], {"check_twice_swap": True}, {}, 1.0),
        ([YES, NO], {"check_twice_swap": True}, {}, 0.0),
        ([YES, NO], {"check_twice_swap": True, "reward_if_swap_fails": -1.0}, {}, -1.0),
        ([NO], {"check_twice_swap": True}, {}, 0.0),
        ([NO], {"check_full_generation_on_fail": True}, {}, 0.0),
        ([NO, YES], {"check_full_generation_on_fail": True}, PATTERN, 0.5),
        ([NO, NO], {"check_full_generation_on_fail": True}, PATTERN, 0.0),
        ([YES], {"check_full_generation_on_fail": True}, PATTERN, 1.0),
        (
            [NO],
            {"check_full_generation_on_fail": True, "extraction_length_threshold": 3},
            PATTERN,
            0.0,
        ),
        ([YES], {"check_twice_swap": True, "extraction_length_threshold": 3}, PATTERN, 1.0),
        (
            [NO],
            {"check_full_generation_on_fail": True, "use_per_record_regex": False},
            PATTERN,
            0.0,
        ),
    ],
)
async def test_what_verdicts_are_worth(
    replies: Sequence[str], settings: dict[str, Any], row: dict[str, Any], reward: float
) -> None:
    judge = ScriptedJudge(replies)
    outcome = await outcome_of("Answer: lima", judge, make_task(**row), **settings)
    assert value_of(outcome) == reward
    assert len(judge.requests) == len(replies)


async def test_the_judge_sees_the_question_both_answers_and_the_labels() -> None:
    judge = ScriptedJudge([YES])
    await outcome_of("It is {question} lima.", judge)
    (request,) = judge.requests
    text = item_text(request.prompt[-1])
    for part in ("Capital of Peru?", "Lima", "It is {question} lima.", "[[A=B]]", "[[A!=B]]"):
        assert part in text
    assert (request.first, request.second) == ("Lima", "It is {question} lima.")


@pytest.mark.parametrize(
    ("settings", "row", "shown"),
    [
        ({}, PATTERN, "lima"),
        ({"use_per_record_regex": False}, PATTERN, "So. Answer: lima"),
        ({"extraction_length_threshold": 3}, PATTERN, "So. Answer: lima"),
        ({"extraction_length_threshold": 4}, PATTERN, "lima"),
        ({"response_extract_regex": r"So"}, {}, "So"),
        ({"response_extract_regex": r"absent"}, {}, "So. Answer: lima"),
    ],
)
async def test_a_pattern_finds_the_answer(
    settings: dict[str, Any], row: dict[str, Any], shown: str
) -> None:
    judge = ScriptedJudge([YES])
    await outcome_of("So. Answer: lima", judge, make_task(**row), **settings)
    assert judge.requests[0].second == shown


async def test_swapping_shows_the_answers_in_the_other_order() -> None:
    judge = ScriptedJudge([YES, YES])
    await outcome_of("lima", judge, check_twice_swap=True)
    assert [(r.first, r.second) for r in judge.requests] == [("Lima", "lima"), ("lima", "Lima")]


@pytest.mark.parametrize("reply", ["no idea", OSError("down")])
async def test_a_judge_that_fails_leaves_the_rollout_unscored(reply: str | Exception) -> None:
    outcome = await outcome_of("lima", ScriptedJudge([reply]))
    assert outcome.reward is None
    assert outcome.failure is not None
    assert outcome.failure.boundary is Boundary.JUDGE


async def test_an_empty_message_gets_0_without_a_judge() -> None:
    judge = ScriptedJudge([])
    assert value_of(await outcome_of(" ", judge)) == 0.0


async def test_without_a_judge_only_the_same_text_counts_and_that_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _tell_that_nobody_judges.cache_clear()
    config = load_environment("equivalence_llm_judge").config()
    assert config == EquivalenceConfig()
    for _ in range(2):
        async with EquivalenceLlmJudge.open_resources(config) as judge:
            assert isinstance(judge, ExactJudge)
    (told,) = caplog.records
    assert told.levelname == "WARNING"
    assert "Set judge to a model" in told.getMessage()


async def test_a_judge_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="nobody"):
        async with EquivalenceLlmJudge.open_resources(EquivalenceConfig(judge="nobody")):
            pass


async def test_the_exact_judge_needs_no_model() -> None:
    config = EquivalenceConfig(judge="exact", judge_equal_label="YES", judge_not_equal_label="NO")
    async with EquivalenceLlmJudge.open_resources(config) as judge:
        for task in EquivalenceLlmJudge.generate_tasks(20, seed=1):
            (turn,) = EquivalenceLlmJudge.gold_turns(task)
            async with Episode(
                EquivalenceLlmJudge, task, config=config, resources=judge
            ) as episode:
                await episode.start()
                step = await episode.advance(turn)
            assert step.outcome is not None
            assert value_of(step.outcome) == 1.0


def test_rows_without_an_answer_or_with_a_broken_pattern_are_refused() -> None:
    with pytest.raises(InvalidRow, match="expected_answer"):
        make_task(expected_answer=None)
    with pytest.raises(InvalidRow, match="output_regex"):
        make_task(template_metadata={"output_regex": "("})
    assert make_task(expected_answer=None, metadata={"expected_answer": 5}).answer == "5"


async def test_recorded_rollouts_get_their_recorded_rewards(nemo_gym_fixtures: Path) -> None:
    rewards, expected = [], []
    for _, row in read_rows(nemo_gym_fixtures / "equivalence_llm_judge.jsonl"):
        said = row["recorded_extras"]["judge_evaluations"]
        judge = ScriptedJudge([final_text(each["response"]["output"]) for each in said])
        text = final_text(row["response"]["output"])
        rewards.append(
            value_of(await outcome_of(text, judge, EquivalenceTask.from_row(row["task"])))
        )
        expected.append(row["recorded_reward"])
    assert rewards == expected
