"""A counter that each attempt has for itself: the smallest environment with state."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import orjson

from gym_adapters import Environment, Task, Transcript, tool
from gym_adapters.items import Item, assistant_message, function_call

__all__ = ["Counter", "CounterTask"]


class CounterTask(Task):
    """Bring a counter from `initial_count` to `expected_count`."""

    initial_count: int
    expected_count: int


class Counter(Environment[CounterTask]):
    """Add to a counter until it holds the asked total.

    The reward is 1 if the counter stands at `expected_count` in the end, else 0. What the model
    says does not matter.
    """

    name = "example_session_state_mgmt"

    async def start(self) -> None:
        """Set the counter."""
        self.count = self.task.initial_count

    @tool
    async def increment_counter(self, count: int) -> dict[str, bool]:
        """Add to the counter.

        Args:
            count: How much to add.
        """
        self.count += count
        return {"success": True}

    @tool
    async def get_counter_value(self) -> dict[str, int]:
        """Read the counter."""
        return {"count": self.count}

    async def verify(self, transcript: Transcript) -> float:
        """1 if the counter holds what was asked for."""
        return float(self.count == self.task.expected_count)

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[CounterTask]:
        """Requests to add several numbers in a row.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From one number at 0 to five at 1.
        """
        rng = random.Random(seed)
        for _ in range(count):
            initial = rng.randrange(100)
            added = [rng.randrange(1, 100) for _ in range(1 + round(4 * difficulty))]
            words = " then ".join(f"add {number}" for number in added)
            yield CounterTask.from_row(
                {
                    "responses_create_params": {
                        "input": [{"role": "user", "content": f"{words} then get the count"}],
                        "tools": [spec.declaration() for spec in cls.class_tools.values()],
                    },
                    "initial_count": initial,
                    "expected_count": initial + sum(added),
                }
            )

    @classmethod
    def gold_turns(cls, task: CounterTask) -> Sequence[Sequence[Item]]:
        """Add the difference at once, read the counter, say what it holds."""
        added = orjson.dumps({"count": task.expected_count - task.initial_count}).decode()
        return [
            [function_call("increment_counter", added, "call_0")],
            [function_call("get_counter_value", "{}", "call_1")],
            [assistant_message(f"The count is {task.expected_count}.")],
        ]
