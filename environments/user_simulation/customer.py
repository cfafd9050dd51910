"""The customer: what they want, and how they talk about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["BIKES", "DAYS", "Customer", "Goal", "Order", "ScriptedCustomer", "broken_rule"]

Bike: TypeAlias = Literal["city bike", "e-bike", "cargo bike", "tandem"]
Day: TypeAlias = Literal[
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"
]
BIKES: tuple[Bike, ...] = ("city bike", "e-bike", "cargo bike", "tandem")
DAYS: tuple[Day, ...] = (
    *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "Sunday",
)


class Order(BaseModel):
    """A hire."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bike: Bike
    days: int = Field(ge=1, le=30)
    start: Day
    helmet: bool


class Goal(BaseModel):
    """What a customer wants; hidden from the policy.

    Attributes:
        order: What they ask for at first.
        fallback: What changes where the rules forbid that, by field.
        change: What they change their mind about when asked to confirm, by field.
        patience: Messages they don't understand before they give up.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: Order
    fallback: Mapping[str, str | int | bool] = Field(default_factory=dict)
    change: Mapping[str, str | int | bool] = Field(default_factory=dict)
    patience: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        """Refuse a goal that no hire can meet, before a rollout is spent on it."""
        try:
            broken = broken_rule(self.final)
        except ValidationError as error:
            first = error.errors()[0]
            told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise ValueError(f"order, fallback and change together are no order ({told})") from None
        if broken:
            raise ValueError(f"what they want in the end is against the rules: {broken}")
        return self

    @property
    def final(self) -> Order:
        """What they end up wanting."""
        return Order.model_validate({**self.order.model_dump(), **self.fallback, **self.change})


def broken_rule(order: Order) -> str:
    """The house rule that `order` breaks, ``""`` for none."""
    if order.bike == "e-bike" and order.days > 3:
        return "e-bikes are hired out for at most 3 days"
    if order.start == "Sunday":
        return "the shop is closed on Sundays"
    if order.bike == "cargo bike" and not order.helmet:
        return "cargo bikes are hired out with a helmet only"
    return ""


class Customer(Protocol):
    """Talks to the policy."""

    async def reply(self, message: str) -> str | None:
        """What they say to `message`; ``None`` if they leave."""
        ...

    @property
    def confirmed(self) -> Order | None:
        """The order they said yes to last; ``None`` before that, and after a change of mind."""
        ...


# What a message asks about, told by its words.
_TOPICS: Mapping[str, re.Pattern[str]] = {
    "bike": re.compile(r"\b(?:which|what|kind|type|sort)\b[^.?!\n]{0,60}\b(?:bike|bicycle|cycle)"),
    "days": re.compile(r"\bhow (?:long|many days)\b|\bnumber of days\b|\bfor how\b"),
    "start": re.compile(r"\b(?:when|which day|what day|weekday|starting)\b"),
    "helmet": re.compile(r"\bhelmet"),
}
_CONFIRM = re.compile(r"\b(?:confirm|correct|is that right|shall i|should i book|go ahead)\b")
_REFUSAL = re.compile(
    r"\b(?:sorry|unfortunately|can't|cannot|can not|not possible|not allowed|at most|closed)\b"
)
_DONE = re.compile(r"\b(?:is booked|have booked|booking is done|all set|reserved)\b")
LONGEST_MESSAGE = 4000


@dataclass(slots=True)
class ScriptedCustomer:
    """Understands questions by their words, and says no more than was asked.

    Asked for something the rules forbid, they make do with their fallback once told so. Asked to
    confirm, they may change their mind once, and otherwise say yes.
    """

    goal: Goal
    confirmed: Order | None = None
    current: Order = field(init=False)
    unclear: int = field(default=0)
    changed: bool = field(default=False)
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.current = self.goal.order

    async def reply(self, message: str) -> str | None:
        """Answer a message; ``None`` after a booking, or when patience is at an end."""
        text = message[:LONGEST_MESSAGE].lower().replace("\u2019", "'")
        if _DONE.search(text):
            return None
        if broken_rule(self.current) and self.told and _REFUSAL.search(text):
            return self._fall_back()
        if _CONFIRM.search(text):
            return self._confirm()
        asked = [topic for topic, words in _TOPICS.items() if words.search(text)]
        if asked:
            self.told.update(asked)
            return " ".join(self._says(topic) for topic in asked)
        self.unclear += 1
        if self.unclear >= self.goal.patience:
            return None
        return "Sorry, I don't follow. What do you need to know?"

    def _fall_back(self) -> str:
        # What they have already changed their mind about stays as they said last.
        changes = {**self.goal.fallback, **(self.goal.change if self.changed else {})}
        self.confirmed = None
        self.current = Order.model_validate({**self.current.model_dump(), **changes})
        self.told.update(changes)
        return f"I see. {self._says_all(list(changes))}"

    def _confirm(self) -> str:
        changes = self.goal.change
        if changes and not self.changed:
            self.changed = True
            self.confirmed = None
            self.current = Order.model_validate({**self.current.model_dump(), **changes})
            return f"Wait, I changed my mind: {self._says_all(list(changes))}"
        self.confirmed = self.current
        return "Yes, please."

    def _says_all(self, topics: Sequence[str]) -> str:
        return " ".join(self._says(topic) for topic in topics)

    def _says(self, topic: str) -> str:
        order = self.current
        if topic == "bike":
            article = "An" if order.bike == "e-bike" else "A"
            return f"{article} {order.bike}."
        if topic == "days":
            return f"For {order.days} day{'s' if order.days > 1 else ''}."
        if topic == "start":
            return f"From {order.start} on."
        return "With a helmet, please." if order.helmet else "No helmet."
