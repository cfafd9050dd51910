"""One tool that may be called."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import orjson

from gym_adapters import Environment, Task, Transcript, tool
from gym_adapters.items import Item, assistant_message, function_call

__all__ = ["Weather"]

CITIES = ("Lisbon", "Oslo", "Nairobi", "Lima", "Osaka", "Tunis", "Perth", "Quebec City")
QUESTIONS = (
    "What's the weather like in {city}?",
    "Do I need a coat in {city} today?",
    "I'm going for a walk in {city}. How is it outside?",
)


class Weather(Environment[Task]):
    """Answer a question about the weather; the reward is always 1."""

    name = "example_single_tool_call"
    stateless_verify = True

    @tool
    async def get_weather(self, city: str) -> dict[str, str]:
        """Get the weather in a city.

        Args:
            city: Name of the city.
        """
        return {"city": city, "weather_description": f"The weather in {city} is cold."}

    async def verify(self, transcript: Transcript) -> float:
        """Always 1."""
        return 1.0

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[Task]:
        """Questions about the weather; `difficulty` makes no difference."""
        asked = [question.format(city=city) for question in QUESTIONS for city in CITIES]
        random.Random(seed).shuffle(asked)
        for question in islice(cycle(asked), count):
            yield Task.from_row(
                {
                    "responses_create_params": {
                        "input": [{"role": "user", "content": question}],
                        "tools": [spec.declaration() for spec in cls.class_tools.values()],
                    }
                }
            )

    @classmethod
    def gold_turns(cls, task: Task) -> Sequence[Sequence[Item]]:
        """Ask for the weather, then tell it."""
        arguments = orjson.dumps({"city": "Oslo"}).decode()
        return [
            [function_call("get_weather", arguments, "call_0")],
            [assistant_message("It is cold.")],
        ]
