"""How a run is shown while it goes: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.metrics import RolloutMetrics
from gym_adapters.rollouts.run import Observer

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["LiveProgress", "PlainProgress", "RunProgress", "run_progress"]

SECONDS_BETWEEN_LINES = 10.0


class RunProgress(Observer, Protocol):
    """An `Observer` that shows what it is told; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


class _Tally:
    """Counts of this session, and the metrics of the whole run."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.metrics = RolloutMetrics()
        self.skipped = 0
        self.done = 0
        self._tokens = 0
        self._began = time.monotonic()

    def begin(self, recorded: RolloutMetrics, skipped: int) -> None:
        self.metrics, self.skipped = recorded, min(skipped, self.total)
        self._began = time.monotonic()

    def add(self, rollout: Rollout) -> None:
        self.done += 1
        self._tokens += rollout.usage.output_tokens

    def rates(self) -> str:
        """Speed of this session, mean reward and failures of the run."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        texts = [f"{self.done / seconds:.1f} rollouts/s"]
        if self._tokens:
            texts.append(f"{self._tokens / seconds:,.0f} tokens/s")
        if self.metrics.reward.count:
            texts.append(f"mean reward {self.metrics.reward.mean:.3f}")
        texts.extend(f"{count} failed ({at})" for at, count in self.metrics.failures.items())
        return ", ".join(texts)

    def remaining(self) -> str:
        """Time left at the speed so far."""
        left = self.total - self.skipped - self.done
        if not self.done or left <= 0:
            return ""
        seconds = (time.monotonic() - self._began) / self.done * left
        return f", {_duration(seconds)} left"


class PlainProgress:
    """A line on stderr every ten seconds, for logs.

    Args:
        total: Rollouts of the whole run.
    """

    def __init__(self, total: int) -> None:
        self._tally = _Tally(total)
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        """The run begins."""
        self._tally.begin(recorded, skipped)
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        there = f", {skipped} there already" if skipped else ""
        print(f"collecting {self._tally.total} rollouts{there}", file=sys.stderr)

    def finished(self, rollout: Rollout) -> None:
        """One more."""
        self._tally.add(rollout)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN_LINES
            self._print()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tally.done:
            self._print()

    def _print(self) -> None:
        tally = self._tally
        print(
            f"{tally.skipped + tally.done}/{tally.total}: {tally.rates()}{tally.remaining()}",
            file=sys.stderr,
            flush=True,
        )


class LiveProgress:
    """A bar on stderr that moves.

    Args:
        total: Rollouts of the whole run.
    """

    def __init__(self, total: int) -> None:
        self._tally = _Tally(total)
        self._bar = _bar()
        self._row = self._bar.add_task("loading the model", total=None, rates="")

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        """The run begins."""
        self._tally.begin(recorded, skipped)
        self._bar.reset(
            self._row,
            total=self._tally.total,
            completed=self._tally.skipped,
            description="collecting",
        )

    def finished(self, rollout: Rollout) -> None:
        """One more."""
        self._tally.add(rollout)
        self._bar.update(self._row, advance=1, rates=self._tally.rates())

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


def run_progress(total: int) -> RunProgress:
    """What fits stderr: the live bar on a terminal, else plain lines."""
    return LiveProgress(total) if sys.stderr.isatty() else PlainProgress(total)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rates]}"),
        console=Console(stderr=True),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
