"""Sessions of a server: bounded in number, and gone when nobody uses them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from gym_adapters.errors import InvalidConfig
from gym_adapters.serving.http_errors import HttpError

__all__ = ["SessionCounts", "SessionLimits", "SessionStore"]

log = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")
LONGEST_NAP = 5.0


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds on sessions.

    Attributes:
        max_sessions: Most sessions at once; a further one is refused with 503.
        idle_timeout: Seconds without a request until a session is closed.
        finished_timeout: The same for one that has its verdict: it waits for a repeated request.
    """

    max_sessions: int = 4096
    idle_timeout: float = 1800.0
    finished_timeout: float = 60.0

    def __post_init__(self) -> None:
        if self.max_sessions < 1 or min(self.idle_timeout, self.finished_timeout) <= 0:
            raise InvalidConfig("sessions need a number and timeouts above 0")


@dataclass(slots=True)
class SessionCounts:
    """How many sessions were opened, closed on request, and closed because nobody used them."""

    opened: int = 0
    closed: int = 0
    expired: int = 0


@dataclass(slots=True)
class _Entry(Generic[ValueT]):
    value: ValueT
    last_used: float
    in_use: int = 0
    finished: bool = False


class SessionStore(Generic[ValueT]):
    """Sessions by an unguessable name. Use it as an async context manager: leaving closes all.

    Args:
        close: Frees one; called once for each, with whether it had expired.
        limits: Bounds.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        close: Callable[[ValueT, bool], Awaitable[None]],
        *,
        limits: SessionLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits if limits is not None else SessionLimits()
        self.counts = SessionCounts()
        self._close, self._clock = close, clock
        self._entries: dict[str, _Entry[ValueT]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> SessionStore[ValueT]:
        self._sweeper = asyncio.create_task(self._sweep_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        for name in list(self._entries):
            await self.close(name)

    def __len__(self) -> int:
        return len(self._entries)

    async def make_room(self) -> None:
        """Close what has expired, and finished ones where that is not enough.

        Raises:
            HttpError: 503, if there is no room for another session.
        """
        if len(self._entries) < self.limits.max_sessions:
            return
        await self.sweep()
        if len(self._entries) >= self.limits.max_sessions:
            over = [n for n, entry in self._entries.items() if entry.finished and not entry.in_use]
            for name in over[:1]:
                await self._drop(name, expired=True)
        if len(self._entries) >= self.limits.max_sessions:
            raise HttpError(
                503,
                "too_many_sessions",
                f"there are {self.limits.max_sessions} sessions; close some, or try again later",
                headers={"retry-after": "5"},
            )

    def add(self, value: ValueT, name: str | None = None) -> str:
        """Keep `value`, and name it.

        Raises:
            HttpError: 503, if there is no room; call `make_room` before `value` is made.
        """
        if len(self._entries) >= self.limits.max_sessions:
            raise HttpError(503, "too_many_sessions", "there is no room for another session")
        name = name if name is not None else secrets.token_urlsafe(24)
        self._entries[name] = _Entry(value, self._clock())
        self.counts.opened += 1
        return name

    def get(self, name: str | None) -> ValueT | None:
        """The session of that name, if it is there; does not keep it."""
        entry = self._entries.get(name) if name else None
        return None if entry is None else entry.value

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[ValueT]:
        """The session of that name; it does not expire within the block.

        Raises:
            HttpError: 404, if there is none.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise HttpError(
                404, "unknown_session", "there is no such session: it was closed, or has expired"
            )
        entry.in_use += 1
        try:
            yield entry.value
        finally:
            entry.in_use -= 1
            entry.last_used = self._clock()

    def finish(self, name: str) -> None:
        """Say that a session has its verdict, and may go soon."""
        if (entry := self._entries.get(name)) is not None:
            entry.finished = True

    async def close(self, name: str) -> bool:
        """Close a session; ``False`` where there is none."""
        return await self._drop(name, expired=False)

    async def sweep(self) -> None:
        """Close every session that has expired."""
        now = self._clock()
        for name, entry in list(self._entries.items()):
            limits = self.limits
            allowed = limits.finished_timeout if entry.finished else limits.idle_timeout
            if not entry.in_use and now - entry.last_used > allowed:
                await self._drop(name, expired=True)

    async def _drop(self, name: str, *, expired: bool) -> bool:
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        if expired:
            self.counts.expired += 1
        else:
            self.counts.closed += 1
        await self._close(entry.value, expired)
        return True

    async def _sweep_on(self) -> None:
        shortest = min(self.limits.idle_timeout, self.limits.finished_timeout)
        while True:
            await asyncio.sleep(min(shortest / 2, LONGEST_NAP))
            try:
                await self.sweep()
            except Exception:
                log.exception("closing expired sessions failed")
