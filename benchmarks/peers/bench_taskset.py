"""The single turn as a taskset of verifiers 0.4, which runs a program of its own for each."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["BenchTaskset"]


class BenchTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float("3" in (trace.last_reply or ""))


class BenchTaskset(vf.Taskset[BenchTask]):
    def load(self) -> Iterator[BenchTask]:
        for number in range(100_000):
            yield BenchTask(vf.TaskData(prompt=f"What is 1 + 2? ({number})"), self.config.task)
