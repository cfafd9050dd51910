"""An event loop in a thread of its own, for trainers that are not async.

All code of an environment runs on one loop, so that what `open_resources` opened on it (sessions,
locks) works in every hook and tool, whichever thread the trainer calls from.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["BackgroundLoop"]

ResultT = TypeVar("ResultT")
# Seconds that work gets to clean up when it is cancelled, and the thread to end.
GRACE = 30.0


class BackgroundLoop:
    """Runs coroutines for other threads. The thread starts with the first of them.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finalizer: weakref.finalize[[asyncio.AbstractEventLoop, threading.Thread], Any] | None
        self._finalizer = None

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run `work` and wait for it.

        When the waiting thread is interrupted, `work` is cancelled and gets time to clean up before
        the interrupt travels on.
        """
        ended = threading.Event()

        async def watched() -> ResultT:
            try:
                return await work
            finally:
                ended.set()

        future = self.begin(watched())
        try:
            return future.result()
        except BaseException:
            if not ended.is_set():
                future.cancel()
                ended.wait(GRACE)
            raise

    def begin(self, work: Coroutine[Any, Any, ResultT]) -> Future[ResultT]:
        """Start `work` and return at once; cancelling the future cancels `work`."""
        return asyncio.run_coroutine_threadsafe(_without_exit(work), self._started())

    async def run_from(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run `work` here, and await it on the caller's own loop; cancelling cancels `work`."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._started()))

    def close(self) -> None:
        """Cancel what still runs and end the thread. Later work starts another."""
        with self._starting:
            self._loop = None
            if self._finalizer is not None:
                self._finalizer()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_run_forever, args=(self._loop,), name=self._name, daemon=True
                )
                thread.start()
                # Not a method: it must not keep this object alive. Runs at exit at the latest.
                self._finalizer = weakref.finalize(self, _stop, self._loop, thread)
            return self._loop


async def _without_exit(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    try:
        return await work
    except SystemExit as error:
        # It would end the loop's thread, and leave everybody waiting.
        raise RuntimeError(f"exit({error.code}) was called on the background loop") from error


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(GRACE)
