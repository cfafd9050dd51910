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

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Any, Self, TypeVar

from gym_adapters.environment import Environment, EnvironmentConfig, Transcript
from gym_adapters.errors import (
    Boundary,
    EnvironmentFailure,
    InvalidRow,
    RolloutError,
    Unsupported,
    UsageError,
    boundary,
)
from gym_adapters.items import (
    FinishReason,
    FunctionCall,
    FunctionTool,
    Item,
    check_items,
    final_text,
    function_call_output,
    input_items,
    user_message,
)
from gym_adapters.reward import Outcome, Reward, StopReason
from gym_adapters.rollout import Timings
from gym_adapters.task import Task
from gym_adapters.tools import Tool, error_result

__all__ = ["Episode", "EpisodeLimits", "Step"]

log = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """Bounds on one episode. Times are seconds of wall time.

    Attributes:
        max_turns: Most assistant turns; past it the episode is truncated.
        max_tool_calls: Most tool calls run in one turn; the rest get an error result.
        hook_timeout: For each call of start, prompt, reply and close.
        tool_timeout: For each tool call; past it the rollout is unscored (``timeout``).
        verify_timeout: For verify.
    """

    max_turns: int = 32
    max_tool_calls: int = 64
    hook_timeout: float = 120.0
    tool_timeout: float = 120.0
    verify_timeout: float = 120.0


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
        limits: EpisodeLimits | None = None,
    ) -> None:
        self.limits = limits if limits is not None else EpisodeLimits()
        self._broken: Exception | None = None
        self._closed = False
        rng = random.Random(episode_seed(seed, task.task_id, rollout_index))
        try:
            # A copy: what an attempt does to its task must not reach the other attempts at it.
            self.environment: Environment[Any] = environment(
                task.model_copy(deep=True), config=config, resources=resources, rng=rng
            )
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - told by start(), as every failure is
            self.environment = environment.__new__(environment)
            self._broken, self._closed = error, True
        self.task = task
        self.rollout_index = rollout_index
        self.prompt: tuple[Item, ...] = ()
        self.output: list[Item] = []
        self.outcome: Outcome | None = None
        self.turns = 0
        self._tools: dict[str, Tool] = {}
        self._environment_time = 0.0
        self._verify_time = 0.0
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
        return [tool.declaration() for tool in self._tools.values()]

    @property
    def timings(self) -> Timings:
        """Seconds spent in the environment's hooks and tools, and in its verifier."""
        return Timings(environment=self._environment_time, verify=self._verify_time)

    async def start(self, *, constraints: bool = False) -> Step:
        """Set the environment up; the step's items are the prompt.

        Args:
            constraints: Whether the driver heeds `Step.constraint`. Where it does not, an
                environment that gives a constraint ends the episode as unscored.
        """
        if self._started:
            raise RuntimeError("an Episode starts once; make a new one for another attempt")
        self._started, self._constraints = True, constraints
        environment = self.environment
        if self._broken is not None:
            return self.fail(self._broken)
        try:
            await self._hook("start", environment.start)
            self.prompt = tuple(_items(await self._hook("prompt", environment.prompt), "prompt"))
            with boundary(Boundary.ENVIRONMENT, f"available_tools of {environment.name}"):
                self._tools = {tool.name: tool for tool in environment.available_tools()}
        except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
            return self.fail(error)
        if environment.ended:
            return await self._end(StopReason.ENVIRONMENT)
        return await self._ask_turn(self.prompt)

    async def advance(self, items: Sequence[Item], *, finish_reason: FinishReason = "stop") -> Step:
        """Take one assistant turn.

        Args:
            items: What the assistant wrote: reasoning, messages, function calls.
            finish_reason: ``length`` when its token budget cut the turn: no tool of it is run, and
                the episode ends as truncated.
        """
        self._check_running()
        self.turns += 1
        self.output.extend(items)
        if finish_reason == "length":
            return await self._end(StopReason.LENGTH)
        calls = [item for item in items if item["type"] == "function_call"]
        try:
            following = await (self._run_calls(calls) if calls else self._ask_reply(items))
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
        began = time.perf_counter()
        try:
            result = await self._call(call)
        finally:
            self._environment_time += time.perf_counter() - began
        if isinstance(result, Exception):
            raise result
        return result

    async def judge(self, output: Sequence[Item], reason: StopReason, *, turns: int) -> Step:
        """End the episode with all that was said after the prompt, where tools ran by `call_tool`.

        Args:
            output: The assistant's items and the results of its tools.
            reason: Why it stopped.
            turns: How many turns the assistant took.
        """
        self._check_running()
        self.output, self.turns = list(output), turns
        return await self._end(reason)

    def fail(self, error: BaseException) -> Step:
        """End the episode as unscored, because of `error`; one that has ended stays as it is."""
        if self.outcome is None:
            self.outcome = Outcome.unscored(error)
        return Step((), self.outcome)

    async def close(self) -> None:
        """Close the environment; more than once does nothing. Errors in `close` are logged."""
        if self._closed:
            return
        self._closed = True
        try:
            with boundary(Boundary.ENVIRONMENT, f"close of {self.environment.name}"):
                async with asyncio.timeout(self.limits.hook_timeout):
                    await self.environment.close()
        except Exception:
            log.warning("closing an episode of %s failed", self.environment.name, exc_info=True)

    def _check_running(self) -> None:
        if not self._started:
            raise RuntimeError("call start() before the first turn")
        if self.outcome is not None:
            raise RuntimeError("the episode has ended; make a new one for another attempt")
        if self._closed:
            raise RuntimeError("the episode is closed; make a new one for another attempt")

    async def _end(self, reason: StopReason, following: Sequence[Item] = ()) -> Step:
        transcript = Transcript(self.prompt, tuple(self.output), reason)
        began = time.perf_counter()
        try:
            name = self.environment.name
            with boundary(Boundary.VERIFIER, f"verify of {name}"):
                async with _deadline(self.limits.verify_timeout):
                    verdict = await self.environment.verify(transcript)
                reward = Reward.of(verdict)
            self.outcome = Outcome.scored(reward, reason)
        except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
            return self.fail(error)
        finally:
            self._verify_time += time.perf_counter() - began
        return Step(tuple(following), self.outcome)

    async def _ask_turn(self, items: Sequence[Item]) -> Step:
        """The step that asks the assistant for a turn."""
        environment = self.environment
        if type(environment).constraint is Environment.constraint:
            return Step(tuple(items))
        try:
            constraint = await self._hook("constraint", environment.constraint)
        except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
            return self.fail(error)
        if constraint is not None and not self._constraints:
            return self.fail(
                Unsupported(
                    f"{environment.name} constrains what the model may write, and what drives it "
                    "here can't hold the model to that."
                )
            )
        return Step(tuple(items), constraint=constraint)

    async def _ask_reply(self, items: Sequence[Item]) -> list[Item]:
        text = final_text(items)
        answer = await self._hook("reply", lambda: self.environment.reply(text))
        if answer is None:
            return []
        return _items(answer, "reply")

    async def _run_calls(self, calls: Sequence[FunctionCall]) -> list[Item]:
        began = time.perf_counter()
        allowed, refused = calls[: self.limits.max_tool_calls], calls[self.limits.max_tool_calls :]
        try:
            if len(allowed) == 1 or not self.environment.parallel_tool_calls:
                results = [await self._call(call) for call in allowed]
            else:
                results = await asyncio.gather(*map(self._call, allowed))
        finally:
            self._environment_time += time.perf_counter() - began
        too_many = error_result(
            "tool_error", f"not run: at most {self.limits.max_tool_calls} calls a turn"
        )
        texts: list[str] = []
        for result in results:
            if isinstance(result, Exception):
                raise result
            texts.append(result)
        texts.extend(too_many for _ in refused)
        return [
            function_call_output(call["call_id"], text)
            for call, text in zip(calls, texts, strict=True)
        ]

    async def _call(self, call: FunctionCall) -> str | Exception:
        """The result of one call, or the error that ends the rollout.

        It is returned, not raised, so that calls that run beside it are not torn in the middle.
        """
        tool = self._tools.get(call["name"])
        if tool is None:
            known = ", ".join(self._tools) or "none"
            name = call["name"][:100]
            return error_result("unknown_tool", f"no tool {name!r}; there are: {known}")
        try:
            with boundary(Boundary.TOOL, f"tool {tool.name} of {self.environment.name}"):
                async with _deadline(self.limits.tool_timeout):
                    return await tool.call(call["arguments"])
        except (RolloutError, UsageError) as error:
            return error

    async def _hook(self, name: str, hook: Callable[[], Awaitable[ResultT]]) -> ResultT:
        began = time.perf_counter()
        try:
            with boundary(Boundary.ENVIRONMENT, f"{name} of {self.environment.name}"):
                async with _deadline(self.limits.hook_timeout):
                    return await hook()
        finally:
            self._environment_time += time.perf_counter() - began


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """A time limit that also holds for code which swallows its cancellation."""
    async with asyncio.timeout(seconds) as limit:
        yield
    if limit.expired():
        raise TimeoutError(f"it took longer than {seconds} s")


def _items(given: str | Sequence[Item], hook: str) -> list[Item]:
    """What a hook said, as items; a bare text is a user message."""
    if isinstance(given, str):
        return [user_message(given)]
    try:
        check_items(given, hook)
    except InvalidRow as error:
        raise EnvironmentFailure(f"{hook}() must give text or items: {error}") from error
    return input_items(given)


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
