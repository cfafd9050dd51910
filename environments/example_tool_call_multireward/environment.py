"""One expected tool call, judged in three independent ways."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice, product
from typing import Any

import orjson
from pydantic import BaseModel, Field

from gym_adapters import Environment, Reward, Task, ToolCall, Transcript, tool
from gym_adapters.items import Item, function_call, item_text
from gym_adapters.verifiers.tool_calls import parsed_arguments

__all__ = ["ExpectedCall", "ToolCallRewards", "ToolCallTask"]

CITIES = ("Lisbon", "Oslo", "Nairobi", "Lima", "Osaka", "Tunis", "Perth", "Quebec City")
QUESTIONS = ("How is the weather in {city}?", "Will I need an umbrella in {city}?")
INSTRUCTIONS = (
    "You look up the weather. Reply to each question with one call of get_weather and no words."
)


class ExpectedCall(BaseModel):
    """The call that is right; arguments that it does not name may be anything."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCallTask(Task):
    """Make `expected_call`."""

    expected_call: ExpectedCall


class ToolCallRewards(Environment[ToolCallTask]):
    """Make exactly one call, and say nothing.

    The reward is the sum of three components, each 0 or 1: `correctness` (some call is the expected
    one), `schema_valid` (the first call's arguments are an object with all that its tool requires)
    and `format` (there is one call, and no text). The episode ends with the first call.
    """

    name = "example_tool_call_multireward"
    stateless_verify = True

    @tool
    async def get_weather(self, city: str) -> dict[str, str]:
        """Get the weather in a city.

        Args:
            city: Name of the city.
        """
        self.end_episode()
        return {"city": city, "weather_description": f"The weather in {city} is sunny."}

    async def verify(self, transcript: Transcript) -> Reward:
        """The sum of the three components."""
        calls = transcript.tool_calls
        components = {
            "correctness": float(any(self._is_expected(call) for call in calls)),
            "schema_valid": float(bool(calls) and self._fits_schema(calls[0])),
            "format": float(len(calls) == 1 and not _has_text(transcript.output)),
        }
        return Reward(sum(components.values()), components=components)

    def _is_expected(self, call: ToolCall) -> bool:
        expected = self.task.expected_call
        given = parsed_arguments(call)
        if call.name != expected.name or given is None:
            return False
        missing = object()
        return all(given.get(key, missing) == value for key, value in expected.arguments.items())

    def _fits_schema(self, call: ToolCall) -> bool:
        given = parsed_arguments(call)
        schema = self._parameters(call.name)
        if given is None or schema is None:
            return False
        return all(name in given for name in schema.get("required", ()))

    def _parameters(self, name: str) -> Mapping[str, Any] | None:
        offered = {spec.name: spec.parameters for spec in self.available_tools()}
        return offered.get(name)

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[ToolCallTask]:
        """Questions about the weather; `difficulty` makes no difference."""
        asked = list(product(QUESTIONS, CITIES))
        random.Random(seed).shuffle(asked)
        for question, city in islice(cycle(asked), count):
            yield ToolCallTask.from_row(
                {
                    "responses_create_params": {
                        "input": [
                            {"role": "developer", "content": INSTRUCTIONS},
                            {"role": "user", "content": question.format(city=city)},
                        ],
                        "tools": [spec.declaration() for spec in cls.class_tools.values()],
                    },
                    "expected_call": {"name": "get_weather", "arguments": {"city": city}},
                }
            )

    @classmethod
    def gold_turns(cls, task: ToolCallTask) -> Sequence[Sequence[Item]]:
        """The expected call and nothing else."""
        arguments = orjson.dumps(task.expected_call.arguments).decode()
        return [[function_call(task.expected_call.name, arguments, "call_0")]]


def _has_text(items: Sequence[Item]) -> bool:
    return any(item["type"] == "message" and item_text(item).strip() for item in items)
