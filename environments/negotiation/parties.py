"""Who sits on the other side of the table."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from gym_adapters.errors import EnvironmentFailure

__all__ = ["Counterpart", "Move", "PairedCounterpart", "ScriptedCounterpart", "paired"]

Role = Literal["buyer", "seller"]


@dataclass(frozen=True, slots=True)
class Move:
    """What one party does: offers a price, accepts the other's last offer, or leaves."""

    kind: Literal["offer", "accept", "leave"]
    price: int | None = None
    message: str = ""


class Counterpart(Protocol):
    """The other party of one negotiation."""

    async def opening(self) -> Move:
        """Its first move, where it opens."""
        ...

    async def answer(self, move: Move) -> Move | None:
        """Its answer to a move; ``None`` to an acceptance or a departure, which end it."""
        ...


@dataclass(slots=True)
class ScriptedCounterpart:
    """Comes down from its first price to its limit, slowly at first, and never past it.

    It accepts an offer at least as good as what it would ask next. After its last round it leaves.

    Attributes:
        role: Which side it is.
        first: What it asks at first.
        limit: The worst price it accepts.
        rounds: Offers it hears out.
        toughness: 1 concedes evenly; the higher, the later it concedes.
    """

    role: Role
    first: int
    limit: int
    rounds: int
    toughness: float
    heard: int = field(default=0)

    async def opening(self) -> Move:
        """Ask its first price."""
        return Move("offer", self.first, self._words())

    async def answer(self, move: Move) -> Move | None:
        """Accept, ask for more, or leave."""
        if move.kind != "offer" or move.price is None:
            return None
        self.heard += 1
        wanted = self._wanted()
        good = move.price >= wanted if self.role == "seller" else move.price <= wanted
        if good:
            return Move("accept", move.price, "Done, it's a deal.")
        if self.heard >= self.rounds:
            return Move("leave", None, "Then we can't do business. Goodbye.")
        return Move("offer", wanted, self._words())

    def rounds_until_limit(self) -> int:
        """Offers of its limit that it takes until one is accepted."""
        fresh = replace(self, heard=0)
        for number in range(1, self.rounds + 1):
            fresh.heard = number
            if fresh._wanted() == self.limit:
                return number
        return self.rounds

    def _wanted(self) -> int:
        part = 1.0 if self.rounds == 1 else (self.heard - 1) / (self.rounds - 1)
        conceded: float = part**self.toughness
        return self.first + round((self.limit - self.first) * conceded)

    def _words(self) -> str:
        if self.heard == 0:
            return "That is my price."
        return "I can move a little." if self.heard < self.rounds - 1 else "This is my last word."


class PairedCounterpart:
    """One end of a table at which two policies sit: what one does, the other hears."""

    def __init__(
        self, outbox: asyncio.Queue[Move], inbox: asyncio.Queue[Move], *, patience: float
    ) -> None:
        self._outbox, self._inbox, self._patience = outbox, inbox, patience

    async def opening(self) -> Move:
        """The other policy's first move."""
        return await self._next()

    async def answer(self, move: Move) -> Move | None:
        """Pass `move` on, and wait for the other policy's."""
        self._outbox.put_nowait(move)
        return await self._next() if move.kind == "offer" else None

    def leave(self) -> None:
        """Tell the other side that this one has gone; harmless where the matter is settled."""
        self._outbox.put_nowait(Move("leave"))

    async def _next(self) -> Move:
        try:
            async with asyncio.timeout(self._patience):
                return await self._inbox.get()
        except TimeoutError as error:
            raise EnvironmentFailure(
                f"the other party made no move within {self._patience} s"
            ) from error


def paired(*, patience: float = 100.0) -> tuple[PairedCounterpart, PairedCounterpart]:
    """Two counterparts for two episodes that are run at the same time, by two policies.

    Give the first as the resources of the episode that opens, the second to the other: each policy
    then has an episode, a transcript and a reward of its own.

    Args:
        patience: Seconds one side waits for the other; keep it below the episodes' `tool_timeout`.
    """
    one: asyncio.Queue[Move] = asyncio.Queue()
    two: asyncio.Queue[Move] = asyncio.Queue()
    first = PairedCounterpart(one, two, patience=patience)
    return first, PairedCounterpart(two, one, patience=patience)
