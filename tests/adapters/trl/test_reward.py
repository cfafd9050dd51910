from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    InvalidRow,
    JudgeError,
    Reward,
    Task,
    Transcript,
    Unsupported,
    UsageError,
    tool,
)
from gym_adapters.adapters.trl import RolloutReward, reward_function, survivors_only, trl_spec
from gym_adapters.adapters.trl.reporting import Attempt
from gym_adapters.adapters.trl.trainer_facts import TrainerFacts
from gym_adapters.testing.tiny_model import TinyPolicy


class Logged:
    """Takes the mean of what is logged, as a trainer does."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def log(self, name: str, value: float) -> None:
        self._values.setdefault(name, []).append(value)

    @property
    def means(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self._values.items()}


class Question(Task):
    answer: str


class Quiz(Environment[Question]):
    """1 for the answer; a judge that fails on ``?``."""

    opened = 0

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[str]:
        Quiz.opened += 1
        yield "book"

    async def verify(self, transcript: Transcript) -> Reward:
        if transcript.final_text == "?":
            raise JudgeError("unreadable")
        right = transcript.final_text == self.task.answer and self.resources == "book"
        return Reward(float(right), {"right": float(right), "cut": float(transcript.truncated)})


class Caller(Quiz):
    """1 for calling the tool."""

    @tool
    async def look_up(self, word: str) -> str:
        """Look a word up."""
        return word

    async def verify(self, transcript: Transcript) -> float:
        return float([call.arguments for call in transcript.tool_calls] == ['{"word": "x"}'])


class Asks(Quiz):
    async def reply(self, message: str) -> str:
        return "why?"


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


async def test_text_and_conversational_completions_are_scored_alike() -> None:
    reward = reward_function(Quiz)
    prompts, answers = ["q", "q", "q"], ["A", "B", "A"]
    given = {"prompts": prompts, "answer": answers}
    assert await reward(completions=["A", "A", "?"], **given) == [1.0, 0.0, None]
    spoken = [said("A"), said("A"), said("?")]
    assert await reward(completions=spoken, **given) == [1.0, 0.0, None]
    reward.close()


async def test_resources_are_opened_once_and_again_after_close() -> None:
    Quiz.opened = 0
    reward = reward_function(Quiz)
    for _ in range(3):
        await reward(prompts=["q"] * 4, completions=["A"] * 4, answer=["A"] * 4)
    assert Quiz.opened == 1
    reward.close()
    assert await reward(prompts=["q"], completions=["A"], answer=["A"]) == [1.0]
    assert Quiz.opened == 2
    reward.close()


async def test_what_trl_passes_besides_the_columns_is_no_column() -> None:
    metrics = Logged()
    reward = reward_function(Quiz)
    rewards = await reward(
        prompts=["q", "q"],
        completions=["A", "?"],
        completion_ids=[[1], [2]],
        answer=["A", "A"],
        environments=[object(), object()],
        trainer_state=object(),
        log_metric=metrics.log,
        log_extra=lambda *_: None,
    )
    assert rewards == [1.0, None]
    assert metrics.means["gym/components/right"] == 1.0
    assert metrics.means["gym/failed/judge"] == 0.5
    reward.close()


async def test_a_cut_completion_is_known_by_its_last_token() -> None:
    metrics = Logged()
    reward = reward_function(Quiz, facts=TrainerFacts(stop_token_ids=frozenset({9})))
    await reward(
        prompts=["q", "q"],
        completions=["A", "A"],
        completion_ids=[[1, 9], [1, 2]],
        answer=["A", "A"],
        log_metric=metrics.log,
    )
    assert metrics.means["gym/components/cut"] == 0.5
    reward.close()


async def test_tool_calls_of_the_one_turn_are_run() -> None:
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "x"}}}
    turn = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    reward = reward_function(Caller, prompts_show_tools=True)
    rewards = await reward(prompts=["q", "q"], completions=[turn, said("no")], answer=["A", "A"])
    assert rewards == [1.0, 0.0]
    reward.close()


async def test_a_completion_of_several_turns_is_an_error_that_says_what_to_use() -> None:
    reward = reward_function(Quiz)
    with pytest.raises(UsageError, match="environment_factory or rollout_function"):
        await reward(prompts=["q"], completions=[said("A") * 2], answer=["A"])


async def test_a_bad_row_names_its_field() -> None:
    reward = reward_function(Quiz)
    with pytest.raises(InvalidRow, match="answer"):
        await reward(prompts=["q"], completions=["A"])


@pytest.mark.parametrize(("environment", "word"), [(Asks, "one turn"), (Caller, "shows tools")])
def test_what_needs_more_than_a_turn_is_refused(
    environment: type[Environment[Any]], word: str
) -> None:
    with pytest.raises(Unsupported, match=word):
        reward_function(environment)


async def test_concurrent_calls_share_one_run() -> None:
    reward = reward_function(Quiz)
    calls = [reward(prompts=["q"], completions=["A"], answer=["A"]) for _ in range(8)]
    assert await asyncio.gather(*calls) == [[1.0]] * 8
    reward.close()


def test_a_rollout_reward_refuses_rollouts_that_are_not_ours() -> None:
    with pytest.raises(UsageError, match="rollout_function"):
        RolloutReward("quiz")(prompts=["q"])


async def test_a_further_reward_gives_none_where_the_environment_gave_none() -> None:
    attempts = [Attempt(1.0, "scored", "answered"), Attempt(None, "unscored", "failed")]

    def brevity(completions: list[str], **_: object) -> list[float]:
        return [1.0 for _ in completions]

    async def slow(completions: list[str], **_: object) -> list[float]:
        return [2.0 for _ in completions]

    plain, later = survivors_only(brevity), survivors_only(slow)
    assert plain.__name__ == "brevity"
    assert plain(completions=["a", "b"], gym_attempt=attempts) == [1.0, None]
    assert await later(completions=["a", "b"], gym_attempt=attempts) == [2.0, None]
    assert plain(completions=["a", "b"]) == [1.0, 1.0]


def test_grpo_trains_on_single_turn_rewards(
    make_trainer: Any, raw_policy: TinyPolicy, record: Any
) -> None:
    class Letters(Environment[Task]):
        """The share of bytes that are letters; fails on what ends in a digit."""

        async def verify(self, transcript: Transcript) -> Reward:
            text = transcript.final_text
            letters = sum(c.isalpha() for c in text) / max(1, len(text))
            return Reward(letters, {"letters": letters})

    rows = [{"responses_create_params": {"input": f"say {n}"}, "n": n} for n in range(8)]
    spec = trl_spec(Letters, tasks=[Task.from_row(row) for row in rows], way="reward")
    trainer = make_trainer(raw_policy, spec.trainer_arguments(), max_completion_length=24)
    generated: list[list[int]] = []
    original = trainer._generate_single_turn

    def wrapped(*arguments: Any, **named: Any) -> Any:
        ids, logprobs = original(*arguments, **named)
        generated.extend(ids)
        return ids, logprobs

    trainer._generate_single_turn = wrapped
    recorder = record(trainer)
    trainer.train()
    trained = [ids for batch in range(3) for _, ids, _ in recorder.rows(batch)]
    assert trained == generated
    assert len(trained) == 24
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert [entry["gym/components/letters"] for entry in history] == pytest.approx(
        [entry["reward"] for entry in history], abs=1e-6
    )
    assert all(entry["gym/truncated"] > 0 for entry in history)
