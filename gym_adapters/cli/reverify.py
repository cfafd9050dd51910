"""``gym-adapters reverify``: a new verdict on stored rollouts, without sampling again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gym_adapters.environment import EnvironmentConfig
    from gym_adapters.registry import EnvironmentEntry
    from gym_adapters.rollout import Rollout
    from gym_adapters.rollouts.manifest import Manifest
    from gym_adapters.rollouts.run_folder import RunFolder
    from gym_adapters.training_data.stored import StoredRollouts

__all__ = ["reverify_command"]

SHOWN = 20


def reverify_command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, or a file of rollouts: ours, or NeMo Gym's.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="New folder for the new verdicts."),
    ],
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            "-e",
            metavar="ENV",
            help="The environment; by default the one that the rollouts name. Of a run of "
            "several, those of this one are taken.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of the environment."),
    ] = None,
    failed_only: Annotated[
        bool,
        typer.Option("--failed-only", help="Only those where the verifier or the judge failed."),
    ] = False,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Rollouts at once.")
    ] = 64,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away the run in the new folder.")
    ] = False,
) -> None:
    """Run the turns of stored rollouts through the environment again, and verify anew.

    Tools are run again, so that the state the verifier looks at is there. A rollout whose tools or
    replies now answer otherwise gets no verdict: it would be one on another attempt.

    For example

      [bold]gym-adapters reverify run/ -o rescored/[/]
      After a change of the verifier: what would the same attempts score now?

      [bold]gym-adapters reverify run/ -o rescored/ --failed-only[/]
      The judge was down: judge what it missed.

      [bold]gym-adapters reverify nemo_gym_rollouts.jsonl -e mcqa -o rescored/[/]
      What NeMo Gym recorded, by our verifier.
    """
    from gym_adapters.cli.signals import Stopped, run_until_signal
    from gym_adapters.errors import InvalidConfig
    from gym_adapters.registry import load_environment
    from gym_adapters.rollouts.metrics import RolloutMetrics
    from gym_adapters.rollouts.run_folder import OnExisting, RunFolder
    from gym_adapters.training_data.stored import StoredRollouts

    if output.resolve() == run.resolve():
        raise InvalidConfig("the new folder is the old one: a record is never changed")
    stored = StoredRollouts(run)
    entry = load_environment(environment if environment is not None else _only_name(stored))
    if failed_only and entry.environment.capabilities().compares:
        raise InvalidConfig(
            f"{entry.name} rewards rollouts by comparing a group, so a part of it has no verdict. "
            "Fix: leave out --failed-only"
        )
    config = entry.config(settings or ())
    best = entry.card.reward_range[1] if entry.card is not None else 1.0
    on_existing = OnExisting.OVERWRITE if overwrite else OnExisting.REFUSE
    chosen = _chosen(stored, failed_only, entry.environment.name)
    with RunFolder(
        output,
        _manifest(stored, entry, config),
        on_existing=on_existing,
        metrics=RolloutMetrics(best),
    ) as folder:
        work = _reverify(entry, chosen, folder, config, concurrency)
        try:
            changes = run_until_signal(work)
        except Stopped as stop:
            raise typer.Exit(stop.exit_code) from None
        finally:
            folder.write_metrics()
    _show(changes, folder, entry)


def _only_name(stored: StoredRollouts) -> str:
    """The environment that the rollouts name."""
    from gym_adapters.errors import InvalidConfig

    if stored.manifest is not None:
        names = stored.manifest.environment
    else:
        _, first = next(iter(stored), (None, None))
        names = "" if first is None else first.provenance.environment
    if not names or ", " in names:
        told = f"they are of {names}" if names else "they do not name it"
        raise InvalidConfig(
            f"say which environment is to verify the rollouts of {stored.path}: {told}. "
            "Fix: add --environment ENV"
        )
    return names


def _manifest(
    stored: StoredRollouts, entry: EnvironmentEntry, config: EnvironmentConfig
) -> Manifest:
    from dataclasses import replace

    from gym_adapters.rollouts.manifest import Manifest

    recorded = stored.manifest
    if recorded is None:
        recorded = Manifest("", "", f"recorded: {stored.path.name}", None, 0)
    return replace(
        recorded,
        blend=None,
        environment=entry.environment.name,
        environment_version=entry.environment.version,
        environment_config=config.model_dump(mode="json"),
        input=f"reverified: {stored.path}",
    )


def _chosen(stored: StoredRollouts, failed_only: bool, environment: str) -> Iterator[Rollout]:
    """The rollouts to verify; those of NeMo Gym name no environment."""
    from dataclasses import replace

    from gym_adapters.rollouts.replay import VERDICTS

    several = stored.manifest is not None and stored.manifest.blend is not None
    for _, rollout in stored:
        named = rollout.provenance.environment
        if several and named != environment:
            continue
        if not named:
            own = replace(rollout.provenance, environment=environment)
            rollout = replace(rollout, provenance=own)
        failure = rollout.outcome.failure
        if not failed_only or (failure is not None and failure.boundary in VERDICTS):
            yield rollout


class _Changes:
    """How verdicts changed."""

    def __init__(self) -> None:
        self.same = 0
        self.changed: list[tuple[Rollout, Rollout]] = []
        self.count = 0

    def add(self, before: Rollout, after: Rollout) -> None:
        if before.reward == after.reward:
            self.same += 1
            return
        self.count += 1
        if len(self.changed) < SHOWN:
            self.changed.append((before, after))


async def _reverify(
    entry: EnvironmentEntry,
    rollouts: Iterator[Rollout],
    folder: RunFolder,
    config: EnvironmentConfig,
    concurrency: int,
) -> _Changes:
    from contextlib import aclosing

    from gym_adapters.rollouts.replay import reverify

    changes = _Changes()
    waiting: dict[tuple[str, int], Rollout] = {}

    def remembered() -> Iterator[Rollout]:
        for rollout in rollouts:
            waiting[rollout.task_id, rollout.rollout_index] = rollout
            yield rollout

    again = reverify(
        entry,
        remembered(),
        config=config,
        concurrency=concurrency,
        num_repeats=folder.manifest.num_repeats,
    )
    async with aclosing(again) as verified:
        async for rollout in verified:
            folder.append(rollout)
            changes.add(waiting.pop((rollout.task_id, rollout.rollout_index)), rollout)
    return changes


def _show(changes: _Changes, folder: RunFolder, entry: EnvironmentEntry) -> None:
    from rich.console import Console
    from rich.table import Table

    from gym_adapters.cli.metrics_table import metrics_table

    console = Console()
    console.print(metrics_table(folder.metrics.metrics(), f"{entry.name}, verified again"))
    print(f"{changes.same} verdicts are as they were, {changes.count} changed")
    if changes.changed:
        table = Table("task", "attempt", "was", "is", "because")
        for before, after in changes.changed:
            failure = after.outcome.failure
            table.add_row(
                after.task_id,
                str(after.rollout_index),
                _reward(before),
                _reward(after),
                failure.message if failure is not None else "",
            )
        console.print(table)


def _reward(rollout: Rollout) -> str:
    return "none" if rollout.reward is None else f"{rollout.reward:g}"
