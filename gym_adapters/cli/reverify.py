"""``gym-adapters reverify``: a new verdict on stored rollouts, without sampling again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from gym_adapters.cli.new_verdicts import Change, NewVerdicts, RecordedRollouts
    from gym_adapters.cli.progress import RunProgress
    from gym_adapters.environment import EnvironmentConfig
    from gym_adapters.registry import EnvironmentEntry
    from gym_adapters.rollout import Rollout
    from gym_adapters.rollouts.collection import RolloutKey
    from gym_adapters.rollouts.manifest import Manifest
    from gym_adapters.rollouts.metrics import Metrics
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
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Folder for the new run; a name that ends in .jsonl makes it one file.",
        ),
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
        typer.Option(
            "--failed-only",
            help="Verify only those where the verifier or the judge failed; take over the others "
            "as they are.",
        ),
    ] = False,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Rollouts at once.")
    ] = 64,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the new record: skip what has its new verdict there."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away the record at the new path.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print every change, and the metrics, as JSON on stdout."),
    ] = False,
) -> None:
    """Run the turns of stored rollouts through the environment again, and verify anew.

    Tools are run again, so that the state the verifier looks at is there. A rollout whose tools or
    replies now answer otherwise gets no verdict: it would be one on another attempt.

    For example

      [bold]gym-adapters reverify run/ -o rescored/[/]
      After a change of the verifier: what would the same attempts score now?

      [bold]gym-adapters reverify run/ -o rescored/ --failed-only[/]
      The judge was down: judge what it missed. The new run is whole.

      [bold]gym-adapters reverify nemo_gym_rollouts.jsonl -e mcqa -o rescored.jsonl[/]
      What NeMo Gym recorded, by our verifier.

    Exit codes: 0 done, 1 no rollout has a verdict, 2 wrongly asked, 130 interrupted.
    """
    from gym_adapters.cli.new_verdicts import NewVerdicts, RecordedRollouts
    from gym_adapters.cli.next_steps import tell_how_to_resume
    from gym_adapters.cli.progress import run_progress
    from gym_adapters.cli.signals import Stopped, run_until_signal
    from gym_adapters.cli.streams import stdout_for_results
    from gym_adapters.errors import InvalidConfig, InvalidRow
    from gym_adapters.registry import load_environment
    from gym_adapters.rollouts.run_folder import OnExisting
    from gym_adapters.training_data.stored import StoredRollouts

    if output.resolve() == run.resolve():
        raise InvalidConfig("the new record is the old one, which is never changed")
    if resume and overwrite:
        raise InvalidConfig("--resume and --overwrite contradict each other: give one of them")
    stored = StoredRollouts(run)
    if stored.holds(output):
        raise InvalidConfig(f"{output} belongs to the old record, which is never changed")
    entry = load_environment(environment if environment is not None else _only_name(stored))
    if failed_only and entry.environment.capabilities().compares:
        raise InvalidConfig(
            f"{entry.name} rewards rollouts by comparing a group, so a part of it has no verdict. "
            "Fix: leave out --failed-only"
        )
    config = entry.config(settings or ())
    verdicts = NewVerdicts(
        entry,
        output,
        _manifest(stored, entry, config),
        OnExisting.OVERWRITE if overwrite else OnExisting.RESUME if resume else OnExisting.REFUSE,
    )
    rollouts = RecordedRollouts(stored, entry.environment.name)
    with verdicts:
        try:
            with (
                stdout_for_results(as_json),
                run_progress(rollouts.count(), "verifying") as progress,
            ):
                work = _reverify(
                    entry,
                    rollouts,
                    verdicts,
                    config,
                    failed_only=failed_only,
                    concurrency=concurrency,
                    progress=progress,
                )
                run_until_signal(work)
        except Stopped as stop:
            tell_how_to_resume("stopped", output)
            raise typer.Exit(stop.exit_code) from None
        except InvalidRow as error:
            if verdicts.any:
                tell_how_to_resume("the verdicts so far are kept", output)
            if error.line is None:
                raise error.at(f"{run}, {error.source}", None) from None
            raise
        if not rollouts.read:
            raise InvalidConfig(f"there are no rollouts of {entry.name} in {run}")
        metrics = verdicts.finish()
    _show(verdicts, metrics, entry, output, as_json)


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


async def _reverify(
    entry: EnvironmentEntry,
    rollouts: RecordedRollouts,
    verdicts: NewVerdicts,
    config: EnvironmentConfig,
    *,
    failed_only: bool,
    concurrency: int,
    progress: RunProgress,
) -> None:
    from contextlib import aclosing

    from gym_adapters.cli.new_verdicts import lacks_verdict
    from gym_adapters.rollouts.replay import reverify

    waiting: dict[RolloutKey, Rollout] = {}

    def remembered() -> Iterator[Rollout]:
        for rollout in rollouts:
            if verdicts.has(rollout):
                continue
            if failed_only and not lacks_verdict(rollout):
                verdicts.keep(rollout)
                progress.finished(rollout)
                continue
            waiting[rollout.task_id, rollout.rollout_index] = rollout
            yield rollout

    progress.began(verdicts.metrics, verdicts.there)
    again = reverify(
        entry,
        remembered(),
        config=config,
        concurrency=concurrency,
        num_repeats=rollouts.num_repeats,
    )
    async with aclosing(again) as verified:
        async for rollout in verified:
            verdicts.add(waiting.pop((rollout.task_id, rollout.rollout_index)), rollout)
            progress.finished(rollout)


def _show(
    verdicts: NewVerdicts, metrics: Metrics, entry: EnvironmentEntry, output: Path, as_json: bool
) -> None:
    import orjson
    from rich.console import Console

    from gym_adapters.cli.failing import tell
    from gym_adapters.cli.metrics_table import metrics_table

    if as_json:
        told = {
            "same": verdicts.same,
            "changed": len(verdicts.changes),
            "kept": verdicts.kept,
            "changes": [change.to_json() for change in verdicts.changes],
            "metrics": metrics.to_json(),
        }
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        console = Console()
        console.print(metrics_table(metrics, f"{entry.name}, verified again"))
        kept = f", {verdicts.kept} not verified again" if verdicts.kept else ""
        print(f"{verdicts.same} verdicts are as they were, {len(verdicts.changes)} changed{kept}")
        if verdicts.changes:
            console.print(_table(verdicts.changes))
            if len(verdicts.changes) > SHOWN:
                print(f"and {len(verdicts.changes) - SHOWN} more: --json prints all")
        print(f"kept in {output}")
    if metrics.rollouts and not metrics.scored:
        tell(RuntimeError("no rollout has a verdict"))
        raise typer.Exit(1)


def _table(changes: Sequence[Change]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("task", "attempt", "was", "is", "because")
    for change in changes[:SHOWN]:
        table.add_row(
            escape(change.task_id),
            str(change.rollout_index),
            _reward(change.before),
            _reward(change.after),
            escape(change.reason),
        )
    return table


def _reward(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
