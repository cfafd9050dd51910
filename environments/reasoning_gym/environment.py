"""Any puzzle generator of the package ``reasoning-gym``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, cast

from pydantic import PositiveFloat, PositiveInt, model_validator

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    InvalidRow,
    MissingExtra,
    Reward,
    Task,
    Transcript,
    Unsupported,
    UsageError,
    VerifierError,
)
from gym_adapters.items import Item, assistant_message
from gym_adapters.verifiers.answers import last_boxed, tagged
from gym_adapters.verifiers.process_pool import ProcessPool

from .generation import GENERATORS, generated_rows

__all__ = ["ReasoningGym", "ReasoningGymConfig", "ReasoningGymTask", "answer_in"]

_SCORING = Path(__file__).with_name("scoring.py")
# Scorers read answers of this length; no generator asks for a longer one.
_LONGEST = 20_000
# What stands in place of an answer where the generator's own solver gave up on the puzzle.
_GAVE_UP = {"jugs": '["No solution"]'}


class ReasoningGymTask(Task):
    """A puzzle as its generator made it; ``metadata.source_dataset`` names the generator."""

    question: str
    answer: str | None = None
    metadata: dict[str, Any]

    @model_validator(mode="after")
    def _names_its_generator(self) -> Self:
        if not isinstance(self.metadata.get("source_dataset"), str):
            raise InvalidRow(
                "the row does not say which generator it came from.",
                field="metadata.source_dataset",
                fix="add the generator's name, such as knights_knaves.",
            )
        return self

    @property
    def dataset(self) -> str:
        """The generator's name."""
        return str(self.metadata["source_dataset"])


class ReasoningGymConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        workers: Most processes that score.
        cpu_limit: Seconds of CPU time for one score.
    """

    workers: PositiveInt = 2
    cpu_limit: PositiveFloat = 10.0


class ReasoningGym(Environment[ReasoningGymTask]):
    r"""Solve a puzzle; the reward is the score that its generator gives the answer, from 0 to 1.

    The answer is what stands in the last ``<answer>``, else in the last ``\boxed{}``, else the
    whole message. Scorers run in processes of their own: some evaluate what they are given.
    """

    name = "reasoning_gym"
    Config = ReasoningGymConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[ProcessPool]:
        """Open the processes that score.

        Raises:
            MissingExtra: Without ``reasoning-gym``.
        """
        if find_spec("reasoning_gym") is None:
            raise MissingExtra(
                "reasoning-gym", package="reasoning-gym", needed_for=f"the environment {cls.name}"
            )
        settings = cast("ReasoningGymConfig", config)
        async with ProcessPool(
            _SCORING, workers=settings.workers, cpu_limit=settings.cpu_limit
        ) as pool:
            yield pool

    async def verify(self, transcript: Transcript) -> Reward:
        """The generator's score of the answer."""
        # What a budget cut off is not an answer.
        answer = "" if transcript.truncated else answer_in(transcript.final_text)
        task = self.task
        info = {"task_name": task.dataset, "extracted_answer": answer[:1000]}
        if not answer or len(answer) > _LONGEST:
            return Reward(0.0, info=info)
        pool: ProcessPool | None = self.resources
        if pool is None:
            raise VerifierError(f"{self.name} was run without its resources; use open_resources")
        entry = {"question": task.question, "answer": task.answer, "metadata": task.metadata}
        reply = await pool.ask({"dataset": task.dataset, "entry": entry, "answer": answer})
        if reply is None:
            raise VerifierError(f"the scorer of {task.dataset} used up its CPU time")
        if "error" in reply:
            raise VerifierError(
                f"the scorer of {task.dataset} raised {reply['error']}: {reply['message']}"
            )
        if "unreadable" in reply:
            info["unreadable"] = reply["unreadable"]
        return Reward(reply["score"], info=info)

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[ReasoningGymTask]:
        """Puzzles of ten generators in turn; see `generate_from` for any other.

        Args:
            count: How many.
            seed: Seed of the generators.
            difficulty: The level of their curricula.
        """
        share = -(-count // len(GENERATORS))
        streams = [
            cls.generate_from(name, share, seed=seed, difficulty=difficulty) for name in GENERATORS
        ]
        for index in range(count):
            yield next(streams[index % len(streams)])

    @classmethod
    def generate_from(
        cls,
        dataset: str,
        count: int,
        *,
        seed: int = 0,
        difficulty: float = 0.5,
        **settings: Any,
    ) -> Iterator[ReasoningGymTask]:
        """Puzzles of one generator.

        Args:
            dataset: Its name in reasoning-gym, such as ``countdown``.
            count: How many.
            seed: Seed of the generator.
            difficulty: From 0 to 1: the level of its curriculum, if it has one.
            settings: The generator's own settings, which win over the curriculum's.

        Raises:
            InvalidConfig: If there is no such generator, or it refuses a setting.
            MissingExtra: Without ``reasoning-gym``.
        """
        if not 0.0 <= difficulty <= 1.0:
            raise UsageError(f"difficulty must be from 0 to 1, not {difficulty}")
        for row in generated_rows(
            dataset, count, seed=seed, difficulty=difficulty, settings=settings
        ):
            yield ReasoningGymTask.from_row(row)

    @classmethod
    def gold_turns(cls, task: ReasoningGymTask) -> Sequence[Sequence[Item]]:
        """The generator's own answer."""
        if task.answer is None or task.answer == _GAVE_UP.get(task.dataset):
            raise Unsupported(f"{task.dataset} gives no answer of its own")
        return [[assistant_message(f"<answer>{task.answer}</answer>")]]


def answer_in(text: str) -> str:
    r"""The answer in `text`: in the last ``<answer>``, in the last ``\boxed{}``, or all of it."""
    for found in (tagged(text, "answer"), last_boxed(text)):
        if found is not None:
            return found.strip()
    return text.strip()
