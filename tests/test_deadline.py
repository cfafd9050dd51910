from __future__ import annotations

import asyncio
import contextlib

import pytest

from gym_adapters.deadline import SharedSlots, deadline


async def occupy(slots: SharedSlots, seconds: float) -> None:
    async with slots.taken():
        await asyncio.sleep(seconds)


async def line(seconds: float) -> tuple[SharedSlots, asyncio.Task[None]]:
    """One slot, taken for so long."""
    slots = SharedSlots(1)
    first = asyncio.create_task(occupy(slots, seconds))
    await asyncio.sleep(0)
    return slots, first


async def test_waiting_in_line_uses_up_no_time() -> None:
    slots, first = await line(0.3)
    async with deadline(0.1), slots.taken():
        assert first.done()
    await first


async def test_what_takes_too_long_in_the_slot_still_times_out() -> None:
    slots, first = await line(0.1)
    with pytest.raises(TimeoutError):
        async with deadline(0.2), slots.taken():
            await asyncio.sleep(60)
    await first
    async with deadline(1), slots.taken():
        pass  # the slot was given back


async def test_time_used_before_the_wait_is_used_up() -> None:
    slots, first = await line(0.4)

    async def work() -> None:
        async with deadline(0.4):
            await asyncio.sleep(0.3)
            await occupy(slots, 0.3)

    with pytest.raises(TimeoutError):
        await work()
    await first


async def test_limits_around_a_limit_stand_still_too() -> None:
    slots, first = await line(0.3)
    async with deadline(0.15), deadline(0.1), slots.taken():
        assert first.done()
    await first


async def test_it_stands_still_until_the_last_of_those_who_wait() -> None:
    short, one = await line(0.1)
    long, other = await line(0.4)
    async with deadline(0.25):
        await asyncio.gather(occupy(short, 0), occupy(long, 0))
    await asyncio.gather(one, other)


async def test_who_stops_waiting_takes_no_slot() -> None:
    slots, first = await line(0.1)
    waiter = asyncio.create_task(occupy(slots, 60))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await first
    async with deadline(1), slots.taken():
        pass


async def test_a_task_that_outlives_the_limit_may_wait_on() -> None:
    slots, first = await line(0.1)
    async with deadline(5):
        left = asyncio.create_task(occupy(slots, 0))
        await asyncio.sleep(0)
    await left
    await first


async def test_code_that_swallows_its_cancellation_has_timed_out_all_the_same() -> None:
    async def stubborn() -> None:
        async with deadline(0.01):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
        await stubborn()
