"""Requests with instructions about form that a program can check."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gym_adapters import Environment, InvalidRow, Reward, Task, Transcript
from gym_adapters.items import Item, assistant_message
from gym_adapters.verifiers.instructions import check_arguments, follows

from .composing import composed, gold_text

__all__ = ["InstructionFollowing", "InstructionFollowingTask", "Instructions"]

_FIELDS = ("instruction_id_list", "kwargs", "prompt", "grading_mode")


class Instructions(BaseModel):
    """What a row asks for: instruction ids, and arguments for each of them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instruction_id_list: list[str]
    arguments: list[dict[str, Any] | None] = Field(validation_alias=AliasChoices("kwargs"))
    grading_mode: Literal["binary", "fraction"] = "binary"


class InstructionFollowingTask(Task):
    """A request with instructions, under ``verifier_metadata`` or (as in older rows) at the top."""

    verifier_metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _can_be_checked(self) -> Self:
        asked = self.asked
        ids, arguments = asked.instruction_id_list, asked.arguments
        if not ids or len(ids) != len(arguments):
            raise InvalidRow(
                f"{len(ids)} instructions with {len(arguments)} kwargs.",
                field="instruction_id_list",
                fix="give one instruction at least, and as many kwargs (null for none).",
            )
        for index, (instruction, given) in enumerate(zip(ids, arguments, strict=True)):
            check_arguments(instruction, given, f"kwargs[{index}]")
        return self

    @cached_property
    def asked(self) -> Instructions:
        """The instructions; what ``verifier_metadata`` says wins over the top of the row."""
        top = self.model_extra or {}
        fields = {name: top[name] for name in _FIELDS if name in top}
        fields.update(self.verifier_metadata or {})
        try:
            return Instructions.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidRow(
                f"{first['msg']}.",
                field=".".join(map(str, first["loc"])),
                fix="give instruction_id_list and kwargs, at the top or under verifier_metadata.",
            ) from None


class InstructionFollowing(Environment[InstructionFollowingTask]):
    """Follow instructions about the form of an answer; what it says is not judged.

    The reward is 1 if all of them are followed, else 0; with ``grading_mode`` ``fraction`` it is
    the share of those that are.
    """

    name = "instruction_following"

    async def verify(self, transcript: Transcript) -> Reward:
        """1 for a message that follows all instructions, or the share that it follows."""
        asked = self.task.asked
        # What a budget cut off is not an answer.
        text = "" if transcript.truncated else transcript.final_text
        followed = [
            follows(text, instruction, given)
            for instruction, given in zip(asked.instruction_id_list, asked.arguments, strict=True)
        ]
        share = sum(followed) / len(followed)
        return Reward(
            share if asked.grading_mode == "fraction" else float(all(followed)),
            components={"fraction": share},
            info={"follow_all_instructions": all(followed), "follow_instruction_list": followed},
        )

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[InstructionFollowingTask]:
        """Requests with instructions that go together.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: At 0 one instruction, at 1 five.
        """
        rng = random.Random(seed)
        for _ in range(count):
            prompt, ids, arguments = composed(rng, 1 + round(difficulty * 4))
            yield InstructionFollowingTask.from_row(
                {
                    "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
                    "verifier_metadata": {
                        "instruction_id_list": ids,
                        "kwargs": arguments,
                        "prompt": prompt,
                        "grading_mode": "binary",
                    },
                }
            )

    @classmethod
    def gold_turns(cls, task: InstructionFollowingTask) -> Sequence[Sequence[Item]]:
        """A message that follows the instructions and says nothing, where one can be composed."""
        asked = task.asked
        pairs: list[tuple[str, Mapping[str, Any]]] = [
            (instruction, given or {})
            for instruction, given in zip(asked.instruction_id_list, asked.arguments, strict=True)
        ]
        return [[assistant_message(gold_text(pairs))]]
