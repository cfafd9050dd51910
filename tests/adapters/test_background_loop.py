from __future__ import annotations

import asyncio
import threading

import pytest

from gym_adapters.adapters import background_loop
from gym_adapters.adapters.background_loop import BackgroundLoop


async def thread_name() -> str:
    return threading.current_thread().name


def test_work_runs_in_a_thread_of_its_own_and_gives_its_result() -> None:
    loop = BackgroundLoop("worker")
    assert loop.run(thread_name()) == "worker"
    loop.close()


def test_all_work_runs_on_one_loop() -> None:
    loop = BackgroundLoop("worker")

    async def current() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert loop.run(current()) is loop.run(current())
    loop.close()


def test_an_exception_reaches_the_caller() -> None:
    loop = BackgroundLoop("worker")

    async def fails() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        loop.run(fails())
    loop.close()


async def test_another_loop_can_await_work_here() -> None:
    loop = BackgroundLoop("worker")
    assert await loop.run_from(thread_name()) == "worker"
    loop.close()


def test_an_interrupt_cancels_the_work_and_waits_for_its_cleanup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = BackgroundLoop("worker")
    began, events = threading.Event(), []

    async def work() -> None:
        try:
            began.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            events.append("cleaned up")

    submit = asyncio.run_coroutine_threadsafe

    def interrupted(coroutine, on):  # type: ignore[no-untyped-def]
        future = submit(coroutine, on)

        def result(timeout: float | None = None) -> None:
            assert began.wait(60)
            raise KeyboardInterrupt

        future.result = result  # type: ignore[method-assign]
        return future

    monkeypatch.setattr(background_loop.asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(work())
    assert events == ["cleaned up"]
    loop.close()


def test_closing_cancels_what_runs_and_later_work_starts_anew() -> None:
    loop = BackgroundLoop("worker")
    events: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async def start() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        events.append("running")
        kept.append(task)

    kept: list[asyncio.Task[None]] = []
    loop.run(start())
    loop.close()
    assert events == ["running", "cancelled"]
    assert loop.run(thread_name()) == "worker"
    loop.close()
