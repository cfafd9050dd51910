"""Run by test_step_loop.py, once a rank: two processes step a fake engine together through gloo."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gym_adapters.errors import ModelError
from gym_adapters.generation.step_group import Admission, TorchStepGroup
from gym_adapters.generation.step_loop import Finished, StepLoop, Ticket


class CountingEngine:
    """Gives each request as many tokens as it asks for, one a step, and notes every batch."""

    def __init__(self, fails_at: int | None) -> None:
        self.left: dict[str, int] = {}
        self.batches: list[list[str]] = []
        self.fails_at = fails_at

    def add(self, admission: Admission) -> None:
        if admission.fields["max_tokens"] < 1:
            raise ModelError("nothing to sample")
        self.left[admission.name] = admission.fields["max_tokens"]

    def abort(self, names: Any) -> None:
        for name in names:
            self.left.pop(name, None)

    def step(self) -> list[Finished]:
        self.batches.append(list(self.left))
        if self.fails_at is not None and len(self.batches) == self.fails_at:
            raise RuntimeError("out of memory")
        done = []
        for name in list(self.left):
            self.left[name] -= 1
            if not self.left[name]:
                del self.left[name]
                done.append(Finished(name, name))
        return done


async def ask(steps: StepLoop, name: str, tokens: int) -> str:
    loop = asyncio.get_running_loop()
    ticket = Ticket(Admission(name, [1], {"max_tokens": tokens}, False), loop, loop.create_future())
    steps.submit(ticket)
    try:
        await asyncio.wait([ticket.done])
    except asyncio.CancelledError:
        steps.cancel(ticket)
        await asyncio.wait([ticket.done])
        raise
    return str(ticket.done.result())


async def rollout(steps: StepLoop, name: str, seed: int) -> str:
    moments = random.Random(seed)
    for turn in range(3):
        asked = f"{name}.{turn}"
        if await ask(steps, asked, moments.randint(1, 6)) != asked:
            return "wrong turn"
        await asyncio.sleep(moments.random() * 0.02)
    return "done"


def mixed(engine: CountingEngine) -> bool:
    """Whether the last batch holds requests of both ranks."""
    return len({name[0] for batch in engine.batches[-1:] for name in batch}) == 2


async def rollouts(steps: StepLoop, engine: CountingEngine, rank: int) -> dict[str, int]:
    # The ranks end at different times.
    endless = asyncio.create_task(ask(steps, f"{rank}-endless", 10**9))
    tasks = [
        asyncio.create_task(rollout(steps, f"{rank}-{n}", 100 * rank + n))
        for n in range(12 if rank else 4)
    ]
    bad = asyncio.create_task(ask(steps, f"{rank}-bad", 0))
    # One of each rank goes on until both were in one batch, however late a rank begins.
    while not endless.done() and not mixed(engine):  # noqa: ASYNC110 - another thread steps
        await asyncio.sleep(0.001)
    endless.cancel()
    results = await asyncio.gather(*tasks, bad, endless, return_exceptions=True)
    counts: dict[str, int] = {}
    for each in results:
        key = each if isinstance(each, str) else type(each).__name__
        counts[key] = counts.get(key, 0) + 1
    return counts


def main(rank: str, rendezvous: str, output: str, fails_at: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    fails = int(fails_at) if int(rank) == 1 and int(fails_at) else None
    engine = CountingEngine(fails)
    steps = StepLoop(engine, TorchStepGroup())
    over = threading.Event()
    found: dict[str, Any] = {}

    def work() -> None:
        found["counts"] = asyncio.run(rollouts(steps, engine, int(rank)))
        over.set()

    steps.open()
    worker = threading.Thread(target=work)
    worker.start()
    try:
        steps.run(over.is_set)
    except ModelError as error:
        found["raised"] = str(error)
    worker.join()
    found |= {"batches": engine.batches, "left": engine.left, "pending": steps.pending}
    Path(output).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
