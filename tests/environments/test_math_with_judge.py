"""The math_with_judge environment: who decides, and what a failure of theirs means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from gym_adapters.environments.math_with_judge.environment import (
    MathConfig,
    MathResources,
    MathTask,
    MathWithJudge,
)

from gym_adapters import (
    Boundary,
    Episode,
    InvalidConfig,
    InvalidRow,
    MissingExtra,
    Outcome,
    StopReason,
)
from gym_adapters.items import assistant_message, final_text
from gym_adapters.task import read_rows
from gym_adapters.verifiers.judge import ScriptedJudge
from gym_adapters.verifiers.math import MathPool, same_value

EQUAL, DIFFERENT = "Same. [[A=B]]", "Not the same. [[A!=B]]"


def make_task(expected: str) -> MathTask:
    return MathTask.from_row(
        {
            "responses_create_params": {"input": "How much?"},
            "question": "How much?",
            "expected_answer": expected,
        }
    )


@pytest.fixture
async def pool() -> AsyncIterator[MathPool]:
    async with MathPool(workers=1) as opened:
        yield opened


async def outcome_of(
    answer: str, expected: str, pool: MathPool, judge: ScriptedJudge | None = None
) -> Outcome:
    task = make_task(expected)
    async with Episode(MathWithJudge, task, resources=MathResources(pool, judge)) as episode:
        await episode.start()
        step = await episode.advance([assistant_message(answer)])
    assert step.outcome is not None
    return step.outcome


def value_of(outcome: Outcome) -> float:
    assert outcome.reward is not None, outcome.failure
    return outcome.reward.value


async def test_an_equal_answer_needs_no_judge(pool: MathPool) -> None:
    judge = ScriptedJudge([])
    outcome = await outcome_of(r"\boxed{0.5}", r"\frac{1}{2}", pool, judge)
    assert value_of(outcome) == 1.0
    assert judge.requests == []


async def test_without_a_judge_a_different_answer_gets_0(pool: MathPool) -> None:
    outcome = await outcome_of(r"\boxed{3}", "4", pool)
    assert value_of(outcome) == 0.0
    assert outcome.reward is not None
    assert outcome.reward.info["extracted_answer"] == "3"


@pytest.mark.parametrize(
    ("replies", "reward"),
    [([EQUAL, EQUAL], 1.0), ([EQUAL, DIFFERENT], 0.0), ([DIFFERENT], 0.0)],
)
async def test_a_judge_must_find_them_equal_in_both_orders(
    replies: Sequence[str], reward: float, pool: MathPool
) -> None:
    judge = ScriptedJudge(replies)
    outcome = await outcome_of(r"so \boxed{\text{two}}", "2", pool, judge)
    assert value_of(outcome) == reward
    pairs = [("2", r"\text{two}"), (r"\text{two}", "2")]
    assert [(asked.first, asked.second) for asked in judge.requests] == pairs[: len(replies)]
    assert outcome.reward is not None
    assert [said["text"] for said in outcome.reward.info["judge_evaluations"]] == replies
    assert outcome.reward.components == {"library": 0.0}


@pytest.mark.parametrize("reply", ["I can't say.", "", RuntimeError("the judge is down")])
async def test_a_judge_that_fails_leaves_the_rollout_unscored(
    reply: str | Exception, pool: MathPool
) -> None:
    outcome = await outcome_of(r"\boxed{\text{two}}", "2", pool, ScriptedJudge([reply]))
    assert outcome.reward is None
    assert outcome.failure is not None
    assert outcome.failure.boundary is Boundary.JUDGE


async def test_a_judge_is_not_asked_about_nothing(pool: MathPool) -> None:
    judge = ScriptedJudge([])
    assert value_of(await outcome_of("  ", "2", pool, judge)) == 0.0


async def test_a_cut_answer_gets_0(pool: MathPool) -> None:
    async with Episode(MathWithJudge, make_task("2"), resources=MathResources(pool)) as episode:
        await episode.start()
        step = await episode.advance([assistant_message(r"\boxed{2}")], finish_reason="length")
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.LENGTH
    assert value_of(step.outcome) == 0.0


async def test_resources_bring_the_judge_that_the_config_names() -> None:
    async with MathWithJudge.open_resources(MathConfig(judge="exact")) as resources:
        outcome = await outcome_of(r"\boxed{Two.}", "two", resources.pool, resources.judge)
        assert value_of(outcome) == 1.0
    with pytest.raises(InvalidConfig, match="exact"):
        async with MathWithJudge.open_resources(MathConfig(judge="some-model")):
            pass


async def test_without_resources_the_rollout_is_unscored_and_says_why() -> None:
    async with Episode(MathWithJudge, make_task("2")) as episode:
        await episode.start()
        step = await episode.advance([assistant_message("2")])
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert "open_resources" in step.outcome.failure.message


async def test_without_math_verify_opening_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gym_adapters.verifiers.math.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"gym-adapters\[verifiers\]"):
        async with MathWithJudge.open_resources(MathConfig()):
            pass


def test_a_row_without_an_answer_is_refused() -> None:
    with pytest.raises(InvalidRow, match="expected_answer"):
        make_task("")


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_generated_problems_are_answered_by_their_gold(difficulty: float) -> None:
    for task in MathWithJudge.generate_tasks(50, seed=2, difficulty=difficulty):
        (turn,) = MathWithJudge.gold_turns(task)
        assert same_value(task.expected_answer, final_text(turn)) is True


async def test_recorded_rollouts_get_their_recorded_rewards(
    nemo_gym_fixtures: Path, pool: MathPool
) -> None:
    rewards = []
    rows = [row for _, row in read_rows(nemo_gym_fixtures / "math_with_judge.jsonl")]
    for row in rows:
        recorded = row["recorded_extras"]["judge_evaluations"] or []
        judge = ScriptedJudge([final_text(said["response"]["output"]) for said in recorded])
        resources = MathResources(pool, judge)
        async with Episode(MathWithJudge, MathTask.from_row(row["task"]), resources=resources) as e:
            await e.start()
            step = await e.advance(row["response"]["output"])
        assert step.outcome is not None
        assert step.outcome.reward is not None, step.outcome.failure
        rewards.append((step.outcome.reward.value, step.outcome.reward.components["library"]))
        assert len(judge.requests) == len(recorded)
    assert rewards == [
        (row["recorded_reward"], row["recorded_extras"]["library_reward"]) for row in rows
    ]
