"""The loop that steps an engine while requests join and leave, without asyncio and without vLLM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from gym_adapters.errors import GymAdaptersError, ModelError, UsageError
from gym_adapters.generation.step_group import Admission, Exchange, StepGroup

__all__ = ["Finished", "StepLoop", "SteppedEngine", "Ticket"]

# Ranks whose rollouts all wait for tools look for new requests this often, in seconds.
POLL = 0.002
# A single engine is woken by its requests; this is only how long a lost wake-up could cost.
NAP = 5.0
OVER = "the rollouts are over, and nobody steps the engine any more."


class Finished(NamedTuple):
    """A request that is done."""

    name: str
    output: Any


class SteppedEngine(Protocol):
    """What is stepped."""

    def add(self, admission: Admission) -> None:
        """Take a request in.

        Raises:
            GymAdaptersError: If this one can't be served; the others go on.
        """
        ...

    def abort(self, names: Sequence[str]) -> None:
        """Drop requests."""
        ...

    def step(self) -> Iterable[Finished]:
        """Take one step for all requests."""
        ...


@dataclass(slots=True, eq=False)
class Ticket:
    """A request, and the event loop that waits for it."""

    admission: Admission
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]

    def settle(self, output: object | None, error: GymAdaptersError | None = None) -> None:
        """Wake the waiting task, from any thread."""
        # A closed loop has nobody left to wake.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._wake, output, error)

    def _wake(self, output: object | None, error: GymAdaptersError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(output)
        else:
            self.done.set_exception(error)


class StepLoop:
    """Steps one engine in one thread, for requests from any number of threads.

    Args:
        engine: What is stepped.
        group: The ranks that step with it.
    """

    def __init__(self, engine: SteppedEngine, group: StepGroup) -> None:
        self._engine = engine
        self._group = group
        self._changed = threading.Condition()
        self._waiting: list[Ticket] = []
        self._joining: list[Ticket] = []
        self._unwanted: list[Ticket] = []
        self._mine: dict[str, Ticket] = {}
        self._others: set[str] = set()
        self._is_open = False
        self._failure: str | None = None

    @property
    def pending(self) -> int:
        """Requests of this process that wait or are in the engine."""
        with self._changed:
            return len(self._waiting) + len(self._joining) + len(self._mine)

    def submit(self, ticket: Ticket) -> None:
        """Queue a request.

        Raises:
            ModelError: If the engine failed.
            UsageError: If nobody is stepping.
        """
        with self._changed:
            if self._failure is not None:
                raise ModelError(f"the engine failed: {self._failure}")
            if not self._is_open:
                raise UsageError(
                    "nobody is stepping this engine. Fix: run the rollouts inside "
                    "`with stepper.session():`, or pass them to stepper.drive(...)."
                )
            self._waiting.append(ticket)
            self._changed.notify_all()

    def cancel(self, ticket: Ticket) -> None:
        """Drop a request; its future is settled once the engine no longer works for it."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.settle(None)
            elif self._is_open:
                self._unwanted.append(ticket)
                self._changed.notify_all()
            else:
                # The engine has let go of all there was.
                ticket.settle(None)

    def notify(self) -> None:
        """Have the loop look whether it is over."""
        with self._changed:
            self._changed.notify_all()

    def open(self) -> None:
        """Take requests from now on; `run` must follow.

        Raises:
            UsageError: If it is open already.
            ModelError: If the engine failed before.
        """
        with self._changed:
            if self._is_open:
                raise UsageError("this engine is being stepped already, by another thread.")
            if self._failure is not None:
                raise ModelError(f"the engine failed: {self._failure}")
            self._is_open = True

    def run(self, is_over: Callable[[], bool]) -> None:
        """Step until `is_over` on all ranks; requests that are left then fail.

        Raises:
            ModelError: If the engine fails, on this rank or another.
        """
        try:
            while not self._advance(is_over):
                pass
        except BaseException as error:
            self._abandon(error)
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Take no more requests, and fail those that came too late."""
        with self._changed:
            self._is_open = False
            self._dismiss(OVER)

    def _advance(self, is_over: Callable[[], bool]) -> bool:
        """One turn of the loop; whether it was the last."""
        word = self._word(is_over)
        words = self._group.exchange(word)
        self._stop_if_failed(words)
        self._let_go(words)
        if all(each.is_done for each in words):
            return True
        self._admit(words)
        if self._mine or self._others:
            self._step()
        return False

    def _word(self, is_over: Callable[[], bool]) -> Exchange:
        """What joins and leaves; waits where there is nothing to do."""
        with self._changed:
            if not (self._mine or self._others or self._waiting or self._unwanted or is_over()):
                self._changed.wait(NAP if self._group.size == 1 else POLL)
            over = is_over()
            if over:
                self._dismiss(OVER)
            self._joining, self._waiting = self._waiting, []
            unwanted, self._unwanted = self._unwanted, []
            names = [each.admission.name for each in unwanted]
            aborts = [name for name in names if name in self._mine]
            admissions = [ticket.admission for ticket in self._joining]
            return Exchange(admissions, aborts, over, self._failure)

    def _dismiss(self, why: str) -> None:
        """Fail all that wait; the engine lets go of what it has of them."""
        for ticket in (*self._waiting, *self._mine.values()):
            ticket.settle(None, ModelError(why))
        self._waiting = []
        self._unwanted = list(self._mine.values())

    def _stop_if_failed(self, words: Sequence[Exchange]) -> None:
        for rank, word in enumerate(words):
            if word.failure is not None:
                where = f" on rank {rank}" if self._group.size > 1 else ""
                raise ModelError(f"the engine failed{where}: {word.failure}")

    def _let_go(self, words: Sequence[Exchange]) -> None:
        names = [name for word in words for name in word.aborts]
        if not names:
            return
        self._engine.abort(names)
        with self._changed:
            for name in names:
                self._others.discard(name)
                ticket = self._mine.pop(name, None)
                if ticket is not None:
                    ticket.settle(None)

    def _admit(self, words: Sequence[Exchange]) -> None:
        mine = {ticket.admission.name: ticket for ticket in self._joining}
        for word in words:
            for admission in word.admissions:
                ticket = mine.get(admission.name)
                try:
                    self._engine.add(admission)
                except GymAdaptersError as error:
                    # The same on every rank: they were asked the same.
                    if ticket is not None:
                        ticket.settle(None, error)
                    continue
                with self._changed:
                    if ticket is None:
                        self._others.add(admission.name)
                    else:
                        self._mine[admission.name] = ticket
        with self._changed:
            self._joining = []

    def _step(self) -> None:
        try:
            finished = list(self._engine.step())
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            # One engine ends here; several tell each other first, with their next word.
            if self._group.size == 1:
                raise ModelError(f"the engine failed: {self._failure}") from error
            return
        with self._changed:
            for name, output in finished:
                self._others.discard(name)
                ticket = self._mine.pop(name, None)
                if ticket is not None:
                    ticket.settle(output)

    def _abandon(self, error: BaseException) -> None:
        with self._changed:
            self._is_open = False
            if isinstance(error, Exception) and self._failure is None:
                self._failure = f"{type(error).__name__}: {error}"
            tickets = [*self._waiting, *self._joining, *self._mine.values(), *self._unwanted]
            names = [*self._mine, *self._others]
            self._waiting, self._joining, self._unwanted = [], [], []
            self._mine, self._others = {}, set()
        with suppress(Exception):
            self._engine.abort(names)
        for ticket in tickets:
            ticket.settle(None, ModelError(f"the engine failed: {error}"))
