"""Stored rollouts run through the environment again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gym_adapters import (
    Boundary,
    Environment,
    EnvironmentConfig,
    EnvironmentEntry,
    EpisodeLimits,
    InvalidRow,
    Outcome,
    OutcomeStatus,
    Reward,
    Rollout,
    StopReason,
    Task,
    Transcript,
    VerifierError,
    tool,
)
from gym_adapters.agents.tool_agent import AgentLimits
from gym_adapters.generation.chat import ModelTurn
from gym_adapters.items import (
    Item,
    assistant_message,
    function_call,
    function_call_output,
    reasoning,
    user_message,
)
from gym_adapters.rollout import TokenUsage
from gym_adapters.rollouts import collect
from gym_adapters.rollouts.replay import recorded_turns, reverified, reverify
from gym_adapters.testing import ScriptedChatModel, garbage_model


class CounterConfig(EnvironmentConfig):
    """How to judge, and how to answer."""

    double: bool = False
    broken: bool = False
    step: int = 1


class Counter(Environment[Task]):
    """Count; the reward is the count."""

    Config = CounterConfig
    config: CounterConfig
    open = 0

    async def start(self) -> None:
        self.count = 0
        Counter.open += 1

    @tool
    async def add(self, count: int) -> int:
        """Add.

        Args:
            count: How much.
        """
        self.count += count * self.config.step
        return self.count

    @tool
    async def roll(self) -> int:
        """Roll a die."""
        return self.rng.randrange(10**9)

    async def reply(self, message: str) -> str | Sequence[Item] | None:
        if message == "two":
            return [user_message("one"), user_message("and two")]
        return None if message.startswith("end") else "go on"

    async def verify(self, transcript: Transcript) -> Reward:
        if self.config.broken:
            raise VerifierError("judge is away")
        return Reward(self.count * (2.0 if self.config.double else 1.0))

    async def close(self) -> None:
        Counter.open -= 1


class Ranked(Counter):
    """Ranks."""

    @classmethod
    async def compare(cls, rollouts: Sequence[Rollout], **_: Any) -> list[Reward]:
        return [Reward(10.0 * index) for index, _ in enumerate(rollouts)]


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    yield
    assert Counter.open == 0


TASK = Task.from_row({"responses_create_params": {"input": "count"}})


def add(count: int, call_id: str = "a") -> Item:
    return function_call("add", f'{{"count": {count}}}', call_id)


async def recorded(script: Any, environment: Any = Counter, **options: Any) -> Rollout:
    model = script if isinstance(script, ScriptedChatModel) else ScriptedChatModel(script)
    (rollout,) = [each async for each in collect(environment, [TASK], model, **options)]
    return rollout


SCRIPTS: dict[str, Any] = {
    "answered": [[add(2)], "end"],
    "parallel calls": [[reasoning("hm"), add(2), add(3, "b")], "end"],
    "bad calls": [[add(2), function_call("add", "{", "b"), function_call("no", "{}", "c")], "end"],
    "replies": ["hello", [add(1)], "hello again", "end"],
    "a reply of two items": ["two", "end"],
    "random numbers": [[function_call("roll", "{}", "a")], "end"],
    "cut": [[add(2)], ModelTurn([add(5, "b")], "length")],
    "cut text": [[add(2)], ModelTurn([assistant_message("en")], "length")],
    "no context": [[add(2)], None],
    "silence, then more": [[], [add(2)], "end"],
    "silence after a call": [[add(2)], [], "end"],
}


@pytest.mark.parametrize("name", list(SCRIPTS))
async def test_a_replay_comes_to_the_same_end(name: str) -> None:
    rollout = await recorded(SCRIPTS[name], seed=5)
    assert rollout.outcome.failure is None
    assert await reverified(Counter, rollout) == rollout


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"episode_limits": EpisodeLimits(max_turns=2)}, StopReason.MAX_TURNS),
        ({"agent_limits": AgentLimits(time_limit=0.0)}, StopReason.TIME),
    ],
)
async def test_a_budget_cuts_the_replay_where_it_cut_the_record(
    limits: dict[str, Any], reason: StopReason
) -> None:
    script = ScriptedChatModel(lambda call: [add(1, str(call.turn))])
    rollout = await recorded(script, **limits)
    assert rollout.outcome.stop_reason is reason
    assert await reverified(Counter, rollout) == rollout


async def test_garbage_replays_too() -> None:
    for index in range(20):
        rollout = await recorded(
            garbage_model(TASK, rollout_index=index), episode_limits=EpisodeLimits(max_turns=6)
        )
        assert await reverified(Counter, rollout) == rollout


async def test_the_verdict_is_the_one_of_today() -> None:
    class Later(Counter):
        """A later version."""

        version = "2"

    rollout = await recorded([[add(2)], "end"])
    again = await reverified(Later, rollout, config=CounterConfig(double=True))
    assert (rollout.reward, again.reward) == (2.0, 4.0)
    assert again.provenance.environment_version == "2"
    assert (again.output, again.usage, again.row) == (rollout.output, rollout.usage, rollout.row)


async def test_tools_that_answer_otherwise_leave_no_verdict() -> None:
    rollout = await recorded([[add(2)], "end"])
    again = await reverified(Counter, rollout, config=CounterConfig(step=3))
    assert again.outcome.status is OutcomeStatus.UNSCORED
    assert again.outcome.failure is not None
    assert "differs from the record at item 1" in again.outcome.failure.message


class Search(Environment[Task]):
    """Look something up in a world that changes; the reward is 1 for an answer that was found."""

    stateless_verify = True
    searches = 0

    @tool
    async def search(self) -> int:
        """Search."""
        type(self).searches += 1
        return self.searches

    async def verify(self, transcript: Transcript) -> float:
        found = {call.output for call in transcript.tool_calls}
        return float(transcript.final_text in found and not transcript.truncated)


async def test_where_the_verdict_needs_the_transcript_alone_nothing_is_run() -> None:
    Search.searches = 0
    search = [function_call("search", "{}", "a")]
    right = await recorded([search, "1"], Search)
    cut = await recorded([search] * 2, Search, episode_limits=EpisodeLimits(max_turns=1))
    assert Search.searches == 2
    again = [await reverified(Search, each) for each in (right, cut)]
    assert again == [right, cut]
    assert [each.reward for each in again] == [1.0, 0.0]
    assert again[1].outcome.stop_reason is StopReason.MAX_TURNS
    assert Search.searches == 2
    other = await reverified(Search, replace(right, prompt=[user_message("other")]))
    assert other.outcome.failure is not None
    assert "at the prompt" in other.outcome.failure.message


async def test_another_prompt_leaves_no_verdict() -> None:
    rollout = replace(await recorded(["end"]), prompt=[user_message("other")])
    again = await reverified(Counter, rollout)
    assert again.outcome.failure is not None
    assert "at the prompt" in again.outcome.failure.message


async def test_an_environment_that_goes_on_where_it_ended_leaves_no_verdict() -> None:
    rollout = replace(await recorded(["end"]), output=[assistant_message("hello")])
    again = await reverified(Counter, rollout)
    assert again.outcome.failure is not None
    assert "differs" in again.outcome.failure.message


async def test_a_missed_verdict_is_made_up_for() -> None:
    rollout = await recorded([[add(2)], "end"], config=CounterConfig(broken=True))
    assert rollout.outcome.failure is not None
    assert rollout.outcome.failure.boundary is Boundary.VERIFIER
    assert (await reverified(Counter, rollout)).reward == 2.0


async def test_a_missed_verdict_on_a_cut_turn_runs_no_tool_of_it() -> None:
    script = [[add(2)], ModelTurn([add(5, "b")], "length")]
    rollout = await recorded(script, config=CounterConfig(broken=True))
    again = await reverified(Counter, rollout)
    assert (again.reward, again.outcome.stop_reason) == (2.0, StopReason.LENGTH)


async def test_what_failed_before_the_verdict_stays_as_it_is() -> None:
    rollout = await recorded([[add(2)], RuntimeError("no model")])
    assert await reverified(Counter, rollout) is rollout


async def test_a_row_of_another_environment_is_refused() -> None:
    class WordTask(Task):
        word: str

    class Words(Environment[WordTask]):
        """Words."""

    with pytest.raises(InvalidRow, match=r"attempt 0 of task [0-9a-f]{16}: field 'word'"):
        await reverified(Words, await recorded(["end"]))
    entry = EnvironmentEntry("words", Words, None)
    with pytest.raises(InvalidRow, match="word"):
        [each async for each in reverify(entry, [await recorded(["end"])] * 3)]


async def test_many_come_back_in_order() -> None:
    tasks = [
        Task.from_row({"responses_create_params": {"input": "count"}, "n": n}) for n in range(25)
    ]
    model = ScriptedChatModel([[add(2)], "end"])
    rollouts = [each async for each in collect(Counter, tasks, model)]
    entry = EnvironmentEntry("counter", Counter, None)
    again = [each async for each in reverify(entry, iter(rollouts), concurrency=4)]
    assert again == rollouts


async def test_groups_are_compared_again() -> None:
    model = ScriptedChatModel(["end"])
    collected = collect(Ranked, [TASK, TASK], model, num_repeats=3)
    rollouts = [each async for each in collected]
    worthless = [
        replace(each, outcome=Outcome.scored(Reward(-1.0), each.outcome.stop_reason))
        for each in rollouts
    ]
    entry = EnvironmentEntry("ranked", Ranked, None)
    again = [each async for each in reverify(entry, worthless, num_repeats=3)]
    assert [each.reward for each in again] == [0.0, 10.0, 20.0] * 2
    assert again == rollouts


def turns_of(*output: Item, turns: int) -> list[list[Item]]:
    rollout = Rollout(
        row={},
        task_id="a",
        rollout_index=0,
        prompt=[],
        output=output,
        tools=[],
        outcome=Outcome.scored(Reward(0.0), StopReason.ANSWERED),
        usage=TokenUsage(turns=turns),
    )
    return [list(turn.items) for turn in recorded_turns(rollout)]


def test_the_number_of_turns_tells_empty_turns_from_long_replies() -> None:
    a, b = assistant_message("a"), assistant_message("b")
    u, result = user_message("u"), function_call_output("a", "1")
    assert turns_of(a, u, u, b, turns=2) == [[a], [b]]
    assert turns_of(a, u, u, b, turns=3) == [[a], [], [b]]
    assert turns_of(add(1), result, u, b, turns=3) == [[add(1)], [], [b]]
    assert turns_of(u, b, turns=2) == [[], [b]]
    assert turns_of(turns=1) == [[]]
    assert turns_of(a, u, turns=2) == [[a], []]
