from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from gym_adapters.deadline import SharedSlots, within


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


async def test_time_used_before_the_first_wait_of_all_is_used_up() -> None:
    slots, first = await line(0.1)

    async def work() -> None:
        time.sleep(0.2)  # noqa: ASYNC251 - a hook that blocks
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
