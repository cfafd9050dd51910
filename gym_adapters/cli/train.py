"""``gym-adapters train``: from a recipe to a trained checkpoint, with the trainer's own command."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gym_adapters.training.running import RunResult
    from gym_adapters.training.steps import Plan, Step

__all__ = ["train_command"]


def train_command(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="The name of one that ships, or a YAML file. Without: list them."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="Changes to it, e.g. model=./mine steps=50."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print commands and merged recipe, checked, and stop."),
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="The same on a CPU, in minutes, with a tiny policy."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Default: runs/ and its name."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the folder.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away the training in the folder.")
    ] = False,
    loggers: Annotated[
        list[str] | None,
        typer.Option(
            "--logger",
            metavar="NAME",
            help="Send metrics to wandb, tensorboard, mlflow or trackio too; may be given often.",
        ),
    ] = None,
) -> None:
    """Train by a recipe: print the trainer's own commands, run them, keep what comes of it.

    For example

      [bold]gym-adapters train[/]
      Which recipes there are.

      [bold]gym-adapters train trl/grpo --smoke[/]
      Watch it work on this machine first.

      [bold]gym-adapters train trl/grpo model=Qwen/Qwen3-1.7B arguments.learning_rate=2e-6[/]

      [bold]gym-adapters train my.yaml --dry-run[/]

    Exit codes: 0 trained, 1 a command failed, 2 wrongly asked, 130 interrupted.
    """
    if recipe is None:
        _list_recipes()
        return
    from gym_adapters.errors import InvalidConfig
    from gym_adapters.rollouts.run_folder import OnExisting
    from gym_adapters.training.planning import Asked, check_plan, plan_of

    if resume and overwrite:
        raise InvalidConfig("--resume and --overwrite contradict each other: give one of them")
    given = [*(overrides or ()), *([f"loggers=[{', '.join(loggers)}]"] if loggers else ())]
    asked = Asked(recipe, given, smoke, resume)
    plan = plan_of(asked, output if output is not None else asked.folder)
    unchecked = check_plan(plan)
    for problem in unchecked:
        print(f"note: {problem}", file=sys.stderr)
    if dry_run:
        _print_plan(plan)
        return
    on_existing = (
        OnExisting.RESUME if resume else OnExisting.OVERWRITE if overwrite else OnExisting.REFUSE
    )
    _run(plan, on_existing)


def _list_recipes() -> None:
    from rich.console import Console
    from rich.table import Table

    from gym_adapters.training.recipe import load_recipe, recipe_names

    table = Table("recipe", "model", "what it does")
    for name in recipe_names():
        recipe = load_recipe(name)
        table.add_row(name, recipe.model, recipe.description)
    Console().print(table)
    print("try one on this machine: gym-adapters train trl/grpo --smoke")


def _print_plan(plan: Plan) -> None:
    from gym_adapters.training.running import recipe_text

    print("# The recipe, with everything merged\n")
    print(recipe_text(plan))
    print("# The commands\n")
    for step in plan.steps:
        print(f"# {step.name}\n{step.shell()}\n")


def _run(plan: Plan, on_existing: str) -> None:
    from gym_adapters.cli.failing import tell
    from gym_adapters.cli.signals import Stopped, run_until_signal
    from gym_adapters.rollouts.run_folder import OnExisting
    from gym_adapters.training.running import run_plan
    from gym_adapters.training.step_processes import end_groups

    def show(block: bytes) -> None:
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()

    def began(step: Step) -> None:
        print(f"\n# {step.name}\n{step.shell()}\n", flush=True)

    groups: set[int] = set()
    work = run_plan(
        plan, on_existing=OnExisting(on_existing), show=show, began=began, groups=groups
    )
    try:
        result = run_until_signal(work, at_once=lambda: end_groups(groups))
    except Stopped as stop:
        folder = shlex.quote(str(plan.paths.folder))
        again = f"go on with the same command, --resume and --output {folder}"
        print(f"stopped; {again}", file=sys.stderr)
        raise typer.Exit(stop.exit_code) from None
    except OSError as error:
        tell(error)
        raise typer.Exit(1) from None
    _tell_result(plan, result)


def _tell_result(plan: Plan, result: RunResult) -> None:
    from gym_adapters.cli.failing import tell
    from gym_adapters.errors import GymAdaptersError
    from gym_adapters.training.trainer_metrics import read_metrics, trend

    paths = plan.paths
    if result.failed is not None:
        failed = result.failed
        how = f"failed with exit code {failed.exit_code}"
        if failed.exit_code < 0:
            how = f"was ended by {signal.Signals(-failed.exit_code).name}"
        why = f": {failed.cause}" if failed.cause is not None else ""
        tell(GymAdaptersError(f"the {failed.name} {how}{why}\nall it printed is in {paths.log}"))
        raise typer.Exit(1)
    seconds = sum(step.seconds for step in result.steps)
    print(f"\ntrained in {seconds:.0f} s")
    seen = trend(read_metrics(paths.metrics))
    if seen is not None:
        change = f"{seen.first:.3g} at first, {seen.last:.3g} at the end"
        print(f"{seen.name}:   {change} ({seen.steps} steps)")
    print(f"policy:   {result.checkpoint}")
    print(f"metrics:  {paths.metrics}")
    if (paths.rollouts / "manifest.json").is_file():
        print(f"rollouts: gym-adapters report {paths.rollouts}")
