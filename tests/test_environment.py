"""Environments: what a class declares, and what its instances offer."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any, Generic, TypeVar

import pytest

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    InvalidEnvironment,
    InvalidRow,
    StopReason,
    Task,
    Tool,
    Transcript,
    Unsupported,
    tool,
)
from gym_adapters.environment import Capabilities, ToolCall
from gym_adapters.items import Item, assistant_message, function_call, function_call_output

ROW = {"responses_create_params": {"input": "hi"}}


class CounterTask(Task):
    start_at: int = 0


class Settings(EnvironmentConfig):
    step: int = 1


class Counter(Environment[CounterTask]):
    """Count."""

    Config = Settings
    config: Settings

    @tool
    async def increment(self, by: int = 1) -> int:
        """Add.

        Args:
            by: How much.
        """
        self.count = getattr(self, "count", self.task.start_at) + by * self.config.step
        return self.count

    @tool(name="read")
    async def read_counter(self) -> int:
        """Read."""
        return getattr(self, "count", self.task.start_at)

    async def verify(self, transcript: Transcript) -> float:
        return 1.0


def task(**fields: Any) -> CounterTask:
    return CounterTask.from_row({**ROW, **fields})


def test_the_class_knows_its_task_type_name_and_tools() -> None:
    assert Counter.task_type is CounterTask
    assert Counter.name == "Counter"
    assert list(Counter.class_tools) == ["increment", "read"]


def test_a_subclass_inherits_overrides_and_takes_away_tools() -> None:
    class Reader(Counter):
        async def increment(self, by: int = 1) -> int:
            raise NotImplementedError

        @tool(name="read")
        async def read_counter(self) -> int:
            """Read again."""
            return -1

    assert list(Reader.class_tools) == ["read"]
    assert Reader.class_tools["read"].description == "Read again."
    assert Reader.task_type is CounterTask
    assert Reader.name == "Reader"
    assert list(Counter.class_tools) == ["increment", "read"]


def test_a_mixin_brings_its_tools() -> None:
    class Clock:
        @tool
        def now(self) -> str:
            """Tell the time."""
            return "noon"

    class Timed(Clock, Counter):
        pass

    assert set(Timed.class_tools) == {"increment", "read", "now"}


AnyTaskT = TypeVar("AnyTaskT", bound=Task)


def test_the_task_type_is_found_through_a_generic_base() -> None:
    class Base(Environment[AnyTaskT], Generic[AnyTaskT]):
        pass

    class Own(Base[CounterTask]):
        pass

    assert Base.task_type is Task
    assert Own.task_type is CounterTask


def test_a_tool_must_be_a_method() -> None:
    class Callable:
        @tool
        def __call__(self) -> None:
            """Do."""

    class Marked:
        __tool__ = Callable.__call__.__tool__  # type: ignore[attr-defined]

    with pytest.raises(InvalidEnvironment, match="a tool must be a method"):

        class Broken(Environment[Task]):
            callable = Marked()


@pytest.mark.parametrize("outer_mark", [True, False])
@pytest.mark.parametrize("kind", [staticmethod, classmethod, property])
def test_a_static_or_class_method_or_property_is_no_tool(kind: Any, outer_mark: bool) -> None:
    def look(cls: Any = None) -> str:
        """Look."""
        return ""

    def broken() -> object:
        marked = tool(kind(look)) if outer_mark else kind(tool(look))
        return type("Broken", (Environment,), {"look": marked})

    with pytest.raises(InvalidEnvironment, match="a tool must be a method of the instance"):
        broken()


def test_two_tools_of_one_name_are_refused_by_both_methods() -> None:
    with pytest.raises(InvalidEnvironment, match=r"Broken.second and .first are both .*'same'"):

        class Broken(Environment[Task]):
            @tool(name="same")
            async def first(self) -> None:
                """Do."""

            @tool(name="same")
            async def second(self) -> None:
                """Do."""


def test_an_override_replaces_the_inherited_tool_whatever_either_is_called() -> None:
    class Base(Environment[Task]):
        @tool(name="peek")
        async def look(self) -> str:
            """Peek."""
            return "base"

        @tool(name="stop")
        async def halt(self) -> None:
            """Stop."""

    class Renamed(Base):
        @tool(name="stare")
        async def look(self) -> str:
            """Stare."""
            return "own"

    class Without(Base):
        async def look(self) -> str:
            return "own"

    assert list(Renamed.class_tools) == ["stare", "stop"]
    assert list(Without.class_tools) == ["stop"]
    assert list(Base.class_tools) == ["peek", "stop"]


def test_a_task_of_another_type_is_refused_with_the_fix() -> None:
    with pytest.raises(InvalidEnvironment, match=r"CounterTask\.from_row\(row\)"):
        Counter(Task.from_row(ROW))  # type: ignore[arg-type]


def test_settings_default_to_those_of_the_class() -> None:
    assert Counter(task()).config == Settings()
    assert Counter(task(), config=Settings(step=2)).config.step == 2


async def test_bound_tools_act_on_their_own_instance() -> None:
    one, other = Counter(task(start_at=5)), Counter(task(), config=Settings(step=10))
    assert await one.bound_tools["increment"].call('{"by": 2}') == "7"
    assert await other.bound_tools["increment"].call("{}") == "10"
    assert await one.bound_tools["read"].call("{}") == "7"


def test_available_tools_are_all_or_those_that_the_row_declares() -> None:
    assert [t.name for t in Counter(task()).available_tools()] == ["increment", "read"]
    own_words = {"type": "function", "name": "read", "description": "Look.", "parameters": {}}
    params = {"input": "hi", "tools": [own_words]}
    [read] = Counter(CounterTask.from_row({"responses_create_params": params})).available_tools()
    assert (read.name, read.description, read.parameters) == ("read", "Look.", {})
    none = Counter(CounterTask.from_row({"responses_create_params": {"input": "hi", "tools": []}}))
    assert list(none.available_tools()) == []


def test_a_row_that_declares_an_unknown_tool_is_refused() -> None:
    declared = {"type": "function", "name": "fly", "parameters": {}}
    row = {"responses_create_params": {"input": "hi", "tools": [declared]}}
    with pytest.raises(InvalidRow, match=r"no tool 'fly'.*use one of increment, read"):
        Counter(CounterTask.from_row(row)).available_tools()


def test_random_numbers_are_reproducible_without_a_seed() -> None:
    assert Counter(task()).rng.random() == Counter(task()).rng.random()
    assert Counter(task(), rng=random.Random(1)).rng.random() == random.Random(1).random()


async def test_what_is_not_defined_says_so() -> None:
    bare = Environment(Task.from_row(ROW))
    with pytest.raises(InvalidEnvironment, match="must define verify"):
        await bare.verify(Transcript((), (), StopReason.ANSWERED))
    with pytest.raises(Unsupported, match="no group rewards"):
        await Counter.compare([], config=Counter.Config(), resources=None)
    with pytest.raises(Unsupported, match="no gold"):
        Counter.gold_turns(task())
    with pytest.raises(Unsupported, match="no task generator"):
        Counter.generate_tasks(1)


def test_capabilities_are_read_off_the_overridden_hooks() -> None:
    assert Counter.capabilities() == Capabilities(
        replies=False, own_prompt=False, own_tools=False, compares=False, uses_tools=True
    )
    assert not Environment.capabilities().uses_tools

    class Everything(Environment[Task]):
        async def prompt(self) -> list[Item]:
            return []

        async def reply(self, message: str) -> None:
            return None

        def available_tools(self) -> list[Tool]:
            return []

        @classmethod
        async def compare(cls, rollouts: Any, **_: Any) -> list[Any]:
            return []

    assert Everything.capabilities() == Capabilities(True, True, True, True, True)

    class Heir(Everything):
        pass

    assert Heir.capabilities() == Everything.capabilities()


def transcript(*items: Item, reason: StopReason = StopReason.ANSWERED) -> Transcript:
    return Transcript((), items, reason)


def test_a_transcript_pairs_calls_with_their_results() -> None:
    seen = transcript(
        function_call("f", "1", "a"),
        function_call("g", "2", "b"),
        function_call_output("b", "two"),
        function_call_output("a", "one"),
        function_call_output("nobody", "?"),
        function_call("h", "3", "c"),
    )
    assert seen.tool_calls == [
        ToolCall("f", "1", "one"),
        ToolCall("g", "2", "two"),
        ToolCall("h", "3", None),
    ]


def test_results_stay_apart_where_turns_use_one_id_twice() -> None:
    seen = transcript(
        function_call("f", "1", "call_0"),
        function_call_output("call_0", "one"),
        function_call("f", "2", "call_0"),
        function_call_output("call_0", "two"),
        function_call("f", "3", "call_0"),
    )
    assert [call.output for call in seen.tool_calls] == ["one", "two", None]


def test_a_transcript_knows_its_final_text_and_whether_it_was_cut() -> None:
    assert transcript(assistant_message("a"), assistant_message("b")).final_text == "b"
    assert not transcript().truncated
    assert transcript(reason=StopReason.LENGTH).truncated
    assert not transcript(reason=StopReason.ENVIRONMENT).truncated


def test_random_numbers_come_of_a_seed_of_some_or_of_none() -> None:
    for given, seed in ((7, 7), (random.Random(7), 7), (None, 0)):
        assert Counter(task(), rng=given).rng.random() == random.Random(seed).random()


def test_an_environment_may_use_and_replace_what_it_is_given_as_it_is_made() -> None:
    class Prepared(Counter):
        def __init__(self, task: CounterTask, *, rng: Any = None, **options: Any) -> None:
            super().__init__(task, rng=rng, **options)
            self._rng = "its own"
            self.first = self.rng.random()
            self.rng = random.Random(self.task.start_at)

    made = Prepared(task(start_at=3))
    assert made.first == random.Random(0).random()
    assert made.rng.random() == random.Random(3).random()


def test_an_environment_with_tools_is_freed_as_soon_as_nobody_has_it() -> None:
    gc.disable()
    try:
        made = Counter(task())
        tools = made.available_tools()
        left = weakref.ref(made)
        del made, tools
        assert left() is None
    finally:
        gc.enable()
