"""Rewards that are relative to the group."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from types import ModuleType

import pytest
from gym_adapters.environments.preference.environment import (
    Preference,
    PreferenceConfig,
    PreferenceTask,
)
from gym_adapters.environments.preference.scorers import (
    Brief,
    CoverageScorer,
    JudgedPairs,
    coverage,
    win_rates,
)
from gym_adapters.environments.preference.subjects import SUBJECTS, text_on
from hypothesis import given, strategies as st

from gym_adapters import (
    InvalidConfig,
    JudgeError,
    Outcome,
    Reward,
    Rollout,
    StopReason,
    VerifierError,
)
from gym_adapters.adapters.environment_run import EnvironmentRun
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import assistant_message
from gym_adapters.registry import load_environment
from gym_adapters.rollouts import collect
from gym_adapters.verifiers.judge import Judge, JudgeRequest, ScriptedJudge, judge_opener

BRIEF = Brief("Explain tides.", ("moon", "water"), 20)
GOOD = "Our moon pulls at all the water of the sea."
SHORT = "It is about the moon, mostly."
ROW = {
    "responses_create_params": {"input": "Explain tides."},
    "request": BRIEF.request,
    "required_words": list(BRIEF.required_words),
    "max_words": BRIEF.max_words,
}


def rollout(
    text: str, *, stop: StopReason = StopReason.ANSWERED, compared_by: str = "coverage"
) -> Rollout:
    return Rollout(
        row=ROW,
        task_id="t",
        rollout_index=0,
        prompt=(),
        output=(assistant_message(text),),
        tools=(),
        outcome=Outcome.scored(Reward(0.5, info={"compared_by": compared_by}), stop),
    )


def values(rewards: Sequence[Reward]) -> list[float]:
    return [reward.value for reward in rewards]


def test_coverage_falls_with_what_is_missing_too_long_repeated_or_merely_listed() -> None:
    assert coverage(BRIEF, GOOD) == 1.0
    assert coverage(BRIEF, SHORT) == 0.5
    assert coverage(BRIEF, "moon water") == 0.0
    assert coverage(BRIEF, f"{GOOD} " * 4) < 0.5
    assert coverage(BRIEF, "") == 0.0


@given(st.text(max_size=500))
def test_coverage_lies_between_0_and_1(text: str) -> None:
    assert 0.0 <= coverage(BRIEF, text) <= 1.0


async def compared_offline(group: Sequence[Rollout]) -> list[Reward]:
    config = PreferenceConfig()
    return await Preference.compare(group, config=config, resources=CoverageScorer())


async def test_the_reward_is_the_share_of_others_beaten_and_a_tie_is_a_half() -> None:
    group = [rollout(GOOD), rollout(SHORT), rollout(""), rollout(GOOD)]
    assert values(await compared_offline(group)) == pytest.approx([2.5 / 3, 1 / 3, 0.0, 2.5 / 3])


async def test_a_cut_attempt_gets_0_and_loses() -> None:
    group = [rollout(GOOD, stop=StopReason.LENGTH), rollout(SHORT)]
    assert values(await compared_offline(group)) == [0.0, 1.0]


async def test_an_attempt_alone_keeps_its_own_reward() -> None:
    assert values(await compared_offline([rollout(GOOD)])) == [0.5]
    assert await win_rates(CoverageScorer(), BRIEF, [GOOD]) == [0.5]


async def test_a_judge_is_asked_in_both_orders_and_its_last_word_counts() -> None:
    judge = ScriptedJudge(["Not [[B]] but [[A]]", "[[B]]"])
    assert await JudgedPairs(judge).preference(BRIEF, "x", "y") == 1.0
    assert [(r.first, r.second) for r in judge.requests] == [("x", "y"), ("y", "x")]
    biased = JudgedPairs(ScriptedJudge(["[[A]]", "[[A]]"]))
    assert await biased.preference(BRIEF, "x", "y") == 0.5
    with pytest.raises(JudgeError, match="holds none of"):
        await JudgedPairs(ScriptedJudge(["?", "[[A]]"])).preference(BRIEF, "x", "y")


class LongerIsBetter:
    asked = 0

    async def ask(self, request: JudgeRequest) -> str:
        self.asked += 1
        return "[[A]]" if len(request.first) > len(request.second) else "[[B]]"


@asynccontextmanager
async def opened(spec: str) -> AsyncIterator[Judge]:
    assert spec == "a-model"
    yield LongerIsBetter()


async def test_the_configured_judge_compares_the_group_wherever_it_is_compared() -> None:
    group = [rollout("short", compared_by="judge"), rollout("much longer", compared_by="judge")]
    config = PreferenceConfig(judge="a-model")
    token = judge_opener.set(opened)
    try:
        async with open_episode_resources(Preference, config) as judged:
            elsewhere = asyncio.create_task(
                Preference.compare(group, config=config, resources=judged), context=Context()
            )
            assert values(await elsewhere) == [0.0, 1.0]
    finally:
        judge_opener.reset(token)
    with pytest.raises(VerifierError, match="without its resources"):
        await Preference.compare(group, config=config, resources=None)


def test_a_trainer_run_compares_with_the_configured_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("judge_of_lengths")
    module.judge = LongerIsBetter()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "judge_of_lengths", module)
    run = EnvironmentRun(Preference, config=PreferenceConfig(judge="judge_of_lengths:judge"))
    try:
        judged = run.loop.run(run.compared([rollout("short"), rollout("much longer")]))
    finally:
        run.close()
    assert [each.reward for each in judged] == [0.0, 1.0]


async def test_a_collected_group_is_compared_with_the_configured_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = LongerIsBetter()
    module = ModuleType("judge_of_lengths")
    module.judge = judge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "judge_of_lengths", module)
    config = PreferenceConfig(judge="judge_of_lengths:judge")
    tasks = Preference.generate_tasks(2, seed=1)
    collected = collect(Preference, tasks, model="scripted:gold", config=config, num_repeats=3)
    rewards = [each.outcome.reward async for each in collected]
    assert judge.asked == 2 * 3 * 2
    assert [each.value for each in rewards if each is not None] == [0.5] * 6


def test_there_is_a_sentence_for_every_word() -> None:
    for words in SUBJECTS.values():
        assert "namely" not in text_on(words)
        assert coverage(Brief("", words, 80), text_on(words)) == 1.0


def test_it_asks_its_driver_for_group_rewards() -> None:
    assert Preference.capabilities().compares


def test_the_examples_are_the_generators_own() -> None:
    rows = [asked.to_row() for asked in load_environment("preference").example_tasks()]
    made = [
        asked.to_row()
        for seed, difficulty in enumerate((0.0, 0.5, 1.0))
        for asked in Preference.generate_tasks(2, seed=seed, difficulty=difficulty)
    ]
    assert rows == made
    assert all(isinstance(PreferenceTask.from_row(row), PreferenceTask) for row in rows)


async def test_an_empty_text_loses_without_a_judge_being_asked() -> None:
    judge = ScriptedJudge([])
    assert await win_rates(JudgedPairs(judge), BRIEF, [GOOD, " "]) == [1.0, 0.0]
    assert await win_rates(JudgedPairs(judge), BRIEF, ["", ""]) == [0.5, 0.5]
    assert judge.requests == []


async def test_what_a_judge_raises_is_the_judges_fault() -> None:
    with pytest.raises(JudgeError, match="down"):
        await JudgedPairs(ScriptedJudge([OSError("down")] * 2)).preference(BRIEF, GOOD, SHORT)


async def test_the_exact_judge_cannot_compare() -> None:
    with pytest.raises(InvalidConfig, match="which of two texts"):
        async with Preference.open_resources(PreferenceConfig(judge="exact")):
            pass
