"""What a parity check runs: an environment, its tasks, and every token that the policy will say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gym_adapters.errors import UsageError
from gym_adapters.items import Item, item_text
from gym_adapters.task import Task
from gym_adapters.testing.scripted_generator import ScriptedGenerator, ScriptedTurn

__all__ = ["Attempt", "ParityCase", "Room", "Says", "Turn", "says_alike", "spelled_turn"]

Turn = str | Sequence[int] | Exception
"""What the policy says: text in which control tokens are control tokens, token ids as they are, or
an exception that the model raises in place of a turn."""

Says = Callable[[Task, int, int], Turn]
"""Given the task, which attempt at it, and the number of the turn: what the policy says."""

END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """Which rollout of a case: the place of its task, and which attempt at that task."""

    task: int
    index: int


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens a trainer is told to have room for: of a prompt, and of all that follows it."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        """Most tokens of a sample."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class ParityCase:
    """One thing that every trainer must carry alike.

    Attributes:
        name: What it is about.
        environment: A name that the registry resolves, in any process.
        tasks: Each is attempted `group_size` times. Where `max_completion` is given, one.
        says: The policy.
        group_size: Attempts a task.
        max_completion: Most tokens after the prompt; ``None`` where no budget is to matter.
        chat_template: In place of the tiny tokenizer's own.
        several_segments: Whether a rollout is more than one training sample.
    """

    name: str
    environment: str
    tasks: tuple[Task, ...]
    says: Says
    group_size: int = 2
    max_completion: int | None = None
    chat_template: str | None = None
    several_segments: bool = False

    def __post_init__(self) -> None:
        if not self.tasks or self.group_size < 1:
            raise UsageError(f"the parity case {self.name!r} has nothing to roll out")
        if self.max_completion is not None and len(self.tasks) != 1:
            # Prompts differ in length, and not every trainer's budget is counted from the prompt.
            raise UsageError(f"the parity case {self.name!r} has a budget, so it takes one task")

    @property
    def attempts(self) -> list[Attempt]:
        """Its rollouts in the order that trainers are given them."""
        return [Attempt(t, i) for t in range(len(self.tasks)) for i in range(self.group_size)]

    def of_attempts(self, kept: Sequence[int]) -> ParityCase:
        """The case with a group of fewer attempts, those whose indices are `kept`."""
        return replace(
            self,
            group_size=len(kept),
            says=lambda task, index, turn: self.says(task, kept[index], turn),
        )

    def tokenizer(self) -> Any:
        """The tiny tokenizer, with the case's chat template."""
        from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer

        tokenizer = tiny_tokenizer()
        if self.chat_template is not None:
            tokenizer.chat_template = self.chat_template
        return tokenizer

    def generator(self, attempt_of: Callable[[str], Attempt]) -> ScriptedGenerator:
        """The policy as a `TokenGenerator`.

        Args:
            attempt_of: Whose request a ``request_id`` is.
        """
        tokenizer = self.tokenizer()

        def script(prompt_ids: Sequence[int], request_id: str, turn: int) -> ScriptedTurn:
            attempt = attempt_of(request_id)
            said = self.says(self.tasks[attempt.task], attempt.index, turn)
            if isinstance(said, str):
                return list(tokenizer.encode(said, add_special_tokens=False))
            return said

        return ScriptedGenerator(script, weights_version=0)

    def attempt(self, row: int) -> Attempt:
        """The attempt at place `row` among `attempts`."""
        return Attempt(row // self.group_size, row % self.group_size)


def says_alike(*attempts: Sequence[Turn]) -> Says:
    """A policy that says the same to every task: one list of turns for each attempt, in a cycle.

    Past the end of its list it says nothing but the end of a turn.
    """

    def says(task: Task, index: int, turn: int) -> Turn:
        turns = attempts[index % len(attempts)]
        return turns[turn] if turn < len(turns) else END_OF_TURN

    return says


def spelled_turn(items: Sequence[Item]) -> str:
    """Items of one assistant turn as the tiny policy writes them."""
    parts = [item_text(item) for item in items if item["type"] == "message"]
    parts += [
        f'<tool_call>\n{{"name": "{item["name"]}", "arguments": {item["arguments"]}}}\n</tool_call>'
        for item in items
        if item["type"] == "function_call"
    ]
    return "\n".join(part for part in parts if part) + END_OF_TURN
