"""Time limits that don't run while one waits in line for something that others use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from types import coroutine
from typing import Any, TypeVar

__all__ = ["SharedSlots", "within"]

ResultT = TypeVar("ResultT")


class _Limit:
    """A time limit that can stand still. Several may wait within it at once."""

    __slots__ = ("_end", "_left", "_outer", "_timeout", "_waiting", "over", "seconds")

    def __init__(self, seconds: float, outer: _Limit | None) -> None:
        self.seconds, self._outer = seconds, outer
        self._end = asyncio.get_running_loop().time() + seconds
        self._timeout: asyncio.Timeout | None = None
        self._waiting = 0
        self._left = seconds
        self.over = False

    def timeout(self) -> asyncio.Timeout:
        """What ends the block that is limited, from now on."""
        self._timeout = asyncio.timeout_at(None if self._waiting else self._end)
        return self._timeout

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stand still until the last of those who wait is done, as do the limits around."""
        clock = asyncio.get_running_loop().time
        if self._waiting == 0 and self._runs():
            self._left = self._end - clock()
            self._reschedule(None)
        self._waiting += 1
        try:
            with nullcontext() if self._outer is None else self._outer.held():
                yield
        finally:
            self._waiting -= 1
            if self._waiting == 0 and self._runs():
                self._end = clock() + self._left
                self._reschedule(self._end)

    def _reschedule(self, end: float | None) -> None:
        if self._timeout is not None:
            self._timeout.reschedule(end)

    def _runs(self) -> bool:
        return not self.over and not (self._timeout is not None and self._timeout.expired())


_limit: ContextVar[_Limit | None] = ContextVar("gym_adapters_deadline", default=None)


async def within(seconds: float, work: Awaitable[ResultT]) -> ResultT:
    """What `work` gives, if it takes no longer than `seconds`.

    It also holds for code which swallows its cancellation. Waiting for `SharedSlots` doesn't count.
    Work that never waits costs no timer: most hooks of an environment are of that kind.

    Raises:
        TimeoutError: If it takes longer.
    """
    outer = _limit.get()
    limit = _Limit(seconds, outer)
    _limit.set(limit)
    try:
        return await _run(work, limit)
    finally:
        limit.over = True
        _limit.set(outer)


@coroutine
def _run(work: Awaitable[ResultT], limit: _Limit) -> Generator[Any, Any, ResultT]:
    """Run `work`, without a timer up to its first wait."""
    steps = work.__await__()
    try:
        waited_for = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    return (yield from _limited(_resumed(steps, waited_for), limit).__await__())


async def _limited(rest: Awaitable[ResultT], limit: _Limit) -> ResultT:
    async with limit.timeout() as timeout:
        result = await rest
    if timeout.expired():
        raise TimeoutError(f"it took longer than {limit.seconds} s")
    return result


@coroutine
def _resumed(
    steps: Generator[Any, Any, ResultT], waited_for: object
) -> Generator[Any, Any, ResultT]:
    """The rest of what was run up to its first wait."""
    while True:
        try:
            yield waited_for
        except BaseException as error:  # noqa: BLE001 - the work handles it
            try:
                waited_for = steps.throw(error)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
        else:
            return (yield from steps)


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
