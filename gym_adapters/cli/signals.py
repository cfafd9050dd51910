"""Stopping a run cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

__all__ = ["Stopped", "run_until_signal"]

ResultT = TypeVar("ResultT")
# A terminal that is closed, or a connection that is lost, stops a run as Ctrl-C does.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal ended the run; `exit_code` is the shell's word for it (130 for Ctrl-C)."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


def _nothing() -> None:
    """What there is to do before the process ends at once, where there is nothing."""


def run_until_signal(
    work: Coroutine[Any, Any, ResultT], *, at_once: Callable[[], None] = _nothing
) -> ResultT:
    """Run `work` to its end; a first signal cancels it, a second one ends the process at once.

    Args:
        work: What to run.
        at_once: Called before a second signal ends the process.

    Raises:
        Stopped: If a signal came and `work` has cleaned up.
    """
    return asyncio.run(_until_signal(work, at_once))


async def _until_signal(work: Coroutine[Any, Any, ResultT], at_once: Callable[[], None]) -> ResultT:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received:
            # Plain handlers run even where an environment blocks the event loop for good.
            at_once()
            os._exit(128 + number)
        received.append(number)
        loop.call_soon_threadsafe(task.cancel)

    # nohup ignores SIGHUP, and so it stays.
    without_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heeded = [each for each in SIGNALS if each != signal.SIGHUP or not without_terminal]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Stopped(received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
