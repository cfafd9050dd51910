"""The plain agent loop, driven by scripted models."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from gym_adapters import (
    Boundary,
    Environment,
    Episode,
    EpisodeLimits,
    MissingExtra,
    ModelError,
    OutcomeStatus,
    Rollout,
    Segment,
    Span,
    StopReason,
    Task,
    ToolInfrastructureError,
    Transcript,
    __version__,
    tool,
)
from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.generation.chat import ModelTurn, Usage
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import (
    Item,
    assistant_message,
    function_call,
    function_call_output,
    reasoning,
    user_message,
)
from gym_adapters.testing import ScriptedChatModel


class Adder(Environment[Task]):
    """Adds; the reward is the sum."""

    closed = 0

    async def start(self) -> None:
        self.total = 0

    @tool
    async def add(self, count: int) -> int:
        """Add.

        Args:
            count: How much.
        """
        self.total += count
        return self.total

    @tool
    async def ask_database(self) -> str:
        """Ask what is down."""
        raise ToolInfrastructureError("no database")

    @tool
    async def finish(self) -> str:
        """End it."""
        self.end_episode()
        return "done"

    async def verify(self, transcript: Transcript) -> float:
        return float(self.total)

    async def close(self) -> None:
        type(self).closed += 1


class Talker(Adder):
    """Replies twice."""

    async def reply(self, message: str) -> str | None:
        self.total += 1
        return f"{message}?" if self.total < 3 else None


class NoSetUp(Adder):
    """Can't start."""

    async def start(self) -> None:
        raise RuntimeError("no room")


@pytest.fixture(autouse=True)
def every_episode_is_closed_once() -> Any:
    Adder.closed = Talker.closed = NoSetUp.closed = Guided.closed = 0
    yield
    assert Adder.closed + Talker.closed + NoSetUp.closed + Guided.closed == 1


TASK = Task.from_row({"responses_create_params": {"input": "add"}, "more": [1]})


async def rollout_of(
    script: Any,
    *,
    environment: type[Environment[Any]] = Adder,
    limits: AgentLimits | None = None,
    episode_limits: EpisodeLimits | None = None,
    **options: Any,
) -> Rollout:
    model = script if isinstance(script, ScriptedChatModel) else ScriptedChatModel(script)
    episode = Episode(environment, TASK, limits=episode_limits, rollout_index=2)
    return await ToolAgent(limits).run(episode, model, **options)


def call(count: int, call_id: str) -> Item:
    return function_call("add", f'{{"count": {count}}}', call_id)


async def test_tool_results_are_read_by_the_next_turn() -> None:
    model = ScriptedChatModel([[call(1, "a"), call(2, "b")], [call(4, "c")], "seven"])
    rollout = await rollout_of(model)
    assert [each.new_items for each in model.calls] == [
        (user_message("add"),),
        (function_call_output("a", "1"), function_call_output("b", "3")),
        (function_call_output("c", "7"),),
    ]
    assert rollout.output == (
        call(1, "a"),
        call(2, "b"),
        function_call_output("a", "1"),
        function_call_output("b", "3"),
        call(4, "c"),
        function_call_output("c", "7"),
        assistant_message("seven"),
    )
    assert (rollout.reward, rollout.outcome.stop_reason) == (7.0, StopReason.ANSWERED)


async def test_the_model_is_opened_with_tools_sampling_and_a_name() -> None:
    model = ScriptedChatModel(["hi"])
    sampling = SamplingParams(temperature=0.5, max_tokens=9)
    await rollout_of(model, sampling=sampling)
    (asked,) = model.calls
    assert [declared["name"] for declared in asked.tools] == ["add", "ask_database", "finish"]
    assert asked.sampling == sampling
    assert asked.request_id == f"{TASK.task_id}-2"


async def test_the_caller_may_name_the_request() -> None:
    model = ScriptedChatModel(["hi"])
    await rollout_of(model, request_id="mine")
    assert model.calls[0].request_id == "mine"


async def test_replies_go_on_until_there_is_none() -> None:
    model = ScriptedChatModel(["a", "b", "c"])
    rollout = await rollout_of(model, environment=Talker)
    assert [each.new_items for each in model.calls[1:]] == [
        (user_message("a?"),),
        (user_message("b?"),),
    ]
    assert rollout.usage.turns == 3
    assert rollout.outcome.stop_reason is StopReason.ANSWERED


async def test_an_environment_that_ends_the_episode_is_asked_no_more() -> None:
    model = ScriptedChatModel([[call(1, "a"), function_call("finish", "{}", "b")]])
    rollout = await rollout_of(model)
    assert (rollout.reward, rollout.outcome.stop_reason) == (1.0, StopReason.ENVIRONMENT)


async def test_a_turn_cut_by_its_budget_runs_no_tool_and_is_truncated() -> None:
    rollout = await rollout_of([ModelTurn([call(5, "a")], "length")])
    assert (rollout.reward, rollout.outcome.status) == (0.0, OutcomeStatus.TRUNCATED)
    assert rollout.outcome.stop_reason is StopReason.LENGTH


async def test_no_context_left_is_a_truncation() -> None:
    rollout = await rollout_of([[call(5, "a")], None])
    assert (rollout.reward, rollout.outcome.status) == (5.0, OutcomeStatus.TRUNCATED)
    assert rollout.outcome.stop_reason is StopReason.CONTEXT


async def test_the_turn_budget_is_the_episodes() -> None:
    model = ScriptedChatModel(lambda asked: [call(1, str(asked.turn))])
    rollout = await rollout_of(model, episode_limits=EpisodeLimits(max_turns=3))
    assert (rollout.reward, rollout.usage.turns) == (3.0, 3)
    assert rollout.outcome.stop_reason is StopReason.MAX_TURNS


async def test_the_token_budget_ends_the_rollout_before_the_next_turn() -> None:
    def turn(asked: Any) -> ModelTurn:
        return ModelTurn([call(1, str(asked.turn))], "stop", Usage(10 * (asked.turn + 1), 4))

    rollout = await rollout_of(ScriptedChatModel(turn), limits=AgentLimits(max_sampled_tokens=8))
    assert (rollout.reward, rollout.outcome.stop_reason) == (2.0, StopReason.LENGTH)
    assert (rollout.usage.input_tokens, rollout.usage.output_tokens) == (30, 8)


async def test_the_time_budget_ends_the_rollout_before_the_next_turn() -> None:
    rollout = await rollout_of([[call(1, "a")]], limits=AgentLimits(time_limit=0.0))
    assert (rollout.reward, rollout.outcome.stop_reason) == (0.0, StopReason.TIME)
    assert rollout.outcome.status is OutcomeStatus.TRUNCATED


async def test_a_model_call_that_takes_too_long_leaves_no_reward() -> None:
    model = ScriptedChatModel(["late"], delay=60.0)
    rollout = await rollout_of(model, limits=AgentLimits(turn_timeout=0.01))
    assert rollout.outcome.failure is not None
    assert rollout.outcome.failure.boundary is Boundary.TIMEOUT
    assert len(model.aborted) == 1


@pytest.mark.parametrize("error", [ModelError("down"), RuntimeError("cuda"), KeyError("choices")])
async def test_whatever_a_model_raises_is_the_models_failure(error: Exception) -> None:
    rollout = await rollout_of([[call(1, "a")], error])
    assert rollout.reward is None
    assert rollout.outcome.failure is not None
    assert rollout.outcome.failure.boundary is Boundary.MODEL
    assert len(rollout.output) == 2


async def test_a_model_that_does_not_open_is_a_failed_rollout() -> None:
    class Shut(ScriptedChatModel):
        def open(self, **options: Any) -> Any:
            raise ModelError("no such model")

    rollout = await rollout_of(Shut([]))
    assert rollout.outcome.failure is not None
    assert rollout.outcome.failure.boundary is Boundary.MODEL


async def test_a_tool_that_is_down_leaves_no_reward() -> None:
    rollout = await rollout_of([[function_call("ask_database", "{}", "a")], "sorry"])
    assert rollout.outcome.failure is not None
    assert rollout.outcome.failure.boundary is Boundary.TOOL


async def test_an_environment_that_does_not_start_asks_no_model() -> None:
    model = ScriptedChatModel(["hi"])
    rollout = await rollout_of(model, environment=NoSetUp)
    assert model.calls == []
    assert rollout.outcome.failure is not None
    assert rollout.outcome.failure.boundary is Boundary.ENVIRONMENT


async def test_cancelling_aborts_the_model_and_closes_the_episode() -> None:
    model = ScriptedChatModel(["never"], delay=60.0)
    work = asyncio.create_task(rollout_of(model))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(model.calls) == 1
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(model.aborted) == 1


async def test_silence_ends_the_episode() -> None:
    rollout = await rollout_of([[]])
    assert (rollout.reward, rollout.output) == (0.0, ())


async def test_thinking_alone_ends_the_episode_too() -> None:
    rollout = await rollout_of([[reasoning("hm")]])
    assert rollout.outcome.stop_reason is StopReason.ANSWERED
    assert rollout.usage.turns == 1


async def test_a_rollout_says_where_it_came_from() -> None:
    rollout = await rollout_of(ScriptedChatModel(["hi"], name="m"), seed=11)
    assert rollout.row == TASK.to_row()
    assert (rollout.task_id, rollout.rollout_index) == (TASK.task_id, 2)
    assert rollout.prompt == (user_message("add"),)
    provenance = rollout.provenance
    assert (provenance.environment, provenance.environment_version) == ("Adder", "1")
    assert (provenance.library_version, provenance.model) == (__version__, "m")
    assert (provenance.template_hash, provenance.seed) == (None, 11)
    assert rollout.segments == ()


async def test_tokens_and_weights_version_come_from_the_session() -> None:
    segment = Segment([1], [2, 3], [1, 0], [-0.5, 0.0], (Span(0, 1, True, 7), Span(1, 2, False)))

    class Session:
        segments = (segment,)

        async def respond(self, new_items: Sequence[Item]) -> ModelTurn:
            return ModelTurn([assistant_message("hi")], "stop", Usage(1, 1))

    class Model:
        name, template_hash = "m", "abc"

        def open(self, **options: Any) -> Session:
            return Session()

    rollout = await ToolAgent().run(Episode(Adder, TASK), Model())
    assert rollout.segments == (segment,)
    assert (rollout.provenance.weights_version, rollout.provenance.template_hash) == (7, "abc")


async def test_time_is_told_by_where_it_went() -> None:
    rollout = await rollout_of(ScriptedChatModel(["hi"], delay=0.02))
    times = rollout.timings
    assert times.model >= 0.02
    assert times.total >= times.model + times.environment + times.verify


async def test_an_error_in_close_is_logged_and_the_reward_stands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Sticky(Adder):
        async def close(self) -> None:
            await super().close()
            Adder.closed = 1
            raise OSError("stuck")

    with caplog.at_level(logging.WARNING):
        rollout = await rollout_of(["hi"], environment=Sticky)
    assert rollout.reward == 0.0
    assert "closing an episode of Sticky failed" in caplog.text


class Guided(Talker):
    """Constrains its second turn."""

    async def constraint(self) -> dict[str, Any] | None:
        return {"regex": "[ab]"} if self.total == 1 else None


async def test_each_turn_is_asked_for_with_the_constraint_of_its_moment() -> None:
    model = ScriptedChatModel(["a", "b", "c"])

    rollout = await rollout_of(model, environment=Guided)

    assert [call.constraint for call in model.calls] == [None, {"regex": "[ab]"}, None]
    assert rollout.outcome.status is OutcomeStatus.SCORED


@pytest.mark.parametrize("where", ["open", "respond"])
async def test_what_a_model_refuses_is_told_as_the_models_and_by_its_own_name(where: str) -> None:
    class Refusing(ScriptedChatModel):
        def open(self, **options: Any) -> Any:
            if where == "open":
                raise MissingExtra("vllm", package="vllm", needed_for="this model")
            session = super().open(**options)

            async def respond(*_: Any, **__: Any) -> ModelTurn:
                raise MissingExtra("vllm", package="vllm", needed_for="this model")

            session.respond = respond  # type: ignore[method-assign]
            return session

    task = Task.from_row({"responses_create_params": {"input": "Add."}})
    rollout = await ToolAgent().run(Episode(Adder, task), Refusing([[assistant_message("no")]]))
    failure = rollout.outcome.failure
    assert failure is not None
    assert (failure.boundary, failure.error) == (Boundary.MODEL, "MissingExtra")
    assert "gym-adapters[vllm]" in failure.message


async def test_what_a_model_refuses_keeps_no_environment_in_memory() -> None:
    class Refusing(ScriptedChatModel):
        def open(self, **options: Any) -> Any:
            raise MissingExtra("vllm", package="vllm", needed_for="this model")

    async def environment_of() -> weakref.ref[Environment[Any]]:
        task = Task.from_row({"responses_create_params": {"input": "Add."}})
        episode = Episode(Adder, task)
        await ToolAgent().run(episode, Refusing([]))
        return weakref.ref(episode.environment)

    gc.disable()
    try:
        assert (await environment_of())() is None
    finally:
        gc.enable()
