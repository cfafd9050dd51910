"""``gym-adapters export``: files for trainers that read their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gym_adapters.cli.export_rollouts import add_rollout_exports

__all__ = ["export_app"]

export_app = typer.Typer(no_args_is_help=True, help="Write files for trainers.")


@export_app.callback()
def about_export() -> None:
    """Write files for trainers that read their own."""


@export_app.command("verl-rows")
def verl_rows_command(
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENV",
            help="A name from [bold]gym-adapters envs[/], a folder, or module:Class.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Dataset to write: .parquet or .jsonl."
        ),
    ],
    rows: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="ROWS.JSONL",
            help="File of tasks; by default the environment's example rows.",
        ),
    ] = None,
    num_tasks: Annotated[
        int | None,
        typer.Option(
            "--num-tasks",
            "-n",
            min=1,
            help="Generate so many tasks instead, where the environment can.",
        ),
    ] = None,
    difficulty: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of generated tasks.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of generated tasks.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Setting of the environment; may be given often.",
        ),
    ] = None,
    components: Annotated[
        list[str] | None,
        typer.Option(
            "--component",
            metavar="NAME",
            help="Reward component that validation reports; may be given often.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Kept in each row's extra_info.")] = "train",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Write hydra overrides too, beside the dataset, that train this model on it.",
        ),
    ] = None,
) -> None:
    """Write a dataset for verl.

    For example

      [bold]gym-adapters export verl-rows arithmetic_tools -o train.parquet[/]

      [bold]gym-adapters export verl-rows mcqa -i rows.jsonl -o out/train.parquet --model
      Qwen/Qwen3-0.6B[/]

    Exit codes: 0 written, 2 wrongly asked.
    """
    from gym_adapters.adapters.verl.overrides import verl_overrides, write_overrides
    from gym_adapters.adapters.verl.rows import verl_rows, write_verl_rows
    from gym_adapters.registry import load_environment
    from gym_adapters.rollouts.task_input import TaskInput

    entry = load_environment(environment)
    tasks = TaskInput(entry, rows, num_tasks, difficulty, seed)()
    written = verl_rows(
        environment,
        tasks,
        overrides=settings or (),
        components=components or (),
        split=split,
    )
    write_verl_rows(written, output)
    print(f"{len(written)} rows of {entry.name} in {output}")
    if model is not None:
        file = output.with_suffix(".overrides")
        write_overrides(verl_overrides(environment, model=model, train_files=output), file)
        print(f"overrides in {file}; start with:")
        print(f"  python -m gym_adapters.adapters.verl.launch --overrides {file}")


add_rollout_exports(export_app)
