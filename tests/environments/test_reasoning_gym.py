"""The reasoning_gym environment: answers are found, scored by their generator, and never hang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gym_adapters.environments.reasoning_gym.environment import (
    ReasoningGym,
    ReasoningGymConfig,
    ReasoningGymTask,
    answer_in,
)
from gym_adapters.environments.reasoning_gym.generation import GENERATORS
from hypothesis import given, strategies as st

from gym_adapters import (
    Boundary,
    Episode,
    InvalidConfig,
    InvalidRow,
    MissingExtra,
    Outcome,
    StopReason,
    Unsupported,
)
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import assistant_message
from gym_adapters.task import read_rows
from gym_adapters.verifiers.process_pool import ProcessPool


def make_task(dataset: str, **fields: Any) -> ReasoningGymTask:
    row: dict[str, Any] = {
        "responses_create_params": {"input": "?"},
        "question": "?",
        "answer": "5",
        "metadata": {"source_dataset": dataset, **fields},
    }
    return ReasoningGymTask.from_row(row)


async def outcome_of(task: ReasoningGymTask, text: str, pool: ProcessPool | None) -> Outcome:
    async with Episode(ReasoningGym, task, resources=pool) as episode:
        await episode.start()
        step = await episode.advance([assistant_message(text)])
    assert step.outcome is not None
    return step.outcome


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> 5 </answer>", "5"),
        ("<answer>4</answer> no: <answer>5</answer>", "5"),
        (r"<answer>5</answer>, not \boxed{4}", "5"),
        (r"\boxed{4} no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("  Five.\n", "Five."),
        ("<answer>5", "<answer>5"),
        ("", ""),
    ],
)
def test_the_answer_is_found(text: str, answer: str) -> None:
    assert answer_in(text) == answer


@given(st.text(max_size=60), st.text(alphabet="ab <>/\\{}boxedanswer", max_size=60))
def test_a_tagged_answer_is_found_after_any_text(before: str, answer: str) -> None:
    if "<answer>" not in answer and "</answer>" not in answer:
        assert answer_in(f"{before}<answer>{answer}</answer>") == answer.strip()


async def test_answers_are_scored_by_their_generator() -> None:
    async with ReasoningGym.open_resources(ReasoningGymConfig(workers=1)) as pool:
        for task in ReasoningGym.generate_tasks(len(GENERATORS), seed=4, difficulty=0.2):
            assert task.answer is not None
            right = await outcome_of(task, f"<answer>{task.answer}</answer>", pool)
            assert right.reward is not None, right.failure
            assert right.reward.value == 1.0, task.dataset
            wrong = await outcome_of(task, "<answer>asdf</answer>", pool)
            assert wrong.reward is not None, wrong.failure
            assert wrong.reward.value < 0.1, task.dataset


async def test_a_scorer_that_fails_leaves_the_rollout_unscored_and_the_next_one_scored() -> None:
    async with ReasoningGym.open_resources(ReasoningGymConfig(workers=1)) as pool:
        failed = await outcome_of(make_task("no_such_generator"), "5", pool)
        assert failed.reward is None
        assert failed.failure is not None
        assert failed.failure.boundary is Boundary.VERIFIER
        assert "no_such_generator" in failed.failure.message
        after = await outcome_of(make_task("chain_sum"), "5", pool)
        assert after.reward is not None
        assert after.reward.value == 1.0


async def test_a_scorer_that_never_ends_leaves_the_rollout_unscored() -> None:
    # countdown evaluates the answer; its numbers are 9, 9 and 9.
    task = make_task("countdown", numbers=[9, 9, 9, 9], target=5)
    async with ReasoningGym.open_resources(ReasoningGymConfig(workers=1, cpu_limit=1.0)) as pool:
        hanging = await outcome_of(task, "9**9**9**9", pool)
    assert hanging.reward is None
    assert hanging.failure is not None
    assert "CPU time" in hanging.failure.message


@pytest.mark.parametrize("text", ["", "   ", "<answer></answer>", "x" * 30_000])
async def test_no_answer_or_an_endless_one_gets_0_without_a_scorer(text: str) -> None:
    outcome = await outcome_of(make_task("chain_sum"), text, None)
    assert outcome.reward is not None
    assert outcome.reward.value == 0.0


async def test_a_cut_answer_gets_0() -> None:
    async with Episode(ReasoningGym, make_task("chain_sum")) as episode:
        await episode.start()
        step = await episode.advance([assistant_message("5")], finish_reason="length")
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.LENGTH
    assert step.outcome.reward is not None
    assert step.outcome.reward.value == 0.0


def test_any_generator_can_be_named_with_its_own_settings() -> None:
    (task,) = ReasoningGym.generate_from("countdown", 1, seed=1, min_numbers=3, max_numbers=3)
    assert task.dataset == "countdown"
    assert len(task.metadata["numbers"]) == 3


def test_difficulty_follows_the_curriculum() -> None:
    easy, hard = (
        next(iter(ReasoningGym.generate_from("chain_sum", 1, seed=1, difficulty=difficulty)))
        for difficulty in (0.0, 1.0)
    )
    assert len(easy.question) < len(hard.question)


@pytest.mark.parametrize("dataset", ["word_ladder", "rearc", "arc_agi"])
async def test_what_json_does_to_a_row_costs_no_right_answer_its_reward(dataset: str) -> None:
    (task,) = ReasoningGym.generate_from(dataset, 1, seed=1, difficulty=0.0)
    async with (
        open_episode_resources(ReasoningGym) as resources,
        Episode(ReasoningGym, task, resources=resources) as episode,
    ):
        await episode.start()
        step = await episode.advance(ReasoningGym.gold_turns(task)[0])
    assert step.outcome is not None
    assert step.outcome.reward is not None, step.outcome.failure
    assert step.outcome.reward.value == 1.0


# Why some generators have no answer of their own.
NO_GOLD = {
    "boxnet": "a plan is judged by playing it out",
    "graph_color": "any proper colouring will do",
    "propositional_logic": "any conclusion that follows will do",
    "rubiks_cube": "any moves that solve the cube will do",
    "rush_hour": "any moves that free the car will do",
}


def own_settings(dataset: str) -> dict[str, Any]:
    """What a generator can't do without, or must be told since its curriculum asks for too much."""
    if dataset == "composite":
        from reasoning_gym.composite import DatasetSpec

        return {"datasets": [DatasetSpec("chain_sum", 1, {}), DatasetSpec("gcd", 1, {})]}
    return {
        "caesar_cipher": {"max_rotation": 25},
        # With few jugs its solver does not give up.
        "jugs": {"num_jugs": 3},
        "knight_swap": {"min_nodes": 6},
        "survo": {"max_empty": 9},
    }.get(dataset, {})


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_every_generator_of_the_package_scores_its_own_answer_1_and_a_wrong_one_less() -> (
    None
):
    factory = pytest.importorskip("reasoning_gym.factory", reason="needs the extra reasoning-gym")
    assert len(factory.DATASETS) >= 100
    assert set(NO_GOLD) < set(factory.DATASETS)
    wrong: dict[str, Any] = {}
    async with ReasoningGym.open_resources(ReasoningGymConfig(workers=1)) as pool:
        for dataset in sorted(factory.DATASETS):
            for task in ReasoningGym.generate_from(dataset, 3, seed=3, **own_settings(dataset)):
                try:
                    gold = ReasoningGym.gold_turns(task)[0][0]["content"][0]["text"]
                except Unsupported:
                    gold = None
                if (gold is None) != (dataset in NO_GOLD):
                    wrong[dataset] = f"an answer of its own: {gold}"
                answers = {"<answer>asdf</answer>": False, **({gold: True} if gold else {})}
                for text, right in answers.items():
                    outcome = await outcome_of(task, text, pool)
                    if outcome.reward is None or (outcome.reward.value == 1.0) is not right:
                        wrong[dataset] = (text, outcome)
    assert wrong == {}


async def test_an_answer_that_the_scorer_cannot_read_is_wrong_and_a_broken_row_is_unscored() -> (
    None
):
    task = make_task("prime_factorization")
    broken = ReasoningGymTask.from_row({**task.to_row(), "answer": "no number"})
    async with ReasoningGym.open_resources(ReasoningGymConfig(workers=1)) as pool:
        outcome = await outcome_of(task, "asdf", pool)
        assert outcome.reward is not None
        assert outcome.reward.value == 0.0
        assert "ValueError" in outcome.reward.info["unreadable"]
        assert (await outcome_of(broken, "asdf", pool)).reward is None


async def test_a_scorer_that_takes_any_answer_is_not_asked() -> None:
    row = {**make_task("game_of_life_halting").to_row(), "answer": "False"}
    task = ReasoningGymTask.from_row(row)
    async with ReasoningGym.open_resources(ReasoningGymConfig(workers=1)) as pool:
        for answer, reward in (("False", 1.0), ("false", 1.0), ("True", 0.0), ("asdf", 0.0)):
            outcome = await outcome_of(task, answer, pool)
            assert outcome.reward is not None, outcome.failure
            assert outcome.reward.value == reward


def test_where_the_generators_solver_gave_up_there_is_no_gold() -> None:
    row = {**make_task("jugs").to_row(), "answer": '["No solution"]'}
    with pytest.raises(Unsupported, match="jugs gives no answer"):
        ReasoningGym.gold_turns(ReasoningGymTask.from_row(row))


def test_a_generator_or_setting_that_is_unknown_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="no generator 'soduko'"):
        next(ReasoningGym.generate_from("soduko", 1))
    with pytest.raises(InvalidConfig, match="max_terns"):
        next(ReasoningGym.generate_from("chain_sum", 1, max_terns=3))


def test_a_row_must_name_its_generator() -> None:
    with pytest.raises(InvalidRow, match="source_dataset"):
        ReasoningGymTask.from_row(
            {"responses_create_params": {"input": "?"}, "question": "?", "metadata": {}}
        )


async def test_without_the_package_opening_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "gym_adapters.environments.reasoning_gym.environment"
    monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"gym-adapters\[reasoning-gym\]"):
        async with ReasoningGym.open_resources(ReasoningGymConfig()):
            pass


async def test_recorded_rollouts_get_their_recorded_rewards(nemo_gym_fixtures: Path) -> None:
    rewards, expected = [], []
    async with ReasoningGym.open_resources(ReasoningGymConfig(workers=1)) as pool:
        for _, row in read_rows(nemo_gym_fixtures / "reasoning_gym.jsonl"):
            task = ReasoningGymTask.from_row(row["task"])
            async with Episode(ReasoningGym, task, resources=pool) as episode:
                await episode.start()
                step = await episode.advance(row["response"]["output"])
            assert step.outcome is not None
            assert step.outcome.reward is not None, step.outcome.failure
            rewards.append(step.outcome.reward.value)
            expected.append(row["recorded_reward"])
    assert rewards == expected
