"""The tasks of a recipe as its trainer reads them, training and held-out apart.

::

    python -m gym_adapters.training.rows trl/grpo held_out=0.1 --output run/data
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gym_adapters.errors import GymAdaptersError, InvalidConfig, UsageError
from gym_adapters.registry import load_environment
from gym_adapters.rollouts.blend import blended
from gym_adapters.rollouts.json_line import json_line
from gym_adapters.rollouts.task_input import TaskInput
from gym_adapters.task import Task
from gym_adapters.training.recipe import EnvironmentTasks, Recipe, load_recipe
from gym_adapters.training_data.splits import task_place

__all__ = ["RowFiles", "check_inputs", "main", "row_files", "settings_of", "write_rows"]


@dataclass(frozen=True, slots=True)
class RowFiles:
    """The files of a recipe's tasks: one for all environments, or one each, as the trainer reads.

    Attributes:
        train: To train on.
        held_out: To evaluate on; empty where nothing is held out.
    """

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def row_files(recipe: Recipe, folder: Path) -> RowFiles:
    """Where the tasks of `recipe` go in `folder`."""
    suffix = "parquet" if recipe.trainer == "verl" else "jsonl"
    middles = [""]
    if recipe.trainer not in _ONE_FILE and len(recipe.environments) > 1:
        middles = [f".{re.sub(r'[^A-Za-z0-9]+', '_', name)}" for name in recipe.environments]

    def files(side: str) -> tuple[Path, ...]:
        return tuple(folder / f"{side}{middle}.{suffix}" for middle in middles)

    return RowFiles(files("train"), files("held_out") if recipe.held_out else ())


# Their rows name the environment.
_ONE_FILE = ("verl", "nemo_rl")


def check_inputs(recipe: Recipe) -> None:
    """Look for the environments, their settings and first tasks, and the rollouts, of a recipe.

    Raises:
        InvalidConfig: Naming the key and what is wrong.
    """
    for name, asked in recipe.environments.items():
        try:
            entry = load_environment(name)
            entry.config(settings_of(asked))
            number = None if asked.generate is None else 1
            source = TaskInput(entry, asked.rows, number, asked.difficulty, recipe.seed)
            if next(source(), None) is None:
                raise InvalidConfig(f"there are no tasks in {source.description}")
        except UsageError as error:
            raise InvalidConfig(f"environments.{name}: {error}") from error
    warm = None if recipe.warm_start is None else recipe.warm_start.rollouts
    for key, given in (("rollouts", recipe.rollouts), ("warm_start.rollouts", warm)):
        if given is not None and given.path is not None and not given.path.exists():
            raise InvalidConfig(f"{key}.path: there is no {given.path}")


def write_rows(recipe: Recipe, folder: Path) -> dict[Path, int]:
    """Write the files of `row_files`.

    Returns:
        The number of tasks in each.

    Raises:
        InvalidConfig: If a side is left without tasks.
        InvalidRow: If a row is bad.
        Unsupported: If the trainer can't carry an environment or a task.
    """
    paths = row_files(recipe, folder)
    written: dict[Path, int] = {}
    for files, held_out in ((paths.train, False), (paths.held_out, True)):
        if not files:
            continue
        tasks = _side(recipe, held_out)
        weights = [asked.weight for asked in recipe.environments.values()]
        if len(files) > 1:
            tasks = _in_proportion(tasks, weights)
        rows = [_rows(recipe, name, each, held_out) for name, each in tasks.items()]
        parts = rows if len(files) > 1 else [[row for _, row in blended(rows, weights)]]
        for file, part in zip(files, parts, strict=True):
            _write(recipe, part, file)
            written[file] = len(part)
    return written


def _side(recipe: Recipe, held_out: bool) -> dict[str, list[Task]]:
    """The tasks of one side, by environment."""
    parts = {
        name: [
            task
            for task in distinct_tasks(name, asked, recipe.seed)
            if is_held_out(task, recipe) == held_out
        ]
        for name, asked in recipe.environments.items()
    }
    for name, tasks in parts.items():
        if not tasks:
            side = "evaluate" if held_out else "train"
            raise InvalidConfig(
                f"{name} has no task left to {side} on. Fix: give more tasks, or another held_out"
            )
    return parts


def _in_proportion(
    parts: Mapping[str, Sequence[Task]], weights: Sequence[float]
) -> dict[str, list[Task]]:
    """As many tasks of each as its weight allows: a trainer mixes files by their length."""
    share = min(len(tasks) / w for tasks, w in zip(parts.values(), weights, strict=True))
    return {
        name: list(tasks[: max(1, round(share * weight))])
        for (name, tasks), weight in zip(parts.items(), weights, strict=True)
    }


def distinct_tasks(name: str, asked: EnvironmentTasks, seed: int) -> Iterator[Task]:
    """The tasks asked for, each once."""
    entry = load_environment(name)
    seen: set[str] = set()
    for task in TaskInput(entry, asked.rows, asked.generate, asked.difficulty, seed)():
        if task.task_id not in seen:
            seen.add(task.task_id)
            yield task


def is_held_out(task: Task, recipe: Recipe) -> bool:
    """Whether a task is kept out of training; its id decides."""
    return task_place(task.task_id) >= 1.0 - recipe.held_out


def settings_of(asked: EnvironmentTasks) -> list[str]:
    """Settings of an environment as ``key=value``."""
    import yaml

    def text(value: Any) -> str:
        return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).split("\n...")[0]

    return [f"{key}={text(value).strip()}" for key, value in asked.settings.items()]


def _rows(recipe: Recipe, name: str, tasks: Sequence[Task], held_out: bool) -> list[dict[str, Any]]:
    settings = settings_of(recipe.environments[name])
    split = "validation" if held_out else "train"
    if recipe.trainer == "verl":
        from gym_adapters.adapters.verl.rows import verl_rows

        return verl_rows(name, tasks, overrides=settings, split=split)
    if recipe.trainer == "nemo_rl":
        from gym_adapters.adapters.nemo_rl.rows import nemo_rl_rows

        return nemo_rl_rows(name, tasks, overrides=settings, split=split)
    return [task.to_row() for task in tasks]


def _write(recipe: Recipe, rows: Sequence[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if recipe.trainer == "verl":
        from gym_adapters.adapters.verl.rows import write_verl_rows

        write_verl_rows(rows, path)
    else:
        path.write_bytes(b"".join(map(json_line, rows)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 where it is wrongly asked."""
    reader = argparse.ArgumentParser(
        prog="python -m gym_adapters.training.rows", description=__doc__.splitlines()[0]
    )
    reader.add_argument("recipe", help="a YAML file, or the name of a recipe that ships")
    reader.add_argument("override", nargs="*", help="key=value")
    reader.add_argument("--smoke", action="store_true")
    reader.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    asked = reader.parse_args(arguments)
    try:
        recipe = load_recipe(asked.recipe, asked.override, smoke=asked.smoke)
        for path, number in write_rows(recipe, asked.output).items():
            print(f"{number} tasks in {path}")  # noqa: T201 - this is a command
    except GymAdaptersError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
