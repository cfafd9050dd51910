"""Multiple-choice questions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, StringConstraints, model_validator

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    InvalidRow,
    Reward,
    Task,
    Transcript,
    Unsupported,
)
from gym_adapters.items import Item, assistant_message
from gym_adapters.verifiers.choices import GradingMode, choice, choice_by_pattern
from gym_adapters.verifiers.patterns import check_pattern

from .questions import Question, questions

__all__ = ["Mcqa", "McqaConfig", "McqaTask"]

Letter = Annotated[
    str,
    BeforeValidator(lambda value: value.strip().upper() if isinstance(value, str) else value),
    StringConstraints(min_length=1),
]


class McqaTask(Task):
    """A question whose right option is `expected_answer`.

    Attributes:
        options: ``[{"A": "text of A"}, ...]``.
        expected_answer: A letter.
        grading_mode: How the answer is read, see `gym_adapters.verifiers.choices`.
        template_metadata: May hold ``output_regex``, a pattern or a list of them, which are tried
            before the grading mode.
    """

    options: list[dict[str, str | None]] | None = None
    expected_answer: Letter
    grading_mode: GradingMode = "strict_single_letter_boxed"
    template_metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        for pattern in self.patterns:
            check_pattern(pattern, "template_metadata.output_regex")
        if not self.options and not self.patterns:
            raise InvalidRow(
                "there are no options and no pattern, so no answer could be right.",
                field="options",
                fix='give them as [{"A": "..."}, {"B": "..."}].',
            )
        letters = [letter.upper() for option in self.options or [] for letter in option]
        if letters and not self.patterns and self.expected_answer not in letters:
            raise InvalidRow(
                f"{self.expected_answer!r} is none of the options, so no answer could be right.",
                field="expected_answer",
                fix=f"give one of {', '.join(letters)}.",
            )
        return self

    @property
    def patterns(self) -> list[str]:
        """The row's own patterns, in the order they are tried."""
        given = (self.template_metadata or {}).get("output_regex")
        patterns = [] if given is None else [given] if isinstance(given, str) else given
        if not (isinstance(patterns, list) and all(isinstance(p, str) for p in patterns)):
            raise InvalidRow(
                "output_regex must be a regular expression or a list of them.",
                field="template_metadata.output_regex",
                fix="give it as text.",
            )
        return patterns


class McqaConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        grading_mode: Used for all rows, whatever they say; ``None`` leaves it to each row.
    """

    grading_mode: GradingMode | None = None


class Mcqa(Environment[McqaTask]):
    """Answer a multiple-choice question; the reward is 1 for the right letter, else 0."""

    name = "mcqa"
    Config = McqaConfig
    config: McqaConfig

    async def verify(self, transcript: Transcript) -> Reward:
        """1 for the right letter, read as the row or the config says."""
        answer = None
        if not transcript.truncated:
            answer = await self._answer(transcript.final_text)
        return Reward(float(answer == self.task.expected_answer), info={"extracted_answer": answer})

    async def _answer(self, text: str) -> str | None:
        options = self.task.options or []
        for pattern in self.task.patterns:
            # A row's pattern may backtrack: off the event loop, and stopped after a second.
            answer = await asyncio.to_thread(choice_by_pattern, text, options, pattern)
            if answer is not None:
                return answer
        return choice(text, options, self.config.grading_mode or self.task.grading_mode)

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[McqaTask]:
        """Questions about numbers and words that need no knowledge.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From 3 options at 0 to 10 at 1; numbers get longer too.
        """
        for question in questions(random.Random(seed), count, difficulty):
            yield McqaTask.from_row(_row(question))

    @classmethod
    def gold_turns(cls, task: McqaTask) -> Sequence[Sequence[Item]]:
        r"""The right letter, boxed or after ``Answer:``, whichever is read as such.

        Raises:
            Unsupported: If the row's own pattern reads neither.
        """
        letter = task.expected_answer
        for text in (rf"\boxed{{{letter}}}", f"Answer: {letter}", letter):
            if _read(text, task) == letter:
                return [[assistant_message(text)]]
        raise Unsupported("the row's output_regex reads no answer that is known beforehand")


def _read(text: str, task: McqaTask) -> str | None:
    options = task.options or []
    for pattern in task.patterns:
        answer = choice_by_pattern(text, options, pattern)
        if answer is not None:
            return answer
    return choice(text, options, task.grading_mode)


def _row(question: Question) -> dict[str, Any]:
    letters = [chr(ord("A") + index) for index in range(len(question.options))]
    lines = [f"{letter}: {text}" for letter, text in zip(letters, question.options, strict=True)]
    asked = "\n".join([question.text, *lines, r"Put the letter of the right option in \boxed{}."])
    return {
        "responses_create_params": {"input": [{"role": "user", "content": asked}]},
        "options": [{letter: text} for letter, text in zip(letters, question.options, strict=True)],
        "expected_answer": letters[question.right],
        "grading_mode": "strict_single_letter_boxed",
    }
