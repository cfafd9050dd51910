"""How a run is shown while it goes: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, Self

from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.metrics import RolloutMetrics
from gym_adapters.rollouts.run import Observer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

__all__ = ["LiveProgress", "PlainProgress", "RunProgress", "run_progress"]

SECONDS_BETWEEN_LINES = 10.0
COLLECTING = "collecting"


class RunProgress(Observer, Protocol):
    """An `Observer` that shows what it is told; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


class _Tally:
    """Counts of this session, and the metrics of the whole run."""

    def __init__(self, total: int, doing: str) -> None:
        self.total, self.doing = total, doing
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
        if self.doing == COLLECTING:
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
        doing: What is done with them.
    """

    def __init__(self, total: int, doing: str = COLLECTING) -> None:
        self._tally = _Tally(total, doing)
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        """The run begins."""
        self._tally.begin(recorded, skipped)
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        there = f", {skipped} there already" if skipped else ""
        total = self._tally.total
        doing = self._tally.doing
        print(f"{doing} {total} rollout{'s' * (total != 1)}{there}", file=sys.stderr)

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
        doing: What is done with them.
        console: Where to show it in place of stderr.
    """

    def __init__(
        self, total: int, doing: str = COLLECTING, *, console: Console | None = None
    ) -> None:
        self._tally = _Tally(total, doing)
        self._bar = _bar(console)
        first = "loading the model" if doing == COLLECTING else doing
        self._row = self._bar.add_task(first, total=None, rates="")

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        """The run begins."""
        self._tally.begin(recorded, skipped)
        self._bar.reset(
            self._row,
            total=self._tally.total,
            completed=self._tally.skipped,
            description=self._tally.doing,
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


def run_progress(total: int, doing: str = COLLECTING) -> RunProgress:
    """What fits stderr: the live bar on a terminal, else plain lines."""
    return (LiveProgress if sys.stderr.isatty() else PlainProgress)(total, doing)


def _bar(console: Console | None) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Bar(Progress):
        """With the rates on a line of their own: beside the bar they would push the count out."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if task.fields["rates"]:
                    yield Text(task.fields["rates"])

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True) if console is None else console,
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
