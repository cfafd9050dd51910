"""Episodes: turns in, tool results or a verdict out; failures are data and everything is closed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gym_adapters import (
    Boundary,
    Environment,
    EnvironmentConfig,
    Episode,
    EpisodeLimits,
    InvalidEnvironment,
    JudgeError,
    OutcomeStatus,
    Reward,
    Step,
    StopReason,
    Task,
    ToolError,
    ToolInfrastructureError,
    Transcript,
    UsageError,
    tool,
)
from gym_adapters.episode import episode_seed, open_episode_resources
from gym_adapters.errors import RolloutCancelled
from gym_adapters.items import (
    Item,
    assistant_message,
    function_call,
    function_call_output,
    reasoning,
    user_message,
)

TASK = Task.from_row({"responses_create_params": {"input": "hi"}})
DONE = [assistant_message("done")]


def call(name: str, arguments: str = "{}", call_id: str = "call_0") -> list[Item]:
    return [function_call(name, arguments, call_id)]


class CounterTask(Task):
    initial_count: int
    expected_count: int


class Counter(Environment[CounterTask]):
    """Add to a counter until it holds the asked total."""

    async def start(self) -> None:
        self.count = self.task.initial_count

    @tool
    async def increment_counter(self, count: int) -> dict[str, bool]:
        """Add to the counter.

        Args:
            count: How much to add.
        """
        self.count += count
        return {"success": True}

    async def verify(self, transcript: Transcript) -> Reward | float:
        return float(self.count == self.task.expected_count)


async def test_an_environment_as_the_introduction_writes_it() -> None:
    row = {
        "responses_create_params": {"input": [{"role": "user", "content": "add 1, then 2"}]},
        "initial_count": 3,
        "expected_count": 6,
    }
    async with Episode(Counter, CounterTask.from_row(row)) as episode:
        step = await episode.start()
        assert step == Step((user_message("add 1, then 2"),))
        assert [declared["name"] for declared in episode.tools] == ["increment_counter"]
        step = await episode.advance(call("increment_counter", '{"count": 1}', "a"))
        assert step == Step((function_call_output("a", '{"success":true}'),))
        step = await episode.advance(call("increment_counter", '{"count": 2}', "b"))
        assert not step.done
        step = await episode.advance(DONE)
    assert step.done
    assert step.items == ()
    assert step.outcome is episode.outcome
    assert episode.outcome is not None
    assert episode.outcome.status is OutcomeStatus.SCORED
    assert episode.outcome.stop_reason is StopReason.ANSWERED
    assert episode.outcome.reward == Reward(1.0)
    assert episode.turns == 3
    assert [item["type"] for item in episode.output] == [
        "function_call",
        "function_call_output",
        "function_call",
        "function_call_output",
        "message",
    ]


class Probe(Environment[Task]):
    """Does what a test asks, and writes down what happened."""

    closed = 0
    seen: Transcript | None = None

    @tool
    async def echo(self, text: str) -> str:
        """Say it again.

        Args:
            text: What to say.
        """
        return text

    @tool
    async def refuse(self) -> None:
        """Say no."""
        raise ToolError("no")

    @tool
    async def crash(self) -> None:
        """Raise."""
        raise ValueError("bug")

    @tool
    async def service_down(self) -> None:
        """Fail."""
        raise ToolInfrastructureError("down")

    @tool
    async def hang(self) -> None:
        """Never return."""
        await asyncio.Event().wait()

    @tool
    async def finish(self) -> str:
        """End the episode."""
        self.end_episode()
        return "ended"

    async def verify(self, transcript: Transcript) -> float:
        self.seen = transcript
        return 0.5

    async def close(self) -> None:
        self.closed += 1


async def started(
    environment: type[Environment[Any]] = Probe, *, limits: EpisodeLimits | None = None
) -> Episode:
    episode = Episode(environment, TASK, limits=limits)
    await episode.start()
    return episode


async def results(episode: Episode, turn: Sequence[Item]) -> list[Any]:
    step = await episode.advance(turn)
    assert step.outcome is None, step.outcome
    return [json.loads(item["output"]) for item in step.items]  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("turn", "kind", "message"),
    [
        (call("echo", "{"), "invalid_json", "not valid JSON"),
        (call("echo", '{"text": 5}'), "invalid_arguments", "text: Input should be a valid string"),
        (call("fly"), "unknown_tool", "no tool 'fly'; there are: echo, refuse"),
        (call("verify"), "unknown_tool", "no tool 'verify'"),
        (call("close"), "unknown_tool", "no tool 'close'"),
        (call("__init__"), "unknown_tool", "no tool '__init__'"),
        (call("x" * 100_000), "unknown_tool", "no tool 'xxx"),
        (call("\ud800"), "unknown_tool", "no tool"),
        (call("refuse"), "tool_error", "no"),
        (call("crash"), "exception", "ValueError: bug"),
    ],
)
async def test_a_mistake_is_a_result_and_the_episode_goes_on(
    turn: list[Item], kind: str, message: str
) -> None:
    episode = await started()
    [result] = await results(episode, turn)
    assert list(result) == ["error"]
    assert result["error"]["type"] == kind
    assert message in result["error"]["message"]
    assert len(result["error"]["message"]) < 500
    step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.status is OutcomeStatus.SCORED


async def test_infrastructure_errors_end_the_rollout_unscored() -> None:
    episode = await started()
    step = await episode.advance(call("service_down"))
    assert step.outcome is not None
    assert step.outcome.status is OutcomeStatus.UNSCORED
    assert step.outcome.reward is None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.TOOL
    assert step.outcome.failure.message == "down"
    assert episode.environment.seen is None  # type: ignore[attr-defined]


async def test_a_tool_that_hangs_ends_the_rollout_as_a_timeout() -> None:
    episode = await started(limits=EpisodeLimits(tool_timeout=0.01))
    step = await episode.advance(call("hang"))
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.TIMEOUT
    assert step.outcome.failure.message == "tool hang of Probe: timed out"


async def test_calls_beside_a_failing_one_finish() -> None:
    class Two(Probe):
        finished = False

        @tool
        async def slow(self) -> None:
            """Take a while."""
            await asyncio.sleep(0.01)
            self.finished = True

    episode = await started(Two)
    step = await episode.advance([*call("service_down", call_id="a"), *call("slow", call_id="b")])
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.TOOL
    assert episode.environment.finished  # type: ignore[attr-defined]


async def test_cancelling_during_a_tool_closes_the_environment() -> None:
    episode = Episode(Probe, TASK)
    running = asyncio.Event()

    async def attempt() -> None:
        async with episode:
            await episode.start()
            running.set()
            await episode.advance(call("hang"))

    attempt_task = asyncio.create_task(attempt())
    await running.wait()
    await asyncio.sleep(0)
    attempt_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt_task
    assert episode.environment.closed == 1  # type: ignore[attr-defined]
    assert episode.outcome is None


async def test_results_stand_in_the_order_of_the_calls() -> None:
    class Race(Probe):
        @tool
        async def after(self, seconds: float) -> float:
            """Wait.

            Args:
                seconds: How long.
            """
            await asyncio.sleep(seconds)
            return seconds

    episode = await started(Race)
    turn = [
        *call("after", '{"seconds": 0.02}', "a"),
        *call("after", '{"seconds": 0}', "b"),
        *call("echo", "{", "c"),
    ]
    step = await episode.advance(turn)
    assert [item["call_id"] for item in step.items] == ["a", "b", "c"]  # type: ignore[typeddict-item]
    assert step.items[0]["output"] == "0.02"  # type: ignore[typeddict-item]
    assert step.items[1]["output"] == "0.0"  # type: ignore[typeddict-item]


@pytest.mark.parametrize("parallel", [True, False])
async def test_calls_of_a_turn_overlap_only_where_the_environment_allows_it(parallel: bool) -> None:
    class Busy(Probe):
        parallel_tool_calls = parallel
        at_once = 0
        most_at_once = 0

        @tool
        async def work(self) -> None:
            """Take a moment."""
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await asyncio.sleep(0)
            self.at_once -= 1

    episode = await started(Busy)
    await episode.advance([*call("work", call_id="a"), *call("work", call_id="b")])
    assert episode.environment.most_at_once == (2 if parallel else 1)  # type: ignore[attr-defined]


async def test_calls_beyond_the_limit_are_told_so() -> None:
    episode = await started(limits=EpisodeLimits(max_tool_calls=1))
    step = await episode.advance(
        [*call("echo", '{"text": "one"}', "a"), *call("echo", '{"text": "two"}', "b")]
    )
    assert step.items[0] == function_call_output("a", "one")
    refused = json.loads(step.items[1]["output"])  # type: ignore[typeddict-item]
    assert refused["error"]["message"] == "not run: at most 1 calls a turn"


async def test_a_turn_cut_by_its_budget_runs_no_tool_and_is_truncated() -> None:
    episode = await started()
    step = await episode.advance(call("finish"), finish_reason="length")
    assert step.outcome is not None
    assert step.outcome.status is OutcomeStatus.TRUNCATED
    assert step.outcome.stop_reason is StopReason.LENGTH
    assert not episode.environment.ended
    assert episode.environment.seen.tool_calls[0].output is None  # type: ignore[attr-defined]


async def test_the_turn_budget_truncates_after_the_last_results() -> None:
    episode = await started(limits=EpisodeLimits(max_turns=2))
    assert not (await episode.advance(call("echo", '{"text": "a"}', "a"))).done
    step = await episode.advance(call("echo", '{"text": "b"}', "b"))
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.MAX_TURNS
    assert step.items == (function_call_output("b", "b"),)


async def test_an_answer_in_the_last_turn_is_not_truncated() -> None:
    episode = await started(limits=EpisodeLimits(max_turns=1))
    step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.ANSWERED


@pytest.mark.parametrize("reason", [StopReason.CONTEXT, StopReason.TIME, StopReason.MAX_TURNS])
async def test_a_driver_may_truncate(reason: StopReason) -> None:
    episode = await started()
    step = await episode.truncate(reason)
    assert step.outcome is not None
    assert step.outcome.stop_reason is reason
    assert step.outcome.status is OutcomeStatus.TRUNCATED
    assert step.outcome.reward == Reward(0.5)


async def test_the_environment_may_end_the_episode_from_a_tool() -> None:
    episode = await started()
    step = await episode.advance(call("finish", call_id="z"))
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.ENVIRONMENT
    assert step.outcome.status is OutcomeStatus.SCORED
    assert step.items == (function_call_output("z", "ended"),)
    assert list(episode.environment.seen.output) == episode.output  # type: ignore[attr-defined]


async def test_the_environment_may_end_the_episode_at_once() -> None:
    class Over(Probe):
        async def start(self) -> None:
            self.end_episode()

    episode = Episode(Over, TASK)
    step = await episode.start()
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.ENVIRONMENT


class Talker(Probe):
    """Replies with a message, then with items, then not at all."""

    async def start(self) -> None:
        self.heard: list[str] = []

    async def reply(self, message: str) -> str | list[Item] | None:
        self.heard.append(message)
        replies: list[str | list[Item]] = ["and?", [user_message("a"), user_message("b")]]
        return replies[len(self.heard) - 1] if len(self.heard) <= 2 else None


async def test_replies_are_user_messages_until_there_is_none() -> None:
    episode = await started(Talker)
    assert (await episode.advance([assistant_message("one")])).items == (user_message("and?"),)
    two = [reasoning("hm"), assistant_message("two")]
    assert (await episode.advance(two)).items == (user_message("a"), user_message("b"))
    step = await episode.advance([assistant_message("three")])
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.ANSWERED
    assert episode.environment.heard == ["one", "two", "three"]  # type: ignore[attr-defined]


async def test_a_turn_with_a_call_is_not_replied_to() -> None:
    episode = await started(Talker)
    await episode.advance([assistant_message("let me see"), *call("echo", '{"text": "x"}')])
    assert episode.environment.heard == []  # type: ignore[attr-defined]


async def test_the_environment_may_write_the_prompt() -> None:
    class Own(Probe):
        async def prompt(self) -> Sequence[Item]:
            return [user_message("mine")]

    episode = Episode(Own, TASK)
    assert (await episode.start()).items == (user_message("mine"),)
    await episode.advance(DONE)
    assert episode.environment.seen.prompt == (user_message("mine"),)  # type: ignore[attr-defined]


def broken(hook: str, error: Exception) -> type[Environment[Any]]:
    """An environment whose `hook` raises `error`."""

    async def fail(self: Any, *_: Any) -> Any:
        raise error

    def fail_now(self: Any) -> Any:
        raise error

    return type("Broken", (Probe,), {hook: fail_now if hook == "available_tools" else fail})


@pytest.mark.parametrize(
    ("hook", "at_fault"),
    [
        ("start", Boundary.ENVIRONMENT),
        ("prompt", Boundary.ENVIRONMENT),
        ("available_tools", Boundary.ENVIRONMENT),
        ("reply", Boundary.ENVIRONMENT),
        ("verify", Boundary.VERIFIER),
    ],
)
async def test_a_failing_hook_is_an_unscored_outcome(hook: str, at_fault: Boundary) -> None:
    async with Episode(broken(hook, RuntimeError("bug")), TASK) as episode:
        step = await episode.start()
        if not step.done:
            step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.status is OutcomeStatus.UNSCORED
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is at_fault
    assert step.outcome.failure.error == "RuntimeError"
    assert hook in step.outcome.failure.message
    assert episode.environment.closed == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("verdict", [float("nan"), "1.0", None])
async def test_a_verdict_that_is_no_number_is_the_verifiers_failure(verdict: Any) -> None:
    class Odd(Probe):
        async def verify(self, transcript: Transcript) -> Any:
            return verdict

    episode = await started(Odd)
    step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.VERIFIER


async def test_a_judge_that_fails_is_named() -> None:
    episode = await started(broken("verify", JudgeError("unreadable")))
    step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.JUDGE


@pytest.mark.parametrize("hook", ["start", "reply", "verify"])
async def test_a_hook_that_hangs_is_a_timeout(hook: str) -> None:
    async def hang(self: Any, *_: Any) -> Any:
        await asyncio.Event().wait()

    stuck: type[Environment[Any]] = type("Stuck", (Probe,), {hook: hang})
    episode = Episode(stuck, TASK, limits=EpisodeLimits(hook_timeout=0.01, verify_timeout=0.01))
    step = await episode.start()
    if not step.done:
        step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.TIMEOUT
    assert hook in step.outcome.failure.message


async def test_a_row_that_declares_an_unknown_tool_is_unscored_with_the_fix() -> None:
    declared = {"type": "function", "name": "fly", "parameters": {}}
    task = Task.from_row({"responses_create_params": {"input": "hi", "tools": [declared]}})
    step = await Episode(Probe, task).start()
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert "use one of echo" in step.outcome.failure.message


async def test_a_driver_may_fail_an_episode() -> None:
    episode = await started()
    step = episode.fail(RolloutCancelled("stopped"))
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.CANCELLED


async def test_closing_twice_closes_once() -> None:
    episode = await started()
    await episode.close()
    async with episode:
        pass
    assert episode.environment.closed == 1  # type: ignore[attr-defined]


async def test_an_episode_that_never_started_is_closed_too() -> None:
    async with Episode(Probe, TASK) as episode:
        pass
    assert episode.environment.closed == 1  # type: ignore[attr-defined]


async def test_an_exception_in_the_block_closes_and_travels_on() -> None:
    episode = Episode(Probe, TASK)
    with pytest.raises(KeyError):
        async with episode:
            raise KeyError("mine")
    assert episode.environment.closed == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_failing_close_is_logged_and_keeps_the_outcome(
    hangs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Leaky(Probe):
        async def close(self) -> None:
            if hangs:
                await asyncio.Event().wait()
            raise OSError("stuck")

    async with Episode(Leaky, TASK, limits=EpisodeLimits(hook_timeout=0.01)) as episode:
        await episode.start()
        with caplog.at_level(logging.WARNING):
            await episode.advance(DONE)
            await episode.close()
    assert "closing an episode of Leaky failed" in caplog.text
    assert episode.outcome is not None
    assert episode.outcome.status is OutcomeStatus.SCORED


async def test_misuse_by_a_driver_raises() -> None:
    episode = Episode(Probe, TASK)
    with pytest.raises(RuntimeError, match="call start"):
        await episode.advance(DONE)
    with pytest.raises(RuntimeError, match="call start"):
        await episode.truncate(StopReason.TIME)
    await episode.start()
    with pytest.raises(RuntimeError, match="starts once"):
        await episode.start()
    await episode.advance(DONE)
    with pytest.raises(RuntimeError, match="has ended"):
        await episode.advance(DONE)
    with pytest.raises(InvalidEnvironment):
        Episode(Counter, TASK)


async def test_the_seed_task_and_index_decide_the_random_numbers() -> None:
    def drawn(seed: int, index: int) -> float:
        return Episode(Probe, TASK, seed=seed, rollout_index=index).environment.rng.random()

    assert drawn(1, 0) == drawn(1, 0)
    assert len({drawn(1, 0), drawn(1, 1), drawn(2, 0)}) == 3
    assert episode_seed(0, "task", 0) == 6654269615207999649


async def test_times_are_told_apart() -> None:
    class Slow(Probe):
        async def start(self) -> None:
            await asyncio.sleep(0.02)

        async def verify(self, transcript: Transcript) -> float:
            await asyncio.sleep(0.01)
            return 1.0

    episode = await started(Slow)
    assert episode.timings.environment >= 0.019
    assert episode.timings.verify == 0.0
    await episode.advance(DONE)
    assert episode.timings.verify >= 0.009


async def test_resources_are_opened_with_the_config_and_closed_after() -> None:
    events: list[str] = []

    class Settings(EnvironmentConfig):
        name: str = "default"

    class Pooled(Probe):
        Config = Settings

        @classmethod
        @asynccontextmanager
        async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[str]:
            assert isinstance(config, Settings)
            events.append(f"open {config.name}")
            yield f"pool {config.name}"
            events.append("closed")

    async with open_episode_resources(Pooled, Settings(name="mine")) as resources:
        episode = Episode(Pooled, TASK, resources=resources)
        assert episode.environment.resources == "pool mine"
    async with open_episode_resources(Pooled) as resources:
        assert resources == "pool default"
    assert events == ["open mine", "closed", "open default", "closed"]


class Guided(Counter):
    """Says what each turn must look like, while the count is below two."""

    asked = 0

    async def constraint(self) -> dict[str, Any] | None:
        self.asked += 1
        if self.count < 0:
            raise RuntimeError("lost")
        return {"regex": f"[0-{self.count}]"} if self.count < 2 else None


def guided(count: int) -> Episode:
    row = {**TASK.to_row(), "initial_count": count, "expected_count": 2}
    return Episode(Guided, CounterTask.from_row(row))


async def test_a_constraint_is_asked_for_before_every_turn() -> None:
    async with guided(1) as episode:
        first = await episode.start(constraints=True)
        second = await episode.advance(call("increment_counter", '{"count": 1}', "a"))
        last = await episode.advance(DONE)

    assert (first.constraint, second.constraint, last.constraint) == (
        {"regex": "[0-1]"},
        None,
        None,
    )
    assert last.done
    assert episode.environment.asked == 2


async def test_a_driver_that_heeds_no_constraints_is_told_before_the_first_turn() -> None:
    async with guided(0) as episode:
        step = await episode.start()
    async with guided(2) as free:
        unconstrained = await free.start()

    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.error == "Unsupported"
    assert not unconstrained.done


async def test_a_constraint_that_raises_leaves_the_rollout_unscored() -> None:
    async with guided(-1) as episode:
        step = await episode.start(constraints=True)

    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.ENVIRONMENT


class Plain(Environment[Task]):
    """Scores everything 1."""

    async def verify(self, transcript: Transcript) -> float:
        return 1.0


async def test_a_driver_can_not_have_a_failure_scored() -> None:
    async with Episode(Plain, TASK) as episode:
        await episode.start()
        with pytest.raises(ValueError, match="call fail"):
            await episode.truncate(StopReason.FAILED)


async def test_what_fails_after_the_verdict_does_not_change_it() -> None:
    async with Episode(Plain, TASK) as episode:
        await episode.start()
        ended = await episode.advance(DONE)
        assert episode.fail(RuntimeError("late")).outcome is ended.outcome


async def test_a_closed_episode_takes_no_turn() -> None:
    async with Episode(Plain, TASK) as episode:
        await episode.start()
    with pytest.raises(RuntimeError, match="is closed"):
        await episode.advance(DONE)


async def test_an_attempt_can_not_change_its_task_for_the_others() -> None:
    class Spends(Environment[Task]):
        async def start(self) -> None:
            self.task.responses_create_params["input"] = "spent"

        async def verify(self, transcript: Transcript) -> float:
            return 1.0

    task = Task.from_row({"responses_create_params": {"input": "q"}})
    for _ in range(2):
        async with Episode(Spends, task) as episode:
            await episode.start()
        assert task.to_row() == {"responses_create_params": {"input": "q"}}
        assert task.input == [user_message("q")]


async def test_an_environment_that_can_not_be_made_is_an_unscored_rollout() -> None:
    class Broken(Environment[Task]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("bad row")

        async def verify(self, transcript: Transcript) -> float:
            return 1.0

    async with Episode(Broken, TASK) as episode:
        step = await episode.start()
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert (step.outcome.failure.boundary, step.outcome.failure.message) == (
        Boundary.ENVIRONMENT,
        "bad row",
    )


@pytest.mark.parametrize("raised", [SystemExit(2), asyncio.CancelledError()])
async def test_exit_and_stray_cancellation_end_the_rollout_alone(raised: BaseException) -> None:
    class Exits(Environment[Task]):
        async def verify(self, transcript: Transcript) -> float:
            raise raised

    async with Episode(Exits, TASK) as episode:
        await episode.start()
        step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.reward is None


async def test_a_verdict_after_its_deadline_does_not_count() -> None:
    class Stubborn(Environment[Task]):
        async def verify(self, transcript: Transcript) -> float:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
            return 0.0

    limits = EpisodeLimits(verify_timeout=0.01)
    async with Episode(Stubborn, TASK, limits=limits) as episode:
        await episode.start()
        step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary is Boundary.TIMEOUT


@pytest.mark.parametrize("hook", ["start", "prompt", "reply", "verify", "close"])
def test_a_hook_that_is_not_async_is_refused_where_it_is_defined(hook: str) -> None:
    with pytest.raises(InvalidEnvironment, match=f'{hook} must be written "async def"'):
        type("Sync", (Plain,), {hook: lambda self, *args: None})


def test_a_parameter_that_is_no_task_is_refused() -> None:
    with pytest.raises(InvalidEnvironment, match="which is no Task"):

        class Wrong(Environment["Later"]):  # type: ignore[name-defined]
            pass


COUNT = CounterTask.from_row(
    {"responses_create_params": {"input": "hi"}, "initial_count": 0, "expected_count": 1}
)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"role": "assistant", "content": "hi"}, r"items\[1\]\.type is absent"),
        ({"type": "web_search_call"}, r"items\[1\]\.type: unknown item type 'web_search_call'"),
        (
            {"type": "function_call", "name": "f", "arguments": "{}"},
            r"items\[1\]\.call_id: .*absent",
        ),
        (
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": {}},
            r"items\[1\]\.arguments: .*not dict.*give it as a string",
        ),
        (
            {"type": "function_call_output", "call_id": "c", "output": "x"},
            r"items\[1\]\.type is 'function_call_output'",
        ),
        ("hi", r"items\[1\]: an item must be an object, not str"),
    ],
)
async def test_what_no_assistant_writes_is_refused_by_item_and_field(item: Any, told: str) -> None:
    async with Episode(Counter, COUNT) as episode:
        await episode.start()
        with pytest.raises(UsageError, match=told):
            await episode.advance([assistant_message("first"), item])
        assert (episode.turns, episode.output) == (0, [])
        assert (await episode.advance([assistant_message("done")])).done


async def test_a_driver_that_judges_may_give_results_of_tools_but_nothing_malformed() -> None:
    async with Episode(Counter, COUNT) as episode:
        await episode.start()
        with pytest.raises(UsageError, match=r"judge\(\): items\[0\]\.output"):
            await episode.judge(
                [{"type": "function_call_output", "call_id": "c", "output": {}}],  # type: ignore[typeddict-item]
                StopReason.ANSWERED,
                turns=1,
            )
        done = await episode.judge(
            [function_call_output("c", "x"), assistant_message("done")],
            StopReason.ANSWERED,
            turns=1,
        )
        assert done.done


async def test_what_an_environment_says_is_text_that_every_tokenizer_takes() -> None:
    class Echo(Environment[Task]):
        async def prompt(self) -> Any:
            return "a\ud800"

        async def reply(self, message: str) -> str:
            return message

        async def verify(self, transcript: Transcript) -> float:
            return 1.0

    async with Episode(Echo, TASK) as episode:
        assert (await episode.start()).items == (user_message("a\ufffd"),)
        step = await episode.advance([assistant_message("\udfff!")])
        assert step.items == (user_message("\ufffd!"),)


class Worded(Task):
    """Makes its own conversation."""

    words: Any

    @property
    def input(self) -> Any:
        return self.words


class WordsIn(Environment[Worded]):
    """Takes any."""

    async def verify(self, transcript: Transcript) -> float:
        return 1.0


async def test_the_input_of_a_task_of_ones_own_is_taken_and_checked_as_a_prompt_is() -> None:
    params = {"responses_create_params": {"input": "q"}}
    async with Episode(WordsIn, Worded.from_row({**params, "words": "say hi"})) as episode:
        await episode.start()
        assert episode.prompt == (user_message("say hi"),)
    async with Episode(WordsIn, Worded.from_row({**params, "words": [5]})) as episode:
        step = await episode.start()
        assert step.outcome is not None
        assert step.outcome.failure is not None
        assert step.outcome.failure.boundary is Boundary.ENVIRONMENT
        assert "input must give text or items" in step.outcome.failure.message


class Plainest(Environment[Task]):
    """Overrides nothing that need not be."""

    async def verify(self, transcript: Transcript) -> float:
        return 1.0


def hooked(how: str, name: str, told: list[str]) -> type[Environment[Any]]:
    """`Plainest` with another hook `name`, put there in one of the ways that Python has."""
    says = {"prompt": "ask", "reply": None, "constraint": None}.get(name)

    async def hook(self: Any, *_: Any) -> Any:
        told.append(name)
        return says

    async def unbound(*_: Any) -> Any:
        return await hook(None)

    @functools.wraps(hook)
    async def decorated(self: Any, *arguments: Any) -> Any:
        return await hook(self, *arguments)

    class OnInstance(Plainest):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            setattr(self, name, unbound)

    class Called:
        __hash__ = None  # type: ignore[assignment]

        async def __call__(self, *_: Any) -> Any:
            return await hook(None)

    class Assigned(Plainest):
        pass

    if how == "instance":
        return OnInstance
    if how == "assigned":
        setattr(Assigned, name, hook)
        return Assigned
    member = {
        "method": hook,
        "decorated": decorated,
        "static": staticmethod(unbound),
        "partial": staticmethod(functools.partial(unbound)),
        "callable": Called(),
    }
    if how == "mixin":
        mixin = type("Mixin", (), {name: hook})
        return type("Mixed", (mixin, Plainest), {})
    return type("Own", (Plainest,), {name: member[how]})


@pytest.mark.parametrize("name", ["start", "prompt", "constraint", "reply", "close"])
@pytest.mark.parametrize(
    "how",
    ["method", "decorated", "static", "partial", "callable", "instance", "assigned", "mixin"],
)
async def test_a_hook_is_called_however_it_came_to_be_there(name: str, how: str) -> None:
    told: list[str] = []
    async with Episode(hooked(how, name, told), TASK) as episode:
        await episode.start()
        step = await episode.advance(DONE)
    assert told == [name]
    assert step.outcome is not None
    assert step.outcome.failure is None


async def test_a_hook_that_can_not_be_had_is_a_failure_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Closing(Plainest):
        @property
        def close(self) -> Any:
            raise KeyError("gone")

    async with Episode(Closing, TASK) as episode:
        await episode.start()
        step = await episode.advance(DONE)
    assert step.outcome is not None
    assert step.outcome.status is OutcomeStatus.SCORED
    assert "closing an episode of Closing failed" in caplog.text


async def test_a_prompt_that_start_has_spoilt_reaches_no_model() -> None:
    class Spoils(Plainest):
        async def start(self) -> None:
            self.task.responses_create_params["input"] = [{"role": "user", "content": 5}]

    async with Episode(Spoils, TASK) as episode:
        step = await episode.start()
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert "content" in step.outcome.failure.message


class FailingStart(Plainest):
    async def start(self) -> None:
        raise ValueError("bug")


class WaitingStart(Plainest):
    async def start(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("bug")


class HangingStart(Plainest):
    async def start(self) -> None:
        await asyncio.sleep(60)


class ExitingStart(Plainest):
    async def start(self) -> None:
        sys.exit(2)


class FailingVerify(Plainest):
    async def verify(self, transcript: Transcript) -> float:
        raise ValueError("bug")


class FailingInit(Plainest):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise ValueError("bug")


class FailingTool(Plainest):
    @tool
    async def fail(self) -> str:
        """Fail."""
        raise ToolInfrastructureError("down")


@pytest.mark.parametrize(
    "environment",
    [
        FailingStart,
        WaitingStart,
        HangingStart,
        ExitingStart,
        FailingVerify,
        FailingInit,
        FailingTool,
    ],
)
async def test_an_episode_that_failed_is_freed_without_the_garbage_collector(
    environment: type[Environment[Any]],
) -> None:
    async def failed() -> weakref.ref[Environment[Any]]:
        limits = EpisodeLimits(hook_timeout=0.01)
        async with Episode(environment, TASK, limits=limits) as episode:
            step = await episode.start()
            if not step.done:
                step = await episode.advance(call("fail") if environment is FailingTool else DONE)
        assert step.outcome is not None
        assert step.outcome.status is OutcomeStatus.UNSCORED
        return weakref.ref(episode.environment)

    gc.disable()
    try:
        left = await failed()
        await asyncio.sleep(0)  # a task lets go of an exception in its next step
        assert left() is None
    finally:
        gc.enable()
