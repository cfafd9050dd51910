"""Calls into an environment: each has its deadline, its time is counted, and failures have a name.

Whatever a hook or a tool does, what comes out of here is its result or a `RolloutError` that names
the boundary at fault (`UsageError` passes through). What comes after what is the `Episode`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gym_adapters.deadline import within
from gym_adapters.environment import Environment, Transcript
from gym_adapters.errors import (
    Boundary,
    EnvironmentFailure,
    InvalidRow,
    RolloutError,
    UsageError,
    boundary,
)
from gym_adapters.items import (
    FunctionCall,
    FunctionTool,
    Item,
    check_items,
    final_text,
    function_call_output,
    input_items,
    user_message,
    valid_text,
)
from gym_adapters.reward import Reward
from gym_adapters.rollout import Timings
from gym_adapters.task import Task
from gym_adapters.tools import Tool, error_result

__all__ = ["EnvironmentCalls", "EpisodeLimits"]

log = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """Bounds on one episode.

    Times are seconds of wall time. Waiting in line for a sandbox, a judge or a verifier process
    doesn't count.

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


class EnvironmentCalls:
    """Calls one environment.

    Args:
        environment: What is called.
        limits: Bounds on its times, and on tool calls.

    Attributes:
        timings: Seconds spent in hooks and tools, and in the verifier.
    """

    def __init__(self, environment: Environment[Any], limits: EpisodeLimits) -> None:
        self._environment, self._limits = environment, limits
        self._tools: dict[str, Tool] = {}
        self._hook_time = self._verify_time = 0.0

    @property
    def timings(self) -> Timings:
        """Seconds spent in the environment's hooks and tools, and in its verifier."""
        return Timings(environment=self._hook_time, verify=self._verify_time)

    @property
    def tools(self) -> list[FunctionTool]:
        """Declarations of the tools that the environment offered to `start`."""
        return [tool.declaration() for tool in self._tools.values()]

    async def start(self) -> list[Item]:
        """Set the environment up, and ask it for its tools; the prompt."""
        environment = self._environment
        if _overrides(environment.start):
            await self._hook("start", environment.start)
        if _overrides(environment.prompt):
            prompt = _items(await self._hook("prompt", environment.prompt), "prompt")
        else:
            prompt = _input_of(environment)
        with boundary(Boundary.ENVIRONMENT, f"available_tools of {environment.name}"):
            self._tools = {tool.name: tool for tool in environment.available_tools()}
        return prompt

    async def constraint(self) -> Mapping[str, Any] | None:
        """What the next turn must look like."""
        if not _overrides(self._environment.constraint):
            return None
        return await self._hook("constraint", self._environment.constraint)

    async def reply(self, turn: Sequence[Item]) -> list[Item]:
        """What the environment says to a message; nothing where that ends the episode.

        Args:
            turn: The items of the assistant's turn that ends with it.
        """
        if not _overrides(self._environment.reply):
            return []
        answer = await self._hook("reply", self._environment.reply, final_text(turn))
        return [] if answer is None else _items(answer, "reply")

    async def verdict(self, transcript: Transcript) -> Reward:
        """The reward of a finished attempt."""
        began = time.perf_counter()
        try:
            with boundary(Boundary.VERIFIER, f"verify of {self._environment.name}"):
                judging = self._environment.verify(transcript)
                return Reward.of(await within(self._limits.verify_timeout, judging))
        finally:
            self._verify_time += time.perf_counter() - began

    async def close(self) -> None:
        """Close the environment; errors are logged, since there is nobody left to tell."""
        try:
            if _overrides(self._environment.close):
                await self._hook("close", self._environment.close)
        except Exception:
            log.warning("closing an episode of %s failed", self._environment.name, exc_info=True)

    async def tool(self, call: FunctionCall) -> str:
        """The result of one tool call."""
        began = time.perf_counter()
        try:
            results = [await self._result(call)]
        finally:
            self._hook_time += time.perf_counter() - began
        return _texts(results)[0]

    async def all_tools(self, calls: Sequence[FunctionCall]) -> list[Item]:
        """The results of the calls of one turn, in their order."""
        most = self._limits.max_tool_calls
        allowed, refused = calls[:most], calls[most:]
        began = time.perf_counter()
        try:
            if len(allowed) == 1 or not self._environment.parallel_tool_calls:
                results = [await self._result(call) for call in allowed]
            else:
                results = await asyncio.gather(*map(self._result, allowed))
        finally:
            self._hook_time += time.perf_counter() - began
        too_many = error_result("tool_error", f"not run: at most {most} calls a turn")
        texts = [*_texts(results), *(too_many for _ in refused)]
        return [
            function_call_output(call["call_id"], text)
            for call, text in zip(calls, texts, strict=True)
        ]

    async def _result(self, call: FunctionCall) -> str | Exception:
        """The result of one call, or the error that ends the rollout.

        It is returned, not raised, so that calls that run beside it are not torn in the middle.
        """
        tool = self._tools.get(call["name"])
        if tool is None:
            known = ", ".join(self._tools) or "none"
            name = call["name"][:100]
            return error_result("unknown_tool", f"no tool {name!r}; there are: {known}")
        try:
            with boundary(Boundary.TOOL, f"tool {tool.name} of {self._environment.name}"):
                return await within(self._limits.tool_timeout, tool.call(call["arguments"]))
        except (RolloutError, UsageError) as error:
            return error

    async def _hook(
        self, name: str, hook: Callable[..., Awaitable[ResultT]], *arguments: object
    ) -> ResultT:
        began = time.perf_counter()
        try:
            with boundary(Boundary.ENVIRONMENT, f"{name} of {self._environment.name}"):
                return await within(self._limits.hook_timeout, hook(*arguments))
        finally:
            self._hook_time += time.perf_counter() - began


def _texts(results: list[str | Exception]) -> list[str]:
    """The results of calls, unless one of them is an error: the first is raised."""
    errors = [each for each in results if isinstance(each, Exception)]
    if errors:
        # No frame may name it: a traceback that holds its own error keeps the rollout in memory.
        results.clear()
        raise errors.pop(0)
    return [each for each in results if isinstance(each, str)]


# Hooks that need no call unless they are overridden, as functions.
_PLAIN = frozenset(
    {
        Environment.start,
        Environment.prompt,
        Environment.constraint,
        Environment.reply,
        Environment.close,
    }
)


def _overrides(hook: Callable[..., Awaitable[object]]) -> bool:
    """Whether a hook, as bound to its environment, is another one than the base class's."""
    return getattr(hook, "__func__", None) not in _PLAIN


def _input_of(environment: Environment[Any]) -> list[Item]:
    """What the task starts with; a task's own idea of that is checked as a prompt is."""
    if type(environment.task).input is Task.input and not _overrides(environment.start):
        checked: list[Item] = environment.task.input  # when the row was read
        return checked
    with boundary(Boundary.ENVIRONMENT, f"input of {type(environment.task).__name__}"):
        return _items(environment.task.input, "input")


def _items(given: str | Sequence[Item], hook: str) -> list[Item]:
    """What a hook said, as items; a bare text is a user message."""
    if isinstance(given, str):
        return [user_message(valid_text(given))]
    try:
        check_items(given, hook)
    except InvalidRow as error:
        raise EnvironmentFailure(f"{hook} must give text or items: {error}") from error
    return input_items(given)
