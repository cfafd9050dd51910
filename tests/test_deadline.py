from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from itertools import repeat
from types import coroutine
from typing import Any, cast

import pytest

from gym_adapters.deadline import SharedSlots, within

pytestmark = pytest.mark.usefixtures("virtual_time")


async def occupy(slots: SharedSlots, seconds: float) -> None:
    async with slots.taken():
        await asyncio.sleep(seconds)


async def through(slots: SharedSlots, first: asyncio.Task[None], seconds: float = 0) -> None:
    """Wait in line behind `first`, then work for `seconds`."""
    async with slots.taken():
        assert first.done()
        await asyncio.sleep(seconds)


async def line(seconds: float) -> tuple[SharedSlots, asyncio.Task[None]]:
    """One slot, taken for so long."""
    slots = SharedSlots(1)
    first = asyncio.create_task(occupy(slots, seconds))
    await asyncio.sleep(0)
    return slots, first


async def test_waiting_in_line_uses_up_no_time() -> None:
    slots, first = await line(0.3)
    await within(0.1, through(slots, first))
    await first


async def test_what_takes_too_long_in_the_slot_still_times_out() -> None:
    slots, first = await line(0.1)
    with pytest.raises(TimeoutError):
        await within(0.2, through(slots, first, 60))
    await first
    await within(1, through(slots, first))  # the slot was given back


async def test_time_used_before_the_wait_is_used_up() -> None:
    slots, first = await line(0.4)

    async def work() -> None:
        await asyncio.sleep(0.3)
        await occupy(slots, 0.3)

    with pytest.raises(TimeoutError):
        await within(0.4, work())
    await first


async def test_time_used_before_the_first_wait_of_all_is_used_up(
    virtual_time: Callable[[float], None],
) -> None:
    slots, first = await line(0.1)

    async def work() -> None:
        virtual_time(0.2)  # a hook that blocks
        await occupy(slots, 0)
        await asyncio.sleep(0.2)

    with pytest.raises(TimeoutError):
        await within(0.3, work())
    await first


async def test_limits_around_a_limit_stand_still_too() -> None:
    slots, first = await line(0.3)
    await within(0.15, within(0.1, through(slots, first)))
    await first


async def test_it_stands_still_until_the_last_of_those_who_wait() -> None:
    short, one = await line(0.1)
    long, other = await line(0.4)

    async def both() -> None:
        await asyncio.gather(occupy(short, 0), occupy(long, 0))

    await within(0.25, both())
    await asyncio.gather(one, other)


async def test_who_stops_waiting_takes_no_slot() -> None:
    slots, first = await line(0.1)
    waiter = asyncio.create_task(occupy(slots, 60))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await first
    await within(1, through(slots, first))


async def test_a_task_that_outlives_the_limit_may_wait_on() -> None:
    slots, first = await line(0.1)

    async def leaving() -> asyncio.Task[None]:
        left = asyncio.create_task(occupy(slots, 0))
        await asyncio.sleep(0)
        return left

    await (await within(5, leaving()))
    await first


async def test_code_that_swallows_its_cancellation_has_timed_out_all_the_same() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
        await within(0.01, stubborn())


async def test_code_that_goes_on_after_its_cancellation_is_waited_for() -> None:
    async def cleaning() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    cleaned: list[bool] = []
    with pytest.raises(TimeoutError):
        await within(0.01, cleaning())
    assert cleaned


async def test_work_gives_its_value_whether_it_waits_or_not() -> None:
    async def at_once() -> str:
        return "at once"

    async def later() -> str:
        for _ in range(3):
            await asyncio.sleep(0)
        return "later"

    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "a future")
    assert await within(1, at_once()) == "at once"
    assert await within(1, later()) == "later"
    assert await within(1, future) == "a future"


async def test_work_raises_what_it_raised_whether_it_waits_or_not() -> None:
    async def failing(waits: bool) -> None:
        if waits:
            await asyncio.sleep(0)
        raise KeyError(waits)

    for waits in (False, True):
        with pytest.raises(KeyError, match=str(waits)):
            await within(1, failing(waits))


async def test_limits_and_groups_of_tasks_within_work_stay_its_own() -> None:
    async def work() -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        return "done"

    assert await within(5, work()) == "done"


async def test_a_limit_entered_before_the_first_wait_is_no_timeout_of_the_outer_one() -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError, match=r"^$"):
        await within(5, work())


async def test_cancellation_passes_through_to_the_work() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append(True)
            raise

    told: list[bool] = []
    task = asyncio.create_task(within(5, work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told


async def test_whatever_can_be_awaited_may_be_limited() -> None:
    class Wrapped:
        def __init__(self, steps: Iterable[None]) -> None:
            self.steps = iter(steps)

        def __await__(self) -> Any:
            return self.steps

    @coroutine
    def generator() -> Any:
        yield
        return "a generator"

    assert await within(1, generator()) == "a generator"
    assert await within(1, Wrapped([None, None])) is None
    with pytest.raises(TypeError, match="can't be used in 'await'"):
        await within(1, cast("Any", None))
    # An iterator takes no exceptions: the cancellation is raised where it is awaited.
    task = asyncio.create_task(within(5, Wrapped(repeat(None))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_fails_is_freed_with_what_it_worked_on() -> None:
    class Place:
        """What a hook's frame names."""

    async def failing(place: Place, waits: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(waits):
            await asyncio.sleep(0)
        waited_for = [loop.create_future()]
        loop.call_soon(waited_for[0].set_exception, KeyError("x"))
        await waited_for.pop()

    async def place_of(waits: int) -> weakref.ref[Place]:
        place = Place()
        with contextlib.suppress(KeyError):
            await within(5, failing(place, waits))
        return weakref.ref(place)

    gc.disable()
    try:
        places = [await place_of(waits) for waits in range(3)]
        await asyncio.sleep(0)  # a task lets go of an exception in its next step
        assert [place() for place in places] == [None] * 3
    finally:
        gc.enable()


async def test_what_work_raises_after_its_cancellation_has_no_context() -> None:
    async def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        await within(0.01, work())
    assert caught.value.__context__ is None


@pytest.mark.parametrize("waits", [False, True])
async def test_a_task_that_was_cancelled_before_its_first_wait_stays_cancelled(waits: bool) -> None:
    """Ctrl-C while a hook blocks cancels the task from within."""

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(60)
        finally:
            if waits:
                await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(within(0.01, work()))


async def test_cancelled_while_it_ends_for_its_time_is_cancelled() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)

    task = asyncio.create_task(within(0.01, work()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


async def test_time_that_runs_out_in_a_cancelled_task_is_a_timeout() -> None:
    """What cleans up after a cancellation has limits too."""

    async def closing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            with pytest.raises(TimeoutError):
                await within(0.01, asyncio.sleep(60))
            closed.append(True)

    closed: list[bool] = []
    task = asyncio.create_task(closing())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed


async def test_work_that_is_abandoned_is_closed() -> None:
    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append(True)

    closed: list[bool] = []
    limited = within(5, work())
    limited.send(None)
    limited.close()
    assert closed


async def test_what_work_sets_in_its_context_stays() -> None:
    seen: ContextVar[int] = ContextVar("seen", default=0)

    async def work(waits: bool) -> None:
        seen.set(seen.get() + 1)
        if waits:
            await asyncio.sleep(0)
            seen.set(seen.get() + 1)

    await within(5, work(False))
    await within(5, work(True))
    assert seen.get() == 3
