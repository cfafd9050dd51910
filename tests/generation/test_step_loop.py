"""Requests join and leave between steps, on one rank and on several, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gym_adapters.errors import InvalidConfig, ModelError, UsageError
from gym_adapters.generation.step_group import Admission, Exchange, OneEngine
from gym_adapters.generation.step_loop import Finished, StepLoop, Ticket

RANKS = Path(__file__).with_name("step_ranks.py")


class FakeEngine:
    """Gives each request as many tokens as its ``max_tokens``, one a step.

    Steps wait for `go`, so that a test decides what joins between which.
    """

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.aborted: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.failing = False

    def add(self, admission: Admission) -> None:
        if not admission.token_ids:
            raise InvalidConfig("no prompt")
        self.left[admission.name] = admission.fields["max_tokens"]

    def abort(self, names: Sequence[str]) -> None:
        for name in names:
            if self.left.pop(name, None) is not None:
                self.aborted.append(name)

    def step(self) -> Iterable[Finished]:
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(self.left))
        assert self.go.wait(60)
        if self.failing:
            raise RuntimeError("out of memory")
        for name in list(self.left):
            self.left[name] -= 1
            if not self.left[name]:
                del self.left[name]
                yield Finished(name, f"turn of {name}")


@contextmanager
def stepped(steps: StepLoop) -> Iterator[list[BaseException]]:
    """Steps in a thread for as long as the block runs."""
    over = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            steps.run(over.is_set)
        except BaseException as error:
            errors.append(error)

    steps.open()
    thread = threading.Thread(target=work, name="stepping")
    thread.start()
    try:
        yield errors
    finally:
        over.set()
        steps.notify()
        thread.join(60)
        assert not thread.is_alive()


async def ask(steps: StepLoop, name: str, tokens: int = 3, prompt: Sequence[int] = (1,)) -> Any:
    loop = asyncio.get_running_loop()
    ticket = Ticket(
        Admission(name, list(prompt), {"max_tokens": tokens}, False), loop, loop.create_future()
    )
    steps.submit(ticket)
    try:
        await asyncio.wait([ticket.done])
    except asyncio.CancelledError:
        steps.cancel(ticket)
        await asyncio.wait([ticket.done])
        raise
    return ticket.done.result()


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another thread steps
            await asyncio.sleep(0.001)


async def test_a_request_joins_a_batch_that_is_running() -> None:
    engine = FakeEngine()
    steps = StepLoop(engine, OneEngine())
    with stepped(steps):
        engine.go.clear()
        slow = asyncio.create_task(ask(steps, "slow", tokens=50))
        await until(lambda: engine.batches)
        fast = asyncio.create_task(ask(steps, "fast", tokens=2))
        await until(lambda: steps.pending == 2)
        engine.go.set()
        assert await fast == "turn of fast"
        assert await slow == "turn of slow"
    assert engine.batches[0] == ["slow"]
    assert engine.batches.count(["slow", "fast"]) == 2
    assert len(engine.batches) == 50
    assert engine.threads == {"stepping"}


async def test_a_cancelled_request_has_left_the_engine_when_its_task_ends() -> None:
    engine = FakeEngine()
    steps = StepLoop(engine, OneEngine())
    with stepped(steps):
        task = asyncio.create_task(ask(steps, "endless", tokens=10**9))
        await until(lambda: engine.batches)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.left == {}
        assert engine.aborted == ["endless"]
        assert steps.pending == 0


async def test_a_request_that_is_cancelled_before_it_joins_never_does() -> None:
    engine = FakeEngine()
    steps = StepLoop(engine, OneEngine())
    with stepped(steps):
        engine.go.clear()
        running = asyncio.create_task(ask(steps, "running", tokens=2))
        await until(lambda: engine.batches)
        waiting = asyncio.create_task(ask(steps, "waiting"))
        await until(lambda: steps.pending == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        engine.go.set()
        await running
    assert all("waiting" not in batch for batch in engine.batches)


async def test_no_step_is_taken_without_a_request() -> None:
    engine = FakeEngine()
    steps = StepLoop(engine, OneEngine())
    with stepped(steps):
        await asyncio.sleep(0.05)
        await ask(steps, "one", tokens=4)
        await asyncio.sleep(0.05)
    assert len(engine.batches) == 4


async def test_a_request_that_the_engine_refuses_fails_alone() -> None:
    engine = FakeEngine()
    steps = StepLoop(engine, OneEngine())
    with stepped(steps):
        good, bad = await asyncio.gather(
            ask(steps, "good"), ask(steps, "bad", prompt=()), return_exceptions=True
        )
    assert good == "turn of good"
    assert isinstance(bad, InvalidConfig)


async def test_a_failed_step_fails_all_requests_and_ends_the_stepping() -> None:
    engine = FakeEngine()
    engine.failing = True
    steps = StepLoop(engine, OneEngine())
    with stepped(steps) as errors:
        results = await asyncio.gather(ask(steps, "a"), ask(steps, "b"), return_exceptions=True)
        assert all(isinstance(each, ModelError) for each in results)
        assert "out of memory" in str(results[0])
        await until(lambda: errors)
        with pytest.raises(ModelError, match="out of memory"):
            await ask(steps, "c")
    assert isinstance(errors[0], ModelError)
    assert engine.left == {}
    with pytest.raises(ModelError, match="out of memory"):
        steps.open()


async def test_what_is_left_when_the_rollouts_are_over_fails_and_leaves_the_engine() -> None:
    engine = FakeEngine()
    steps = StepLoop(engine, OneEngine())
    with stepped(steps):
        task = asyncio.create_task(ask(steps, "endless", tokens=10**9))
        await until(lambda: engine.batches)
    with pytest.raises(ModelError, match="rollouts are over"):
        await task
    assert engine.left == {}
    assert steps.pending == 0


async def test_nobody_is_kept_waiting_where_nobody_steps() -> None:
    steps = StepLoop(FakeEngine(), OneEngine())
    with pytest.raises(UsageError, match="nobody is stepping"):
        await ask(steps, "early")
    with stepped(steps):
        with pytest.raises(UsageError, match="already"):
            steps.open()
        await ask(steps, "in time")
    with pytest.raises(UsageError, match="nobody is stepping"):
        await ask(steps, "late")


def test_an_interrupted_stepper_fails_what_waits() -> None:
    class Interrupted(FakeEngine):
        def step(self) -> Iterable[Finished]:
            raise KeyboardInterrupt

    steps = StepLoop(Interrupted(), OneEngine())
    outcome: Future[Any] = Future()

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(ask(steps, "one")))
        except Exception as error:
            outcome.set_exception(error)

    steps.open()
    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        steps.run(outcome.done)
    thread.join(60)
    assert isinstance(outcome.exception(), ModelError)


class FailingPartner:
    """Two ranks, the second of which fails while the first hands over its first request."""

    rank = 0
    size = 2

    def exchange(self, mine: Exchange) -> list[Exchange]:
        return [mine, Exchange(failure="out of memory" if mine.admissions else None)]


async def test_a_request_on_its_way_fails_when_another_rank_does() -> None:
    steps = StepLoop(FakeEngine(), FailingPartner())
    with stepped(steps) as errors:
        with pytest.raises(ModelError, match="rank 1: out of memory"):
            await ask(steps, "one")
        assert steps.pending == 0
    assert "out of memory" in str(errors[0])


async def test_a_request_that_is_cancelled_when_all_is_over_ends() -> None:
    steps = StepLoop(FakeEngine(), OneEngine())
    loop = asyncio.get_running_loop()
    ticket = Ticket(Admission("late", [1], {}, False), loop, loop.create_future())
    steps.cancel(ticket)
    assert await asyncio.wait_for(ticket.done, 10) is None


def run_ranks(folder: Path, fails_at: int) -> list[dict[str, Any]]:
    outputs = [folder / f"rank{rank}.json" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, RANKS, str(rank), folder / "meet", output, str(fails_at)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, output in enumerate(outputs)
    ]
    try:
        for process in processes:
            _, problem = process.communicate(timeout=100)
            assert process.returncode == 0, problem
    finally:
        for process in processes:
            process.kill()
    return [json.loads(output.read_text(encoding="utf-8")) for output in outputs]


@pytest.mark.skipif(find_spec("torch") is None, reason="needs the transformers extra")
def test_two_ranks_step_the_same_batches_and_each_gets_its_own_turns(tmp_path: Path) -> None:
    first, second = run_ranks(tmp_path, fails_at=0)
    assert first["batches"] == second["batches"]
    names = {name for batch in first["batches"] for name in batch}
    assert {name.partition("-")[0] for name in names} == {"0", "1"}
    assert any(len({name[0] for name in batch}) == 2 for batch in first["batches"])
    assert first["counts"] == {"CancelledError": 1, "ModelError": 1, "done": 4}
    assert second["counts"] == {"CancelledError": 1, "ModelError": 1, "done": 12}
    for rank in (first, second):
        assert rank["left"] == {}
        assert rank["pending"] == 0
        assert "raised" not in rank


@pytest.mark.skipif(find_spec("torch") is None, reason="needs the transformers extra")
def test_when_one_rank_fails_the_other_hears_of_it(tmp_path: Path) -> None:
    for rank in run_ranks(tmp_path, fails_at=6):
        assert "rank 1" in rank["raised"]
        assert "out of memory" in rank["raised"]
        assert rank["left"] == {}
        assert "done" not in rank["counts"]
