"""What ``collect ENV=WEIGHT ...`` and its options say about each environment of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gym_adapters.config import Budget
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import InvalidConfig
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.rollouts.blend import shares
from gym_adapters.rollouts.row_sampling import RowSampling
from gym_adapters.rollouts.run import RunPart
from gym_adapters.rollouts.task_input import TaskInput

__all__ = ["Asked", "Parts", "run_parts"]


class Asked(NamedTuple):
    """An environment as it was asked for."""

    entry: EnvironmentEntry
    weight: float


class Parts(NamedTuple):
    """The environments of a run, and how many tasks it takes from them in all."""

    parts: list[RunPart]
    total: int


def run_parts(
    environments: Sequence[str],
    *,
    rows: Sequence[str],
    num_tasks: int | None,
    difficulty: float,
    seed: int,
    limit: int | None,
    settings: Sequence[str],
    sampling: RowSampling,
    max_turns: int | None,
    pass_threshold: float | None,
) -> Parts:
    """The environments, each with its own tasks, settings and budgets.

    Raises:
        UsageError: If one of them, or what is said about it, can't be used.
    """
    asked = [_asked(each) for each in environments]
    names = [each.entry.name for each in asked]
    generated: Sequence[int | None] = [None] * len(asked)
    if num_tasks is not None:
        generated = shares(num_tasks, [each.weight for each in asked])
    files = _by_environment(names, rows, "--input", "=")
    overrides = _by_environment(names, settings, "--set", ".")
    parts: list[RunPart] = []
    total = 0
    for (entry, weight), count in zip(asked, generated, strict=True):
        paths = files[entry.name]
        if len(paths) > 1:
            raise InvalidConfig(f"--input gives more than one file for {entry.name}")
        path = Path(paths[0]) if paths else None
        tasks = TaskInput(entry, path, count, difficulty, seed, limit)
        total += tasks.count()
        budget = entry.card.budget if entry.card is not None else Budget()
        best = entry.card.reward_range[1] if entry.card is not None else 1.0
        parts.append(
            RunPart(
                entry=entry,
                config=entry.config(overrides[entry.name]),
                tasks=tasks,
                input=tasks.description,
                sampling=replace(sampling, default_max_tokens=budget.max_tokens_per_turn),
                episode_limits=EpisodeLimits(max_turns=max_turns or budget.max_turns),
                pass_threshold=best if pass_threshold is None else pass_threshold,
                weight=weight,
            )
        )
    return Parts(parts, total if limit is None else min(total, limit))


def _asked(text: str) -> Asked:
    name, equals, weight = text.rpartition("=")
    if not equals:
        return Asked(load_environment(text), 1.0)
    try:
        return Asked(load_environment(name), float(weight))
    except ValueError as error:
        raise InvalidConfig(
            f"{text!r}: {weight!r} is not a weight. Fix: write ENV=NUMBER, e.g. mcqa=3"
        ) from error


def _by_environment(
    names: Sequence[str], given: Sequence[str], option: str, mark: str
) -> Mapping[str, list[str]]:
    """What an option says, by environment; with one environment alone it needs no name."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for text in given:
        owner = next((name for name in names if text.startswith(f"{name}{mark}")), None)
        if len(names) == 1:
            own = owner is not None and option == "--input"
            found[names[0]].append(text.removeprefix(f"{names[0]}{mark}") if own else text)
        elif owner is None:
            raise InvalidConfig(
                f"{option} {text!r} does not say which environment it is for. "
                f"Fix: write {option} {names[0]}{mark}{text}"
            )
        else:
            found[owner].append(text[len(owner) + len(mark) :])
    return found
