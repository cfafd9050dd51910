"""A model in the customer's place: it is told the goal, and plays somebody who has it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gym_adapters.errors import Boundary, boundary
from gym_adapters.items import Item, message
from gym_adapters.verifiers.judge import Judge, JudgeRequest

from .customer import LONGEST_MESSAGE, Goal, Order

__all__ = ["LEAVES", "YES", "ModelCustomer"]

YES, LEAVES = "[[YES]]", "[[LEAVE]]"
_RULES = (
    "You play a customer of a cycle hire; the clerk writes to you. You have said hello already. "
    "Stay in your part: answer in one or two short sentences, and tell only what you are asked "
    "for.\n\nWhat you want at first: {order}.\n{fallback}{change}"
    "When the clerk repeats an order and asks you to confirm it, and it is exactly what you want "
    "by then, agree, and end your message with {yes}. If it is not, say what is wrong. Once you "
    "are told that the hire is booked, or after {patience} messages that make no sense to you, say "
    "goodbye and end your message with {leaves}. Never write these two marks for anything else."
)


@dataclass(slots=True)
class ModelCustomer:
    """A customer whose words are a model's.

    The model marks the message in which it agrees, and the one with which it leaves; nobody sees
    the marks. What it agrees to is taken to be what it wants in the end: had it agreed to something
    else, a booking of that would not be right either.

    Attributes:
        model: Who is asked.
        goal: What they want.
        confirmed: The order they have said yes to.
    """

    model: Judge
    goal: Goal
    confirmed: Order | None = None
    _said: list[Item] = field(default_factory=list)

    async def reply(self, message_text: str) -> str | None:
        """What the model says to that; ``None`` if it leaves.

        Raises:
            JudgeError: If the model fails: the rollout then has no reward.
        """
        self._said.append(message("user", message_text[:LONGEST_MESSAGE]))
        prompt = (message("system", _part(self.goal)), *self._said)
        with boundary(Boundary.JUDGE, "the model that plays the customer"):
            answer = await self.model.ask(JudgeRequest(prompt, message_text, ""))
        self._said.append(message("assistant", answer))
        self.confirmed = self.goal.final if YES in answer else None
        if LEAVES in answer:
            return None
        return " ".join(answer.replace(YES, " ").split()) or "..."


def _part(goal: Goal) -> str:
    fallback, change = dict(goal.fallback), dict(goal.change)
    return _RULES.format(
        order=_words(goal.order),
        fallback=f"If you are told that this is not possible, take {_changes(fallback)} instead.\n"
        if fallback
        else "",
        change="The first time you are asked to confirm, you change your mind: you now want "
        f"{_changes(change)}. Say so instead of agreeing.\n"
        if change
        else "",
        patience=goal.patience,
        yes=YES,
        leaves=LEAVES,
    )


def _words(order: Order) -> str:
    helmet = "with" if order.helmet else "without"
    return f"one {order.bike} for {order.days} days from {order.start} on, {helmet} a helmet"


def _changes(fields: dict[str, str | int | bool]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in fields.items())
