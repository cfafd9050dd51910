"""Parity cases of one environment: it need know nothing of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

from gym_adapters.errors import InvalidRow, ModelError, Unsupported
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.task import Task
from gym_adapters.testing.parity.case import END_OF_TURN, ParityCase, Turn, spelled_turn

__all__ = ["environment_cases"]

GARBAGE_TURNS = 3
_WORDS = ("", "I", " don't know. ", "42", "\\boxed{", "<tool_call>", "</think>", "{}", "🧪", "\n")
_ARGUMENTS = ("{}", "{", "[]", '{"x": 1e999}', '{"no_such_argument": null}', '"text"')


def environment_cases(
    environment: str, *, tasks: Sequence[Task] | None = None, at_most: int = 2
) -> list[ParityCase]:
    """What is checked of an environment: good, empty and senseless attempts, cuts and failures.

    Args:
        environment: A name that the registry resolves.
        tasks: By default the examples that it ships.
        at_most: How many of them.

    Raises:
        UnknownEnvironment: If the name can't be resolved.
        InvalidRow: If there are no tasks.
        MissingExtra: Without transformers.
    """
    entry = load_environment(environment)
    asked = tuple(tasks if tasks is not None else entry.example_tasks())[:at_most]
    if not asked:
        raise InvalidRow(
            f"{entry.name} ships no example rows.", fix="give some: --input rows.jsonl."
        )
    policy = _Policy(entry, asked)
    cases = [
        ParityCase("nothing said", environment, asked, policy.empty),
        ParityCase("nonsense", environment, asked, policy.garbage),
        ParityCase("mixed group, one fails", environment, asked, policy.mixed, group_size=4),
    ]
    if not policy.gold_turns:
        return [*cases, *_cut(environment, asked, policy, [str(policy.garbage(asked[0], 0, 0))])]
    gold = ParityCase("gold answers", environment, asked, policy.gold)
    return [gold, *cases, *_cut(environment, asked, policy, policy.gold_turns[0])]


def _cut(
    environment: str, tasks: tuple[Task, ...], policy: _Policy, turns: Sequence[str]
) -> list[ParityCase]:
    """The first task's attempt, with too little room for its first turn, or for what follows."""
    from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer

    first = len(tiny_tokenizer().encode(turns[0], add_special_tokens=False))
    says = policy.gold if policy.gold_turns else policy.garbage
    budgets = {"cut in mid-turn": max(1, first // 2)}
    if len(turns) > 1:
        # Not even the template's own words between two turns fit.
        budgets["what follows the first turn does not fit"] = first + 2
    return [
        ParityCase(name, environment, tasks[:1], says, max_completion=budget)
        for name, budget in budgets.items()
    ]


class _Policy:
    """What is said; all of it follows from task, attempt and turn."""

    def __init__(self, entry: EnvironmentEntry, tasks: Sequence[Task]) -> None:
        self._places = {task.task_id: place for place, task in enumerate(tasks)}
        self._tools = [*entry.environment.class_tools, "no_such_tool"]
        self.gold_turns: list[list[str]] = []
        try:
            for task in tasks:
                turns = entry.environment.gold_turns(task)
                self.gold_turns.append([spelled_turn(turn) for turn in turns])
        except Unsupported:
            self.gold_turns = []

    def gold(self, task: Task, index: int, turn: int) -> Turn:
        turns = self.gold_turns[self._places[task.task_id]]
        return turns[turn] if turn < len(turns) else END_OF_TURN

    def empty(self, task: Task, index: int, turn: int) -> Turn:
        return END_OF_TURN

    def garbage(self, task: Task, index: int, turn: int) -> Turn:
        packed = f"{task.task_id}:{index}:{turn}".encode()
        rng = random.Random(blake2b(packed, digest_size=8).digest())
        text = "".join(rng.choices(_WORDS, k=rng.randrange(1, 12)))
        if turn < GARBAGE_TURNS:
            for _ in range(rng.randrange(3)):
                name, arguments = rng.choice(self._tools), rng.choice(_ARGUMENTS)
                text += f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        return text + END_OF_TURN

    def mixed(self, task: Task, index: int, turn: int) -> Turn:
        if index == 1:
            return ModelError("the policy was told to fail here")
        if index == 0 and self.gold_turns:
            return self.gold(task, index, turn)
        return self.empty(task, index, turn) if index == 2 else self.garbage(task, index, turn)
