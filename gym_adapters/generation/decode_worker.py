"""The one thread that runs a model, and the requests that wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import nn

from gym_adapters.errors import ModelError, UsageError
from gym_adapters.generation.decode_batch import DecodeBatch, DecodeRow

__all__ = ["DecodeWorker", "Request"]

# An idle thread ends after this many seconds; the next request starts another.
LINGER = 30.0


@dataclass(slots=True, eq=False)
class Request:
    """A row, and the event loop that waits for it."""

    row: DecodeRow
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    cancelled: bool = False

    def settle(self, error: ModelError | None = None) -> None:
        """Wake the waiting task, from any thread."""
        # A closed loop has nobody left to wake.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._wake, error)

    def _wake(self, error: ModelError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


@dataclass(slots=True)
class EvalMode:
    """Puts a model in eval mode, and back exactly as it was, module by module."""

    model: nn.Module
    _training: list[nn.Module] | None = field(default=None)

    def enter(self) -> None:
        """Eval mode, unless entered already."""
        if self._training is None:
            self._training = [module for module in self.model.modules() if module.training]
            self.model.eval()

    def leave(self) -> None:
        """As it was before `enter`."""
        for module in self._training or ():
            module.training = True
        self._training = None


class DecodeWorker:
    """Runs one `DecodeBatch` for requests from any number of event loops.

    Requests join between decode steps and leave as they finish. When the last one leaves, the
    model's training flags are restored before anybody is told, so that a caller who has all its
    answers may train the model at once.
    """

    def __init__(self, model: nn.Module, batch: DecodeBatch, max_batch_size: int) -> None:
        self._batch = batch
        self._max_batch_size = max_batch_size
        self._mode = EvalMode(model)
        self._changed = threading.Condition()
        self._queue: deque[Request] = deque()
        self._running: dict[DecodeRow, Request] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: Request) -> None:
        """Queue `request`; its future is settled when it is done.

        Raises:
            UsageError: If the worker is closed.
        """
        with self._changed:
            if self._closed:
                raise UsageError("this generator is closed: make another.")
            self._queue.append(request)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="gym_adapters-decode", daemon=True
                )
                self._thread.start()

    def cancel(self, request: Request) -> None:
        """Drop `request`; its future is settled once the model no longer works for it."""
        with self._changed:
            request.cancelled = True
            if request in self._queue:
                self._queue.remove(request)
                request.settle()

    def close(self, timeout: float) -> None:
        """Fail what is waiting and end the thread; blocks up to `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _run(self) -> None:
        failure: BaseException = ModelError("the generator was closed.")
        try:
            with torch.no_grad():
                while (joining := self._next_requests()) is not None:
                    self._advance(joining)
        except BaseException as error:
            failure = error
            raise
        finally:
            self._retire(failure)

    def _next_requests(self) -> list[Request] | None:
        """Requests to take in now; waits while there is nothing at all to do, ``None`` to end."""
        with self._changed:
            while not self._closed and not self._queue and not self._running:
                if not self._changed.wait(timeout=LINGER) and not self._queue:
                    # Let go under the lock: a request that comes next starts another thread.
                    self._thread = None
                    return None
            if self._closed:
                return None
            room = self._max_batch_size - len(self._running) if self._batch.can_join else 0
            joining = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
            self._running.update({request.row: request for request in joining})
        return joining

    def _advance(self, joining: list[Request]) -> None:
        self._mode.enter()
        error: ModelError | None = None
        try:
            gone = self._batch.drop(lambda row: self._running[row].cancelled)
            gone += self._batch.join([request.row for request in joining])
            gone += self._batch.step()
        except Exception as cause:  # noqa: BLE001 - whatever it was, the waiting calls must hear
            # The batch can't be continued; the next one starts afresh.
            self._batch.clear()
            gone, error = list(self._running), _model_error(cause)
        self._settle(gone, error)

    def _settle(self, rows: Iterable[DecodeRow], error: ModelError | None) -> None:
        requests = [self._running.pop(row) for row in rows]
        with self._changed:
            if error is not None:
                requests += self._queue
                self._queue.clear()
            if not self._running and not self._queue:
                self._mode.leave()
        for request in requests:
            request.settle(None if error is None else _model_error(error))

    def _retire(self, failure: BaseException) -> None:
        with self._changed:
            # Another thread may have taken over from one that lingered in vain.
            if self._thread is not threading.current_thread():
                return
            self._thread = None
        self._batch.clear()
        self._settle([*self._running], _model_error(failure))


def _model_error(cause: BaseException) -> ModelError:
    """A fresh error for each waiter: one shared by many would collect all their tracebacks."""
    if isinstance(cause, ModelError):
        copy = ModelError(*cause.args)
        copy.__cause__ = cause.__cause__
        return copy
    error = ModelError(f"decoding: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
