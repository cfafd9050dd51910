"""Time limits that don't run while one waits in line for something that others use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from types import CoroutineType, coroutine
from typing import Any, Generic, TypeVar, cast

__all__ = ["SharedSlots", "within"]

ResultT = TypeVar("ResultT")


class _Limit:
    """A time limit that can stand still. Several may wait within it at once."""

    __slots__ = (
        "_end",
        "_left",
        "_outer",
        "_timeout",
        "_waiting",
        "cancelled_before",
        "over",
        "seconds",
    )

    def __init__(self, seconds: float, outer: _Limit | None) -> None:
        self.seconds, self._outer = seconds, outer
        self._end = asyncio.get_running_loop().time() + seconds
        self._timeout: asyncio.Timeout | None = None
        self._waiting = 0
        self._left = seconds
        self.cancelled_before = _times_cancelled()
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
    steps: Coroutine[Any, Any, ResultT] = work if type(work) is CoroutineType else _awaited(work)
    try:
        rest = _Rest(steps, steps.send(None))
    except StopIteration as done:
        result: ResultT = done.value
        return result
    return (yield from _limited(rest, limit).__await__())


async def _awaited(work: Awaitable[ResultT]) -> ResultT:
    return await work


async def _limited(rest: Awaitable[ResultT], limit: _Limit) -> ResultT:
    timeout = limit.timeout()
    try:
        async with timeout:
            result = await rest
    except TimeoutError:
        # The timer can't tell what was cancelled before it began.
        if timeout.expired() and _times_cancelled() > limit.cancelled_before:
            raise asyncio.CancelledError from None
        raise
    if timeout.expired():
        raise TimeoutError(f"it took longer than {limit.seconds} s")
    return result


def _times_cancelled() -> int:
    """How often the task that runs was cancelled, less what was taken back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class _Rest(Generic[ResultT]):
    """What comes after the first wait of some work."""

    __slots__ = ("_waited_for", "close", "send", "throw")

    def __init__(self, steps: Coroutine[Any, Any, ResultT], waited_for: object) -> None:
        # The work's own, so that what is thrown at it is handled in no frame but its own.
        self.send, self.throw, self.close = steps.send, steps.throw, steps.close
        # No frame may name it either: a future that fails would be tied to its own traceback.
        self._waited_for = [waited_for]

    def __await__(self) -> Generator[Any, Any, ResultT]:
        return cast("Generator[Any, Any, ResultT]", self)

    def __next__(self) -> Any:
        return self._waited_for.pop() if self._waited_for else self.send(None)


class SharedSlots:
    """How many may do a thing at once; the rest wait in line.

    The wait uses up no time of who waits `within` some: a busy sandbox is nobody's slowness. It is
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
