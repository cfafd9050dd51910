"""Episodes: an environment run without a model.

An `Episode` generates nothing. Whoever owns generation gives it the assistant's items; it runs the
tools or asks the environment to reply, and says what the model reads next, or how it ended::

    async with Episode(Counter, task) as episode:
        step = await episode.start()
        while not step.done:
            step = await episode.advance(model(step.items))
        print(step.outcome)

Nothing an environment does makes `start` or `advance` raise: a failure is an ``unscored`` outcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Any, Self, cast

from gym_adapters.environment import Environment, EnvironmentConfig, Transcript
from gym_adapters.environment_calls import EnvironmentCalls, EpisodeLimits
from gym_adapters.errors import InvalidRow, Unsupported, UsageError
from gym_adapters.items import (
    FinishReason,
    FunctionCall,
    FunctionTool,
    Item,
    check_items,
)
from gym_adapters.reward import Failure, Outcome, StopReason
from gym_adapters.rollout import Timings
from gym_adapters.task import Task

__all__ = ["Episode", "EpisodeLimits", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """What comes after a turn: `items` for the model to read, or the `outcome`.

    Attributes:
        items: Tool results or messages that follow the assistant's turn; at the start, the prompt.
            After the last turn, the results of its tool calls, which no model will read.
        outcome: How the episode ended; ``None`` while it goes on.
        constraint: What the assistant's next turn must look like (`Environment.constraint`).
    """

    items: tuple[Item, ...]
    outcome: Outcome | None = None
    constraint: Mapping[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        return self.outcome is not None


class Episode:
    """One attempt at one task, driven from outside.

    Use it as an async context manager: leaving the block closes the environment, whatever happened.
    Not for concurrent use.

    Args:
        environment: The environment's class.
        task: What to attempt.
        config: Settings; by default the class's own defaults.
        resources: What `Environment.open_resources` yielded for this run.
        seed: Seed of the run.
        rollout_index: Which attempt at the task this is.
        task_index: Where the task stands in its data set, if that is known.
        limits: Bounds on turns and times.
    """

    def __init__(
        self,
        environment: type[Environment[Any]],
        task: Task,
        *,
        config: EnvironmentConfig | None = None,
        resources: Any = None,
        seed: int = 0,
        rollout_index: int = 0,
        task_index: int | None = None,
        limits: EpisodeLimits | None = None,
    ) -> None:
        self.limits = limits if limits is not None else EpisodeLimits()
        self._broken: Failure | None = None
        self._closed = False
        rng = episode_seed(seed, task.task_id, rollout_index)
        try:
            # A copy: what an attempt does to its task must not reach the other attempts at it.
            self.environment: Environment[Any] = environment(
                task.model_copy(deep=True), config=config, resources=resources, rng=rng
            )
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - told by start(), as every failure is
            self.environment = environment.__new__(environment)
            self._broken, self._closed = Failure.from_exception(error), True
        self.task = task
        self.rollout_index, self.task_index = rollout_index, task_index
        self.prompt: tuple[Item, ...] = ()
        self.output: list[Item] = []
        self.outcome: Outcome | None = None
        self.turns = 0
        self._calls = EnvironmentCalls(self.environment, self.limits)
        self._constraints = False
        self._started = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def tools(self) -> list[FunctionTool]:
        """Declarations of the tools the model may call."""
        return self._calls.tools

    @property
    def timings(self) -> Timings:
        """Seconds spent in the environment's hooks and tools, and in its verifier."""
        return self._calls.timings

    async def start(self, *, constraints: bool = False) -> Step:
        """Set the environment up; the step's items are the prompt.

        Args:
            constraints: Whether the driver heeds `Step.constraint`. Where it does not, an
                environment that gives a constraint ends the episode as unscored.
        """
        if self._started:
            raise RuntimeError("an Episode starts once; make a new one for another attempt")
        self._started, self._constraints = True, constraints
        if self._broken is not None:
            return self.fail(self._broken)
        try:
            self.prompt = tuple(await self._calls.start())
        except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
            return self.fail(error)
        if self.environment.ended:
            return await self._end(StopReason.ENVIRONMENT)
        return await self._ask_turn(self.prompt)

    async def advance(self, items: Sequence[Item], *, finish_reason: FinishReason = "stop") -> Step:
        """Take one assistant turn.

        Args:
            items: What the assistant wrote: reasoning, messages, function calls.
            finish_reason: ``length`` when its token budget cut the turn: no tool of it is run, and
                the episode ends as truncated.

        Raises:
            UsageError: If an item is none that an assistant writes; nothing has happened then.
        """
        self._check_running()
        _check_written(items, "advance")
        self.turns += 1
        self.output.extend(items)
        if finish_reason == "length":
            return await self._end(StopReason.LENGTH)
        calls = [item for item in items if item["type"] == "function_call"]
        try:
            following = await (self._calls.all_tools(calls) if calls else self._calls.reply(items))
        except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
            return self.fail(error)
        self.output.extend(following)
        if self.environment.ended:
            return await self._end(StopReason.ENVIRONMENT, following)
        if not following:
            return await self._end(StopReason.ANSWERED)
        if self.turns >= self.limits.max_turns:
            return await self._end(StopReason.MAX_TURNS, following)
        return await self._ask_turn(following)

    async def truncate(self, reason: StopReason) -> Step:
        """End the episode for a `reason` the driver knows, a spent budget say; it is verified."""
        self._check_running()
        if reason is StopReason.FAILED:
            raise ValueError("an episode that failed has no verdict: call fail(error)")
        return await self._end(reason)

    async def call_tool(self, call: FunctionCall) -> str:
        """The result of one tool call, for a driver that runs calls one by one.

        The call is not added to `output`: such a driver gives the whole of it to `judge`.

        Raises:
            RolloutError: If the tool could not be run at all.
        """
        self._check_running()
        _check_written([call], "call_tool")
        return await self._calls.tool(call)

    async def judge(self, output: Sequence[Item], reason: StopReason, *, turns: int) -> Step:
        """End the episode with all that was said after the prompt, where tools ran by `call_tool`.

        Args:
            output: The assistant's items and the results of its tools.
            reason: Why it stopped.
            turns: How many turns the assistant took.
        """
        self._check_running()
        _check_written(output, "judge", ("function_call_output",))
        self.output, self.turns = list(output), turns
        return await self._end(reason)

    def fail(self, error: BaseException | Failure) -> Step:
        """End the episode as unscored, because of `error`; one that has ended stays as it is."""
        if self.outcome is None:
            self.outcome = Outcome.unscored(error)
        return Step((), self.outcome)

    async def close(self) -> None:
        """Close the environment; more than once does nothing. Errors in `close` are logged."""
        if self._closed:
            return
        self._closed = True
        await self._calls.close()

    def _check_running(self) -> None:
        if not self._started:
            raise RuntimeError("call start() before the first turn")
        if self.outcome is not None:
            raise RuntimeError("the episode has ended; make a new one for another attempt")
        if self._closed:
            raise RuntimeError("the episode is closed; make a new one for another attempt")

    async def _end(self, reason: StopReason, following: Sequence[Item] = ()) -> Step:
        transcript = Transcript(self.prompt, tuple(self.output), reason)
        try:
            reward = await self._calls.verdict(transcript)
        except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
            return self.fail(error)
        self.outcome = Outcome.scored(reward, reason)
        return Step(tuple(following), self.outcome)

    async def _ask_turn(self, items: Sequence[Item]) -> Step:
        """The step that asks the assistant for a turn."""
        try:
            constraint = await self._calls.constraint()
        except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
            return self.fail(error)
        if constraint is not None and not self._constraints:
            return self.fail(
                Unsupported(
                    f"{self.environment.name} constrains what the model may write, and what drives "
                    "it here can't hold the model to that."
                )
            )
        return Step(tuple(items), constraint=constraint)


# What an assistant writes; results of its tools stand beside that where the driver ran them.
_WRITTEN = ("message", "function_call", "reasoning")


def _check_written(items: Sequence[Item], method: str, also: tuple[str, ...] = ()) -> None:
    try:
        check_items(items, "items")
    except InvalidRow as error:
        raise UsageError(f"{method}(): {error.field}: {error.problem} Fix: {error.fix}") from error
    for position, item in enumerate(items):
        # Items of hooks and rows may leave out the type; what a model wrote has one.
        kind = cast("str | None", item.get("type"))
        if kind not in _WRITTEN and kind not in also:
            said = "is absent" if kind is None else f"is {kind!r}"
            raise UsageError(
                f"{method}(): items[{position}].type {said}. "
                f"Fix: use one of {', '.join((*_WRITTEN, *also))}"
            )


def episode_seed(seed: int, task_id: str, rollout_index: int) -> int:
    """The seed of one attempt: 64 bits, the same on every machine and Python."""
    packed = f"{seed}:{task_id}:{rollout_index}".encode()
    return int.from_bytes(blake2b(packed, digest_size=8).digest())


@asynccontextmanager
async def open_episode_resources(
    environment: type[Environment[Any]], config: EnvironmentConfig | None = None
) -> AsyncIterator[Any]:
    """The resources of one run of `environment`, opened with `config` or the class's defaults."""
    settings = config if config is not None else environment.Config()
    async with environment.open_resources(settings) as resources:
        yield resources
