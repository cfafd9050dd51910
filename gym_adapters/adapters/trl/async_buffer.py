"""Samples on their way to AsyncGRPOTrainer, which does not tell what it takes."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from gym_adapters.adapters.trl.async_groups import GroupNumbers

__all__ = ["SampleBuffer"]


class SampleBuffer:
    """A queue that is filled group by group, from one thread, and notices what is taken of it.

    Args:
        numbers: Told which groups the trainer has had.

    Attributes:
        samples: The trainer takes them in the order they came.
        numbers: As given.
    """

    def __init__(self, numbers: GroupNumbers | None = None) -> None:
        self.samples: queue.Queue[Any] = queue.Queue()
        self.numbers = numbers
        # Version and group of each sample in the queue, in its order.
        self._waiting: deque[tuple[int, int]] = deque()
        self._versions: list[int] = []
        self._lock = threading.Lock()

    def put(self, number: int, samples: Sequence[Any]) -> None:
        """Add all samples of the group `number`; it may have none."""
        with self._lock:
            if self.numbers is not None:
                self.numbers.made(number, len(samples))
            for sample in samples:
                sample.enqueued_at = time.time()
                # First: the trainer may take it, and push new weights, at once.
                self._waiting.append((sample.model_version, number))
                self.samples.put(sample)

    def taken_versions(self) -> list[int]:
        """Versions of the samples that were taken since this was last asked."""
        with self._lock:
            self._look()
            versions, self._versions = self._versions, []
        return versions

    def state(self) -> dict[str, Any] | None:
        """Which groups were taken, as `GroupNumbers.state` tells it."""
        with self._lock:
            self._look()
            return None if self.numbers is None else self.numbers.state()

    def _look(self) -> None:
        for _ in range(len(self._waiting) - self.samples.qsize()):
            version, number = self._waiting.popleft()
            self._versions.append(version)
            if self.numbers is not None:
                self.numbers.took(number)
