"""``gym-adapters quickstart``: see a small policy learn, from nothing, in minutes."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gym_adapters.cli.failing import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID

    from gym_adapters.quickstart import QuickstartResult, QuickstartSettings
    from gym_adapters.quickstart.lesson import TrainingStep
    from gym_adapters.rollout import Rollout
    from gym_adapters.rollouts.metrics import RolloutMetrics

__all__ = ["quickstart_command"]

STAGES = {
    "policy": "making a policy that knows the format",
    "before": "measuring it on held-out tasks",
    "training": "training with TRL's GRPOTrainer",
    "after": "measuring it again",
}
SECONDS_BETWEEN_LINES = 10.0


def quickstart_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("run"),
    overwrite: Annotated[bool, typer.Option(help="Replace a run that is there already.")] = False,
    seed: Annotated[int, typer.Option(help="Seeds policy, tasks and training.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of training; fewer is quicker, and less sure.")
    ] = None,
    shuffle_rewards: Annotated[
        bool,
        typer.Option(
            help="A control: deal the rewards of a batch out at random. It should learn nothing."
        ),
    ] = False,
) -> None:
    """Make a tiny policy, measure it, train it with GRPO on a tool environment, measure it again.

    Nothing is downloaded and no GPU is needed. It takes a minute or two on two cores, and leaves
    rollouts, metrics, the trained policy and [bold]reward_curve.png[/] in the output folder.
    """
    quiet_libraries()
    from gym_adapters.quickstart import QuickstartSettings, quickstart

    defaults = QuickstartSettings()
    settings = QuickstartSettings(
        output=output,
        overwrite=overwrite,
        seed=seed,
        steps=steps if steps is not None else defaults.steps,
        shuffle_rewards=shuffle_rewards,
    )
    with _shown() as shown:
        result = quickstart(settings, shown)
    _print_result(settings, result)


class _LiveStages:
    """A bar per stage on stderr."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID | None = None
        self._total = 0

    def stage(self, name: str, total: int) -> None:
        """A stage begins; the one before it is done."""
        self._complete()
        self._total = total
        self._bar = self._progress.add_task(STAGES[name], total=total, note="")

    def warmed_up(self, step: int, total: int, loss: float) -> None:
        """A step of the warm-up."""
        self._at(step, f"loss {loss:.2f}")

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        """Rollouts are collected from here on."""
        self._recorded = recorded

    def finished(self, rollout: Rollout) -> None:
        """One more rollout."""
        self._at(self._recorded.rollouts, f"mean reward {self._recorded.reward.mean:.2f}")

    def trained(self, step: TrainingStep) -> None:
        """One more training step."""
        failed = f", {step.failed:.0%} failed" if step.failed else ""
        self._at(step.step, f"reward {step.reward:.2f}{failed}")

    def close(self) -> None:
        """The last stage is done."""
        self._complete()

    def _at(self, done: int, note: str) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, completed=done, note=note)

    def _complete(self) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, completed=self._total)


class _PlainStages:
    """A line on stderr at each stage, and every ten seconds."""

    def __init__(self) -> None:
        self._stage, self._total = "", 0
        self._next = 0.0

    def stage(self, name: str, total: int) -> None:
        """A stage begins."""
        self._stage, self._total = STAGES[name], total
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        print(f"{self._stage} ...", file=sys.stderr, flush=True)

    def warmed_up(self, step: int, total: int, loss: float) -> None:
        """A step of the warm-up."""
        self._at(step, f"loss {loss:.2f}")

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        """Rollouts are collected from here on."""
        self._recorded = recorded

    def finished(self, rollout: Rollout) -> None:
        """One more rollout."""
        self._at(self._recorded.rollouts, f"mean reward {self._recorded.reward.mean:.2f}")

    def trained(self, step: TrainingStep) -> None:
        """One more training step."""
        self._at(step.step, f"reward {step.reward:.2f}")

    def close(self) -> None:
        """The last stage is done."""

    def _at(self, done: int, note: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN_LINES
            print(f"  {done}/{self._total}: {note}", file=sys.stderr, flush=True)


@contextmanager
def _shown() -> Iterator[_LiveStages | _PlainStages]:
    """What fits stderr: live bars on a terminal, else plain lines."""
    if not sys.stderr.isatty():
        yield _PlainStages()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description:<38}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        stages = _LiveStages(progress)
        yield stages
        stages.close()


def _print_result(settings: QuickstartSettings, result: QuickstartResult) -> None:
    from rich.console import Console
    from rich.table import Table

    from gym_adapters.quickstart.lesson import pass_rate

    table = Table()
    table.add_column(f"held-out tasks, {settings.attempts} attempts each")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    before, after = result.before, result.after
    table.add_row("pass rate", f"{pass_rate(before):.1%}", f"{pass_rate(after):.1%}")
    for name in before.components:
        table.add_row(name, f"{before.components[name]:.1%}", f"{after.components[name]:.1%}")
    table.add_row("rollouts", str(before.rollouts), str(after.rollouts))
    table.add_row("failed", str(sum(before.failures.values())), str(sum(after.failures.values())))
    console = Console()
    console.print(table)
    seconds = sum(result.seconds.values())
    folder = settings.output
    console.print(
        f"[bold]{result.gain:+.1%}[/] in {len(result.curve)} training steps, {seconds:.0f} s.",
        highlight=False,
    )
    print(f"curve:    {folder / 'reward_curve.png'}")
    print(f"rollouts: {folder / 'before'} and {folder / 'after'}")
    print(f"policy:   {folder / 'policy'}")
    print(f"next:     gym-adapters collect arithmetic_tools -m transformers:{folder / 'policy'}")
