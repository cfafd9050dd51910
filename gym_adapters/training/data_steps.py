"""The commands that come before the trainer's: a policy to begin with, tasks, rollouts, files."""

from __future__ import annotations

from pathlib import Path

from gym_adapters.errors import InvalidConfig
from gym_adapters.training.planning import Asked
from gym_adapters.training.recipe import EnvironmentTasks, ExportRules, Recipe, RolloutSource
from gym_adapters.training.rows import settings_of
from gym_adapters.training.smoke import TINY
from gym_adapters.training.steps import RunPaths, Step, python

__all__ = ["model_of", "offline_steps", "rows_step", "start_steps"]


def model_of(recipe: Recipe, paths: RunPaths) -> str:
    """Name or folder of the policy to begin with."""
    return str(paths.start) if recipe.model == TINY else recipe.model


def start_steps(recipe: Recipe, paths: RunPaths) -> list[Step]:
    """Making the tiny policy, where the recipe begins with that."""
    if recipe.model != TINY:
        return []
    command = (python(), "-m", "gym_adapters.training.tiny_start", *recipe.environments)
    seed = ("--seed", str(recipe.seed))
    return [Step("policy", (*command, *seed, "--output", str(paths.start)))]


def rows_step(asked: Asked, paths: RunPaths) -> Step:
    """Writing the tasks as the trainer reads them."""
    smoke = ("--smoke",) if asked.smoke else ()
    command = (python(), "-m", "gym_adapters.training.rows", asked.source, *asked.overrides)
    return Step("tasks", (*command, *smoke, "--output", str(paths.data)))


def offline_steps(
    recipe: Recipe, source: RolloutSource, kind: str, paths: RunPaths
) -> tuple[list[Step], Path, Path | None]:
    """Collecting rollouts, where there are none, and exporting what is trained on.

    Args:
        recipe: The recipe.
        source: Where its rollouts come from.
        kind: ``sft``, ``dpo`` or ``kto``.
        paths: Of the run.

    Returns:
        The steps, the file to train on, and that to evaluate on where tasks are held out.
    """
    steps: list[Step] = []
    rollouts = source.path
    if rollouts is None:
        # A run that samples while it trains keeps those rollouts where a run's rollouts are.
        rollouts = paths.folder / "collected" if recipe.is_online else paths.rollouts
        steps.append(_collect(recipe, source, rollouts, paths))
    train = paths.data / f"{kind}.jsonl"
    held_out = paths.data / f"{kind}_held_out.jsonl" if recipe.evaluate_every else None
    # What is held out is held out of every method.
    share = 1.0 - recipe.held_out
    steps.append(_export(rollouts, source.export, kind, train, (0.0, share)))
    if held_out is not None:
        steps.append(_export(rollouts, source.export, kind, held_out, (share, 1.0)))
    return steps, train, held_out


def _collect(recipe: Recipe, source: RolloutSource, output: Path, paths: RunPaths) -> Step:
    environments = recipe.environments
    several = len(environments) > 1
    words = [
        f"{name}={asked.weight:g}" if several else name for name, asked in environments.items()
    ]
    engine = "transformers" if recipe.model == TINY else "vllm"
    model = source.collector or f"{engine}:{model_of(recipe, paths)}"
    words += ["--model", model, *_task_options(environments)]
    words += ["--num-repeats", str(source.attempts), "--temperature", f"{source.temperature:g}"]
    if source.max_tokens is not None:
        words += ["--max-tokens", str(source.max_tokens)]
    for name, asked in environments.items():
        for setting in settings_of(asked):
            words += ["--set", f"{name}.{setting}" if several else setting]
    words += ["--seed", str(recipe.seed), "--output", str(output)]
    return Step("rollouts", (python(), "-m", "gym_adapters.cli", "collect", *words))


def _task_options(environments: dict[str, EnvironmentTasks]) -> list[str]:
    asked = list(environments.values())
    generated = [each for each in asked if each.generate is not None]
    if generated and len(generated) != len(asked):
        raise InvalidConfig(
            "rollouts are collected on rows or on generated tasks, not on both. Fix: give "
            "'generate' to every environment, or to none"
        )
    if generated:
        difficulties = {each.difficulty for each in asked}
        if len(difficulties) > 1:
            raise InvalidConfig("rollouts are collected at one difficulty: give all the same")
        total = sum(each.generate or 0 for each in asked)
        return ["--num-tasks", str(total), "--difficulty", f"{difficulties.pop():g}"]
    several = len(environments) > 1
    options: list[str] = []
    for name, each in environments.items():
        if each.rows is not None:
            options += ["--input", f"{name}={each.rows}" if several else str(each.rows)]
    return options


def _export(
    rollouts: Path, rules: ExportRules, kind: str, output: Path, share: tuple[float, float]
) -> Step:
    able = {
        "sft": (
            "min_reward",
            "max_tokens",
            "no_tool_errors",
            "near_duplicates",
            "per_task",
            "tokens",
        ),
        "dpo": (
            *("min_reward", "max_tokens", "no_tool_errors", "near_duplicates"),
            *("min_margin", "pairs_per_task", "all_pairs", "length_ratio"),
        ),
        "kto": (
            *("max_tokens", "no_tool_errors", "near_duplicates"),
            *("min_margin", "threshold"),
        ),
    }[kind]
    given = rules.model_dump(exclude_defaults=True)
    odd = sorted(set(given) - set(able))
    if odd:
        raise InvalidConfig(f"{kind} has no export rule {odd[0]!r}. It has: {', '.join(able)}")
    words: list[str] = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, f"{value:g}"]
    if share != (0.0, 1.0):
        words += ["--task-share", f"{share[0]:g}", f"{share[1]:g}"]
    command = (python(), "-m", "gym_adapters.cli", "export", kind, str(rollouts))
    name = "files" if share[0] == 0.0 else "held-out files"
    return Step(name, (*command, "--output", str(output), "--overwrite", *words))
