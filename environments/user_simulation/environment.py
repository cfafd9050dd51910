"""Serving a simulated customer who knows what they want, but not how to say it at once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    InvalidConfig,
    Reward,
    Task,
    ToolError,
    Transcript,
    tool,
)
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.verifiers.judge import open_judge

from .customer import (
    BIKES,
    DAYS,
    Bike,
    Customer,
    Day,
    Goal,
    Order,
    ScriptedCustomer,
    broken_rule,
)
from .model_customer import ModelCustomer

__all__ = ["UserSimulation", "UserSimulationConfig", "UserSimulationTask"]

MakeCustomer: TypeAlias = Callable[[Goal], Customer]

RULES = (
    "You serve the customers of a cycle hire. There are city bikes, e-bikes, cargo bikes and "
    "tandems. House rules: e-bikes are hired out for at most 3 days; nothing is handed out on "
    "Sundays; cargo bikes go out with a helmet only. Find out which bike, for how many days, from "
    "which day on, and whether with a helmet. If the rules forbid what is asked for, say so. Then "
    "repeat the order and ask the customer to confirm it. Only when they have said yes, book it "
    "with the tool, and tell them that it is booked."
)
OPENINGS = (
    "Hello, I'd like to hire something with two wheels.",
    "Hi! Can I get a bike from you?",
    "Good day. I need a cycle.",
)


class UserSimulationTask(Task):
    """One customer.

    Attributes:
        goal: What they want, hidden from the policy.
    """

    goal: Goal


class UserSimulationConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        customer: The model that plays the customer, named as judges are (see
            `gym_adapters.verifiers.judge.open_judge`); ``None`` for the scripted one.
    """

    customer: str | None = None


class UserSimulation(Environment[UserSimulationTask]):
    """Serve a customer.

    The reward is 1 if exactly one hire was booked, it is what the customer wanted in the end, and
    they had said yes to it; else 0.

    The customer is scripted by the row, or played by the model that the setting `customer` names.
    The resources are a function from goal to `Customer`: give one to put another in their place.
    """

    name = "user_simulation"
    Config = UserSimulationConfig
    parallel_tool_calls = False
    customer: Customer
    bookings: list[Order]
    agreed: bool

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[MakeCustomer]:
        """Who plays the customers of the run.

        Raises:
            InvalidConfig: If the model can't be found, or can't converse.
        """
        spec = config.customer if isinstance(config, UserSimulationConfig) else None
        if spec is None:
            yield ScriptedCustomer
            return
        if spec == "exact":
            raise InvalidConfig("customer=exact can't converse. Name a model, or leave it out")
        async with open_judge(spec) as model:
            yield partial(ModelCustomer, model)

    async def start(self) -> None:
        """The customer comes in."""
        make = self.resources if self.resources is not None else ScriptedCustomer
        self.customer = make(self.task.goal)
        self.bookings = []
        self.agreed = False

    @tool
    async def book(self, bike: Bike, days: int, start: Day, helmet: bool) -> dict[str, object]:
        """Book a hire. It can't be taken back.

        Args:
            bike: Which bike.
            days: For how many days, from 1 to 30.
            start: From which day on.
            helmet: Whether with a helmet.
        """
        if not 1 <= days <= 30:
            raise ToolError("a hire lasts from 1 to 30 days")
        order = Order(bike=bike, days=days, start=start, helmet=helmet)
        broken = broken_rule(order)
        if broken:
            raise ToolError(f"against the house rules: {broken}")
        self.agreed = not self.bookings and self.customer.confirmed == order
        self.bookings.append(order)
        return {"booked": True, "reference": f"H{len(self.bookings):03d}"}

    async def reply(self, message: str) -> str | None:
        """What the customer says to that."""
        return await self.customer.reply(message)

    async def verify(self, transcript: Transcript) -> Reward:
        """Whether what was booked is what was wanted and agreed."""
        right = self.bookings == [self.task.goal.final]
        return Reward(
            float(right and self.agreed),
            components={"right_order": float(right), "agreed": float(self.agreed)},
            info={"bookings": [order.model_dump() for order in self.bookings]},
        )

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[UserSimulationTask]:
        """Customers.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: How likely they want what the rules forbid, and change their mind, and how
                soon they lose patience.
        """
        rng = random.Random(f"user_simulation:{seed}")
        for _ in range(count):
            yield _task(rng, difficulty)

    @classmethod
    def gold_turns(cls, task: UserSimulationTask) -> Sequence[Sequence[Item]]:
        """Ask, refuse where needed, confirm, book, tell."""
        goal = task.goal
        says = ["Which kind of bike, for how many days, from which day on, and with a helmet?"]
        broken = broken_rule(goal.order)
        if broken:
            says.append(f"Sorry, {broken}.")
        first = Order.model_validate({**goal.order.model_dump(), **goal.fallback})
        says.append(_summary(first))
        if goal.change:
            says.append(_summary(goal.final))
        arguments = goal.final.model_dump_json()
        return [
            *([assistant_message(text)] for text in says),
            [function_call("book", arguments, "call_0")],
            [assistant_message("Your hire is booked.")],
        ]


def _summary(order: Order) -> str:
    helmet = "with" if order.helmet else "without"
    return (
        f"That is one {order.bike} for {order.days} days from {order.start} on, {helmet} a helmet. "
        "Is that correct?"
    )


def _task(rng: random.Random, difficulty: float) -> UserSimulationTask:
    order = _allowed(rng)
    fallback: dict[str, object] = {}
    if rng.random() < 0.1 + 0.7 * difficulty:
        order, fallback = _forbidden(rng, order)
    final = Order.model_validate({**order.model_dump(), **fallback})
    change: dict[str, object] = {}
    if rng.random() < difficulty:
        change = _change(rng, final)
    row = {
        "responses_create_params": {
            "input": [
                {"role": "system", "content": RULES},
                {"role": "user", "content": rng.choice(OPENINGS)},
            ]
        },
        "goal": {
            "order": order.model_dump(),
            "fallback": fallback,
            "change": change,
            "patience": 4 - round(2 * difficulty),
        },
    }
    return UserSimulationTask.from_row(row)


def _allowed(rng: random.Random) -> Order:
    while True:
        order = Order(
            bike=rng.choice(BIKES),
            days=rng.randint(1, 9),
            start=rng.choice(DAYS),
            helmet=rng.random() < 0.5,
        )
        if not broken_rule(order):
            return order


def _forbidden(rng: random.Random, order: Order) -> tuple[Order, dict[str, object]]:
    """An order that breaks one rule, and what to change to keep it."""
    wish, fallback = rng.choice(
        (
            ({"bike": "e-bike", "days": rng.randint(4, 9)}, {"days": 3}),
            ({"start": "Sunday"}, {"start": order.start}),
            ({"bike": "cargo bike", "helmet": False}, {"helmet": True}),
        )
    )
    base = {**order.model_dump(), "start": order.start}
    return Order.model_validate({**base, **wish}), dict(fallback)


def _change(rng: random.Random, final: Order) -> dict[str, object]:
    while True:
        field = rng.choice(("days", "start", "helmet"))
        drawn = _allowed(rng).model_dump()[field]
        changed = Order.model_validate({**final.model_dump(), field: drawn})
        if changed != final and not broken_rule(changed):
            return {field: drawn}
