"""Where the steps of gymnasium's environments run: blocking code, away from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

__all__ = ["StepsAlone", "StepsTogether"]

Work = Callable[[], Any]


class StepsAlone:
    """Each piece of work goes to a thread of its own.

    Args:
        pool: The threads.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    async def run(self, work: Work) -> Any:
        """What `work` gives."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


class StepsTogether:
    """All work that waits at the same time goes to a thread in one piece, and is done in turn.

    Args:
        pool: The threads.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._waiting: list[tuple[Work, asyncio.Future[Any]]] = []
        self._running: asyncio.Task[None] | None = None
        self.rounds = 0

    async def run(self, work: Work) -> Any:
        """What `work` gives."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run_all())
        return await done

    async def _run_all(self) -> None:
        loop = asyncio.get_running_loop()
        # What else is asked for in this turn of the loop comes along.
        await asyncio.sleep(0)
        while self._waiting:
            batch, self._waiting = self._waiting, []
            self.rounds += 1
            results = await loop.run_in_executor(
                self._pool, lambda works: [_outcome(work) for work in works], [w for w, _ in batch]
            )
            for (_, done), (value, error) in zip(batch, results, strict=True):
                if done.done():
                    continue
                if error is None:
                    done.set_result(value)
                else:
                    done.set_exception(error)


def _outcome(work: Work) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - it belongs to one attempt, and is raised there
        return None, error
