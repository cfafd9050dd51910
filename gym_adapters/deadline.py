"""Time limits that don't run while one waits in line for something that others use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar

__all__ = ["SharedSlots", "deadline"]


class _Limit:
    """A time limit that can stand still. Several may wait within it at once."""

    def __init__(self, timeout: asyncio.Timeout, outer: _Limit | None) -> None:
        self._timeout, self._outer = timeout, outer
        self._waiting = 0
        self._left = 0.0
        self.over = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stand still until the last of those who wait is done, as do the limits around."""
        clock = asyncio.get_running_loop().time
        when = self._timeout.when()
        if self._waiting == 0 and self._runs() and when is not None:
            self._left = when - clock()
            self._timeout.reschedule(None)
        self._waiting += 1
        try:
            with nullcontext() if self._outer is None else self._outer.held():
                yield
        finally:
            self._waiting -= 1
            if self._waiting == 0 and self._runs():
                self._timeout.reschedule(clock() + self._left)

    def _runs(self) -> bool:
        return not self.over and not self._timeout.expired()


_limit: ContextVar[_Limit | None] = ContextVar("gym_adapters_deadline", default=None)


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """A time limit that also holds for code which swallows its cancellation.

    Waiting for `SharedSlots` doesn't count.

    Raises:
        TimeoutError: If what is inside takes longer than `seconds`.
    """
    async with asyncio.timeout(seconds) as timeout:
        limit = _Limit(timeout, _limit.get())
        before = _limit.set(limit)
        try:
            yield
        finally:
            limit.over = True
            _limit.reset(before)
    if timeout.expired():
        raise TimeoutError(f"it took longer than {seconds} s")


class SharedSlots:
    """How many may do a thing at once; the rest wait in line.

    The wait doesn't use up the `deadline` of who waits: a busy sandbox is nobody's slowness. It is
    bounded by the limits of those ahead.

    Args:
        count: Most at once.
    """

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """One slot, for as long as this is open."""
        limit = _limit.get()
        if limit is None or not self._free.locked():
            await self._free.acquire()
        else:
            with limit.held():
                await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()
