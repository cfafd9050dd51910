"""Haggling over a price, as buyer or as seller."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gym_adapters import Environment, InvalidRow, Reward, Task, ToolError, Transcript, tool
from gym_adapters.items import Item, function_call

from .parties import Counterpart, Move, PairedCounterpart, Role, ScriptedCounterpart

__all__ = ["Negotiation", "NegotiationTask", "OtherSide"]

HIGHEST_PRICE = 10**9
THINGS = ("rowing boat", "market stall", "piano", "plough", "bookcase", "hand loom", "press")
RULES = (
    "You are the {role} of a {thing} and haggle over its price with the {other}. {limit} The "
    "closer the price comes to the worst the {other} would take, the better for you; no deal is "
    "worth nothing. You don't know the {other}'s limit. Use the tools, one call at a time. After "
    "about {rounds} offers the {other} will lose patience."
)
OWN_LIMIT = {
    "buyer": "It is worth {limit} to you: pay less than that.",
    "seller": "It cost you {limit}: take more than that.",
}


class OtherSide(BaseModel):
    """How the scripted party behaves; hidden from the policy.

    Attributes:
        first: What it asks at first.
        limit: The worst price it accepts.
        rounds: Offers it hears out.
        toughness: 1 concedes evenly; the higher, the later it concedes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: int = Field(ge=0, le=HIGHEST_PRICE)
    limit: int = Field(ge=0, le=HIGHEST_PRICE)
    rounds: int = Field(ge=1)
    toughness: float = Field(default=1.0, gt=0)


class NegotiationTask(Task):
    """One thing to haggle over.

    Attributes:
        role: Which side the policy is.
        limit: What the thing is worth to it.
        other_side: The other party.
        opens: Whether the policy makes the first move; else it hears the other's by `listen`.
    """

    role: Literal["buyer", "seller"]
    limit: int
    other_side: OtherSide
    opens: bool = True

    @model_validator(mode="after")
    def _has_a_gap(self) -> Self:
        """Refuse a row without a price that is worth something to both."""
        side = self.other_side
        low, high = sorted((self.limit, side.limit))
        buys = self.role == "buyer"
        if low == high or (self.limit == high) is not buys:
            raise InvalidRow(
                f"a {self.role} with limit {self.limit} can't gain from a party with limit "
                f"{side.limit}.",
                field="other_side.limit",
                fix=f"make it {'lower' if buys else 'higher'} than limit.",
            )
        if (side.first < side.limit) if buys else (side.first > side.limit):
            raise InvalidRow(
                f"a first price of {side.first} is past its own limit, {side.limit}.",
                field="other_side.first",
                fix=f"make it {'at least' if buys else 'at most'} other_side.limit.",
            )
        return self


class Negotiation(Environment[NegotiationTask]):
    """Agree on a price.

    The reward is the policy's share of the gap between the two limits: 1 at the other's limit, 0 at
    its own, past it, and without a deal.

    The other party is scripted by the row. Give a `Counterpart` as the resources to put another
    there; `paired` makes two that join two episodes, one for each policy.
    """

    name = "negotiation"
    parallel_tool_calls = False
    counterpart: Counterpart
    standing: Move | None
    deal: int | None

    async def start(self) -> None:
        """Sit down."""
        if self.resources is not None:
            self.counterpart = self.resources
        else:
            side = self.task.other_side
            self.counterpart = ScriptedCounterpart(
                role="seller" if self.task.role == "buyer" else "buyer",
                first=side.first,
                limit=side.limit,
                rounds=side.rounds,
                toughness=side.toughness,
            )
        self.standing = None
        self.deal = None

    @tool
    async def offer(self, price: int, message: str) -> dict[str, object]:
        """Offer a price and hear the other side's answer.

        Args:
            price: A whole number, from 0.
            message: What to say with it.
        """
        if not 0 <= price <= HIGHEST_PRICE:
            raise ToolError(f"a price lies between 0 and {HIGHEST_PRICE}")
        return self._heard(await self.counterpart.answer(Move("offer", price, message)), price)

    @tool
    async def accept(self) -> dict[str, object]:
        """Accept the price the other side asked last. This ends the negotiation."""
        if self.standing is None or self.standing.price is None:
            raise ToolError("the other side has asked no price yet")
        self.deal = self.standing.price
        await self.counterpart.answer(Move("accept", self.deal))
        self.end_episode()
        return {"deal": self.deal}

    @tool
    async def leave(self) -> dict[str, object]:
        """Leave without a deal. This ends the negotiation."""
        await self.counterpart.answer(Move("leave"))
        self.end_episode()
        return {"deal": None}

    @tool
    async def listen(self) -> dict[str, object]:
        """Hear the other side's first price, where it opens."""
        if self.task.opens or self.standing is not None:
            raise ToolError("the other side waits for your offer")
        return self._heard(await self.counterpart.opening(), None)

    async def verify(self, transcript: Transcript) -> Reward:
        """The share of the gap."""
        if self.deal is None:
            return Reward(0.0, components={"deal": 0.0})
        own, other = self.task.limit, self.task.other_side.limit
        share = (own - self.deal) / (own - other)
        return Reward(
            min(1.0, max(0.0, share)), components={"deal": 1.0}, info={"price": self.deal}
        )

    async def close(self) -> None:
        """Let a paired policy know that nobody answers any more."""
        if isinstance(self.resources, PairedCounterpart):
            self.resources.leave()

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[NegotiationTask]:
        """Things to haggle over.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: The higher, the later the other side concedes, the longer it takes, and the
                narrower the gap between the limits.
        """
        rng = random.Random(f"negotiation:{seed}")
        for _ in range(count):
            yield _task(rng, difficulty)

    @classmethod
    def gold_turns(cls, task: NegotiationTask) -> Sequence[Sequence[Item]]:
        """Offer the other's limit until it gives in, as one who knows it would."""
        start = [] if task.opens else [[function_call("listen", "{}", "call_0")]]
        side = task.other_side
        words = orjson.dumps({"price": side.limit, "message": "My offer stands."}).decode()
        # A concession may reach the limit, once rounded, before the last round.
        party = ScriptedCounterpart(
            role="seller" if task.role == "buyer" else "buyer",
            first=side.first,
            limit=side.limit,
            rounds=side.rounds,
            toughness=side.toughness,
        )
        offers = range(1, party.rounds_until_limit() + 1)
        return [*start, *([function_call("offer", words, f"call_{number}")] for number in offers)]

    def _heard(self, move: Move | None, offered: int | None) -> dict[str, object]:
        if move is None:
            raise ToolError("the other side says nothing")
        if move.kind == "accept":
            self.deal = offered
        if move.kind == "offer":
            self.standing = move
        else:
            self.end_episode()
        return {"other_side": move.kind, "price": move.price, "message": move.message}


def _task(rng: random.Random, difficulty: float) -> NegotiationTask:
    role: Role = rng.choice(("buyer", "seller"))
    other = "seller" if role == "buyer" else "buyer"
    cost = rng.randrange(200, 800)
    gap = round(cost * (0.6 - 0.4 * difficulty))
    worth = cost + gap
    own, limit = (worth, cost) if role == "buyer" else (cost, worth)
    # Its first price lies past the policy's own limit, so that taking it at once is no deal.
    first = round(own * 1.2) if role == "buyer" else max(1, round(own * 0.8))
    rounds = 3 + round(5 * difficulty)
    rules = RULES.format(
        role=role,
        other=other,
        thing=rng.choice(THINGS),
        limit=OWN_LIMIT[role].format(limit=own),
        rounds=rounds,
    )
    opens = rng.random() < 0.5
    ask = "Make the first offer." if opens else f"Hear the {other}'s price by calling listen."
    row = {
        "responses_create_params": {
            "input": [
                {"role": "system", "content": rules},
                {"role": "user", "content": ask},
            ],
            "parallel_tool_calls": False,
        },
        "role": role,
        "limit": own,
        "other_side": {
            "first": first,
            "limit": limit,
            "rounds": rounds,
            "toughness": 1.0 + 2.0 * difficulty,
        },
        "opens": opens,
    }
    return NegotiationTask.from_row(row)
