"""Parity cases through the rollout worker of AsyncGRPOTrainer: what it puts into TRL's queue.

The trainer itself takes what is in that queue as it is, and needs a GPU's attention kernels.
"""

from __future__ import annotations

import asyncio
import queue
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest import mock

from gym_adapters.adapters.capabilities import Adapter
from gym_adapters.adapters.parity_case import refusal_of, seen_seeds
from gym_adapters.adapters.trl import async_worker
from gym_adapters.adapters.trl.async_samples import group_samples
from gym_adapters.adapters.trl.spec import trl_spec
from gym_adapters.errors import RolloutTimeout
from gym_adapters.generation.protocol import Generation, SamplingParams, TokenGenerator
from gym_adapters.registry import load_environment
from gym_adapters.rollout import Rollout
from gym_adapters.testing.parity import (
    Attempt,
    ParityCase,
    ParityDriver,
    Received,
    ReceivedRollout,
    Room,
    Sample,
)

__all__ = ["driver"]

# Seconds for all rollouts of a case.
DEADLINE = 120.0


def driver() -> ParityDriver:
    """The driver of AsyncGRPOTrainer's rollout worker."""
    return _AsyncDriver()


class _AsyncDriver:
    trainer = "trl-async"

    def unavailable(self) -> str | None:
        for package, extra in (("trl", "trl"), ("vllm", "vllm")):
            if find_spec(package) is None:
                return f"{package} is not installed: pip install 'gym-adapters[{extra}]'"
        return None

    def refusal(self, case: ParityCase) -> str | None:
        return refusal_of(Adapter.TRL_ASYNC, case)

    def drive(self, case: ParityCase, room: Room) -> Received:
        groups: dict[int, Sequence[Rollout]] = {}

        def noted(rollouts: Sequence[Rollout], *, group_id: int) -> list[Any]:
            groups[group_id] = rollouts
            return group_samples(rollouts, group_id=group_id)

        with (
            seen_seeds() as seeds,
            mock.patch(f"{async_worker.__name__}.group_samples", noted),
        ):
            samples = _queued(case, room)
        received: dict[Attempt, ReceivedRollout] = {}
        for place in range(len(case.tasks)):
            following = iter([each for each in samples if each.group_id == place])
            for index, rollout in enumerate(groups[place]):
                received[Attempt(place, index)] = _received(rollout, following)
        return Received(received, seeds.of(case))


class _FirstEpoch:
    """Answers each case's rollouts once; what the worker begins beyond them waits to be stopped."""

    def __init__(self, case: ParityCase) -> None:
        self._places = len(case.tasks)
        self._generator = case.generator(_attempt_of)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        if _attempt_of(request_id).task >= self._places:
            await asyncio.sleep(DEADLINE)
        return await self._generator.generate(prompt_ids, sampling, request_id=request_id)


def _attempt_of(name: str) -> Attempt:
    _, number, index = name.split("-")
    return Attempt(int(number), int(index))


def _queued(case: ParityCase, room: Room) -> list[Any]:
    """The samples that the worker has queued once all groups of the case have ended."""
    from trl.experimental.async_grpo import AsyncGRPOConfig

    generator: TokenGenerator = _FirstEpoch(case)
    entry = load_environment(case.environment)
    spec = trl_spec(entry, tasks=case.tasks, way="async", generator=generator)
    worker = spec.rollout_worker
    if worker is None:
        raise RuntimeError("a spec for the async trainer has a rollout worker")
    positions = SimpleNamespace(max_position_embeddings=room.total, _name_or_path="tiny")
    with tempfile.TemporaryDirectory(prefix="gym_adapters-parity-") as folder:
        settings = AsyncGRPOConfig(
            output_dir=folder,
            num_generations=case.group_size,
            max_completion_length=room.completion,
            per_device_train_batch_size=len(case.attempts),
            max_inflight_tasks=4 * len(case.attempts),
            use_cpu=True,
            bf16=False,
            report_to="none",
        )
        worker.learn(settings, SimpleNamespace(config=positions), case.tokenizer())
        worker.start()
        try:
            _await_groups(worker, len(case.tasks))
        finally:
            worker.stop()
            spec.close()
    return list(_drained(worker.rollout_buffer))


def _await_groups(worker: Any, count: int) -> None:
    """Wait until so many groups have ended: each leaves its metrics, also one without samples."""
    until = time.monotonic() + DEADLINE
    ended = 0
    while ended < count:
        worker.check_health(DEADLINE)
        try:
            worker.metrics_queue.get(timeout=0.02)
            ended += 1
        except queue.Empty:
            if time.monotonic() > until:
                raise RolloutTimeout(f"the rollouts took more than {DEADLINE:g} s") from None


def _drained(samples: queue.Queue[Any]) -> Iterator[Any]:
    while True:
        try:
            yield samples.get_nowait()
        except queue.Empty:
            return


def _received(rollout: Rollout, following: Iterator[Any]) -> ReceivedRollout:
    """What is in the queue of one rollout; its samples are the next ones, where it has any."""
    failure = rollout.outcome.failure
    if failure is not None or not rollout.segments:
        return ReceivedRollout(failure=None if failure is None else failure.boundary.value)
    samples = [next(following) for _ in rollout.segments]
    return ReceivedRollout(
        samples=[_sample(each) for each in samples],
        reward=float(samples[0].metrics["reward"]),
        advantage=float(samples[0].advantage),
    )


def _sample(queued: Any) -> Sample:
    ids, mask = queued.input_ids.tolist(), queued.completion_mask.tolist()
    # Nothing says where the prompt ends, but that nothing in it is trained on.
    read = mask.index(1) if 1 in mask else len(mask)
    return Sample(ids[:read], ids[read:], mask[read:], queued.old_log_probs.tolist()[read:])
