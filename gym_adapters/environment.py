"""Environments: what a model acts in, written as a plain class.

An `Environment` object is one attempt at one task: the library makes a fresh instance for every
rollout, so whatever hangs on ``self`` is private to it. What is costly and shared is a resource,
opened once per run by `Environment.open_resources`.
"""

from __future__ import annotations

import inspect
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict

from gym_adapters.errors import InvalidEnvironment, InvalidRow, Unsupported, UsageError
from gym_adapters.items import FunctionTool, Item, final_text
from gym_adapters.reward import TRUNCATING, Reward, StopReason
from gym_adapters.task import Task
from gym_adapters.tools import Tool, ToolMark, tool_mark

if TYPE_CHECKING:
    from gym_adapters.rollout import Rollout

__all__ = ["Capabilities", "Environment", "EnvironmentConfig", "ToolCall", "Transcript"]

TaskT = TypeVar("TaskT", bound=Task)


class EnvironmentConfig(BaseModel):
    """Settings of an environment, from its ``config.yaml`` and overrides; subclass to add some."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call of a transcript.

    Attributes:
        name: The tool called.
        arguments: JSON text exactly as the model wrote it.
        output: What the model read back; ``None`` where the call was never run.
    """

    name: str
    arguments: str
    output: str | None


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a verifier judges: everything said and done, and why it stopped."""

    prompt: Sequence[Item]
    output: Sequence[Item]
    stop_reason: StopReason

    @property
    def items(self) -> list[Item]:
        """The whole conversation, the prompt included."""
        return [*self.prompt, *self.output]

    @property
    def final_text(self) -> str:
        """The assistant's last message, ``""`` if it never gave one after its last tool call."""
        return final_text(self.output)

    @property
    def truncated(self) -> bool:
        """Whether a budget cut the attempt short."""
        return self.stop_reason in TRUNCATING

    @property
    def tool_calls(self) -> list[ToolCall]:
        """All tool calls in the order they were written, each with its result."""
        calls: list[ToolCall] = []
        # A remote agent may give the same id to calls of different turns: a result belongs to the
        # first call of its id that has none.
        waiting: dict[str, deque[int]] = {}
        for item in self.output:
            if item["type"] == "function_call":
                waiting.setdefault(item["call_id"], deque()).append(len(calls))
                calls.append(ToolCall(item["name"], item["arguments"], None))
            elif item["type"] == "function_call_output" and waiting.get(item["call_id"]):
                index = waiting[item["call_id"]].popleft()
                calls[index] = replace(calls[index], output=item["output"])
        return calls


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an environment asks of whoever drives it, read off the hooks it overrides.

    Attributes:
        replies: It answers messages (`reply`): several user turns.
        own_prompt: It replaces the row's prompt (`prompt`).
        own_tools: It offers tools that differ from rollout to rollout (`available_tools`).
        compares: Its rewards are relative to the group (`compare`).
        uses_tools: It has tools at all.
    """

    replies: bool
    own_prompt: bool
    own_tools: bool
    compares: bool
    uses_tools: bool


class Environment(Generic[TaskT]):
    """Base class of environments; parametrise it with your `Task`.

    Only `verify` must be written. All hooks may be async or not block; none is called twice at once
    for one instance, except tools, which run concurrently when the model calls several at once
    (unless `parallel_tool_calls` is False).

    Class attributes:
        name: How it is called; by default its folder's or class's name.
        version: Recorded in every rollout. Raise it when rewards or observations change.
        Config: Its settings, an `EnvironmentConfig`.
        parallel_tool_calls: Whether several tool calls of one turn may overlap.
        stateless_verify: Whether `verify` looks at the task and the transcript alone. Then stored
            rollouts can be verified again without running their tools, which may search the web.

    Attributes:
        task: The task.
        config: The settings, an instance of `Config`.
        resources: What `open_resources` yielded.
        rng: Random numbers seeded by (run seed, task, rollout index).

    Args:
        task: The task.
        config: The settings; by default those of `Config`.
        resources: What `open_resources` yielded.
        rng: Random numbers, or the seed of some; by default 0.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "1"
    parallel_tool_calls: ClassVar[bool] = True
    stateless_verify: ClassVar[bool] = False
    Config: ClassVar[type[EnvironmentConfig]] = EnvironmentConfig
    task_type: ClassVar[type[Task]] = Task
    class_tools: ClassVar[Mapping[str, Tool]] = {}

    task: TaskT
    config: EnvironmentConfig
    resources: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, Environment):
                _set_task_type(cls, origin, get_args(base))
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        cls.class_tools = _collect_tools(cls)
        for hook in _ASYNC_HOOKS & vars(cls).keys():
            written = inspect.unwrap(getattr(vars(cls)[hook], "__func__", vars(cls)[hook]))
            if inspect.isfunction(written) and not inspect.iscoroutinefunction(written):
                raise InvalidEnvironment(f'{cls.__name__}.{hook} must be written "async def"')
        own = cls.__dict__.get("generate_tasks")
        if isinstance(own, classmethod):
            cls.generate_tasks = classmethod(_checking_difficulty(own.__func__))  # type: ignore[method-assign, assignment]

    def __init__(
        self,
        task: TaskT,
        *,
        config: EnvironmentConfig | None = None,
        resources: Any = None,
        rng: random.Random | int | None = None,
    ) -> None:
        if not isinstance(task, self.task_type):
            raise InvalidEnvironment(
                f"{self.name} works on {self.task_type.__name__}, not {type(task).__name__}; "
                f"make the task with {self.task_type.__name__}.from_row(row)"
            )
        self.task = task
        self.config = config if config is not None else self.Config()
        self.resources = resources
        self._rng_or_seed = rng
        self._ended = False

    # Hooks, in the order they are called.

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Any]:
        """Open what all rollouts of a run share; what it yields is ``self.resources``."""
        yield None

    async def start(self) -> None:
        """Set up the attempt's own state."""

    async def prompt(self) -> Sequence[Item]:
        """What the model reads first; by default the row's ``input``."""
        return self.task.input

    def available_tools(self) -> Sequence[Tool]:
        """Tools of this attempt: by default the class's, or those of them that the row declares.

        Raises:
            InvalidRow: If the row declares a tool that the environment does not have.
        """
        own, declared = self.bound_tools, self.task.tools
        if declared is None:
            return list(own.values())
        return [self._row_tool(each, own) for each in declared]

    async def constraint(self) -> Mapping[str, Any] | None:
        """What the assistant's next turn must look like; asked before each turn, ``None`` for free.

        One of ``{"json_schema": {...}}``, ``{"regex": "..."}`` and ``{"grammar": "..."}``, for the
        whole turn; see `gym_adapters.generation.constrained` for what that does to training. A
        driver that can't hold a model to it fails the rollout before the first turn.
        """
        return None

    async def reply(self, message: str) -> str | Sequence[Item] | None:
        """Answer an assistant message that calls no tool; ``None`` ends the episode."""
        return None

    async def verify(self, transcript: Transcript) -> Reward | float:
        """The verdict on a finished attempt."""
        raise InvalidEnvironment(f"{self.name} must define verify()")

    async def close(self) -> None:
        """Free what `start` set up. Always called once, also after failure and cancellation."""

    @classmethod
    async def compare(
        cls, rollouts: Sequence[Rollout], *, config: EnvironmentConfig, resources: Any
    ) -> list[Reward]:
        """Rewards relative to the group, one per rollout; they replace those of `verify`.

        Args:
            rollouts: Attempts at one task that have a reward.
            config: The settings of the run.
            resources: What `open_resources` yielded for the run.
        """
        raise Unsupported(f"{cls.name} gives no group rewards")

    # What an environment may call.

    def end_episode(self) -> None:
        """End the episode once the hook or tool that calls this returns."""
        self._ended = True

    # What a dataset or a test may call.

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[TaskT]:
        """Synthetic tasks, the same for the same arguments.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From 0, the easiest, to 1.

        Raises:
            UsageError: If the difficulty lies outside; overrides need not check it.
        """
        raise Unsupported(f"{cls.name} has no task generator; give rows with --input")

    @classmethod
    def gold_turns(cls, task: TaskT) -> Sequence[Sequence[Item]]:
        """The assistant's turns of an attempt that scores the maximum, each a list of items."""
        raise Unsupported(f"{cls.name} has no gold transcripts")

    @cached_property
    def rng(self) -> random.Random:
        """Random numbers of this attempt; seeded when they are first asked for."""
        given = self._rng_or_seed
        return given if isinstance(given, random.Random) else random.Random(given or 0)

    # What the library reads.

    @property
    def bound_tools(self) -> dict[str, Tool]:
        """The class's tools, bound to this instance."""
        # Not kept: an instance that holds what holds it is freed by the garbage collector alone.
        return {
            name: replace(spec, function=partial(spec.function, self))
            for name, spec in self.class_tools.items()
        }

    @property
    def ended(self) -> bool:
        """Whether the environment has ended the episode."""
        return self._ended

    @classmethod
    def capabilities(cls) -> Capabilities:
        """What the environment asks of its driver."""
        return Capabilities(
            replies=cls.reply is not Environment.reply,
            own_prompt=cls.prompt is not Environment.prompt,
            own_tools=cls.available_tools is not Environment.available_tools,
            compares=cls.compare.__func__ is not Environment.compare.__func__,  # type: ignore[attr-defined]
            uses_tools=bool(cls.class_tools)
            or cls.available_tools is not Environment.available_tools,
        )

    def _row_tool(self, declared: FunctionTool, bound: Mapping[str, Tool]) -> Tool:
        own = bound.get(declared["name"])
        if own is None:
            raise InvalidRow(
                f"{self.name} has no tool {declared['name']!r}.",
                field="responses_create_params.tools",
                fix=f"use one of {', '.join(bound) or '(it has none)'}.",
            )
        return replace(
            own,
            description=declared.get("description") or "",
            parameters=declared["parameters"],
        )


def _checking_difficulty(
    generate: Callable[..., Iterator[Task]],
) -> Callable[..., Iterator[Task]]:
    """`generate`, refusing a difficulty from outside 0 to 1 at once, not at the first task."""

    @wraps(generate)
    def checked(
        cls: type[Environment[Any]], count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[Task]:
        if not 0.0 <= difficulty <= 1.0:
            raise UsageError(f"difficulty must be from 0 to 1, not {difficulty}")
        return generate(cls, count, seed=seed, difficulty=difficulty)

    return checked


_ASYNC_HOOKS = frozenset({"start", "prompt", "constraint", "reply", "verify", "close", "compare"})


def _set_task_type(
    cls: type[Environment[Any]], base: type[Environment[Any]], arguments: tuple[Any, ...]
) -> None:
    """Note the `Task` that `cls` gives to its generic `base`."""
    for argument in arguments:
        if isinstance(argument, type) and issubclass(argument, Task):
            cls.task_type = argument
            return
    if not any(isinstance(argument, TypeVar) for argument in arguments):
        named = ", ".join(str(argument) for argument in arguments)
        raise InvalidEnvironment(
            f"{cls.__name__} is parametrised with {named}, which is no Task. Fix: define the Task "
            f"first, and write class {cls.__name__}({base.__name__}[YourTask])"
        )


def _collect_tools(cls: type[Environment[Any]]) -> dict[str, Tool]:
    # By attribute, so that an override takes the place of what it overrides, however that is named;
    # one without @tool takes the inherited tool away.
    found: dict[str, Tool] = {}
    for base in reversed(cls.__mro__):
        for attribute, member in vars(base).items():
            mark = _mark_of(member)
            if mark is None:
                found.pop(attribute, None)
            elif not inspect.isfunction(member):
                raise InvalidEnvironment(
                    f"{cls.__name__}.{attribute}: a tool must be a method of the instance. Fix: "
                    "define it with def or async def, and self"
                )
            else:
                found[attribute] = Tool.from_function(
                    member, name=mark.name, blocking=mark.blocking
                )
    tools: dict[str, Tool] = {}
    for attribute, made in found.items():
        if made.name in tools:
            other = next(name for name, each in found.items() if each is tools[made.name])
            raise InvalidEnvironment(
                f"{cls.__name__}.{attribute} and .{other} are both the tool {made.name!r}. "
                'Fix: give one another name with @tool(name="...")'
            )
        tools[made.name] = made
    return tools


def _mark_of(member: object) -> ToolMark | None:
    """The mark of ``@tool`` on `member`, or on what a decorator above or below it has wrapped."""
    wrapped = member.fget if isinstance(member, property) else getattr(member, "__func__", None)
    return tool_mark(member) or tool_mark(wrapped)
