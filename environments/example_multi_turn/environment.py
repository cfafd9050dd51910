"""A conversation of scripted follow-up questions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from gym_adapters import Environment, Task, Transcript
from gym_adapters.items import Item, assistant_message

__all__ = ["FollowUpTask", "FollowUps"]

OPERATIONS = (("Add {} to it.", 1), ("Subtract {} from it.", -1))


class FollowUpTask(Task):
    """Answer the prompt, then each of `follow_ups`; the last answer must hold `expected_answer`.

    Both fields may stand at the top of the row or under ``verifier_metadata``.
    """

    follow_ups: list[str] = Field(default_factory=list)
    expected_answer: Annotated[str, StringConstraints(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _from_metadata(cls, row: Any) -> Any:
        nested = row.get("verifier_metadata") if isinstance(row, Mapping) else None
        if not isinstance(nested, Mapping):
            return row
        own = {key: nested[key] for key in ("follow_ups", "expected_answer") if key in nested}
        return {**own, **row}


class FollowUps(Environment[FollowUpTask]):
    """Answer a question and its follow-ups.

    The reward is 1 if the answer to the last follow-up holds `expected_answer`, whatever the case
    of its letters, else 0. A conversation that was cut short gets 0.
    """

    name = "example_multi_turn"
    stateless_verify = True

    async def start(self) -> None:
        """Line up the follow-ups."""
        self.follow_ups = iter(self.task.follow_ups)

    async def reply(self, message: str) -> str | None:
        """The next follow-up; none after the last."""
        return next(self.follow_ups, None)

    async def verify(self, transcript: Transcript) -> float:
        """1 if the last answer holds what was expected."""
        if transcript.truncated:
            return 0.0
        return float(self.task.expected_answer.lower() in transcript.final_text.lower())

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[FollowUpTask]:
        """A number that is changed turn by turn.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From one follow-up at 0 to six at 1.
        """
        rng = random.Random(seed)
        for _ in range(count):
            number = rng.randrange(100, 500)
            result, follow_ups = number, []
            for _ in range(1 + round(5 * difficulty)):
                (text, sign), operand = rng.choice(OPERATIONS), rng.randrange(1, 60)
                result += sign * operand
                follow_ups.append(text.format(operand))
            yield FollowUpTask.from_row(
                {
                    "responses_create_params": {
                        "input": [{"role": "user", "content": f"Keep the number {number} in mind."}]
                    },
                    "follow_ups": follow_ups,
                    "expected_answer": str(result),
                }
            )

    @classmethod
    def gold_turns(cls, task: FollowUpTask) -> Sequence[Sequence[Item]]:
        """Go along with every turn and give the answer in the last."""
        going_along = [[assistant_message("Done.")] for _ in task.follow_ups]
        return [*going_along, [assistant_message(task.expected_answer)]]
