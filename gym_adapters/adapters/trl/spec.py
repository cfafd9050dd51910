"""One object that plugs an environment into GRPOTrainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import AnyEnvironment
from gym_adapters.adapters.trl.environments import (
    EnvironmentFactory,
    EnvironmentReward,
    environment_factory,
)
from gym_adapters.adapters.trl.reward import (
    RewardFunction,
    RolloutReward,
    reward_function,
    survivors_only,
)
from gym_adapters.adapters.trl.rollouts import RolloutFunction, rollout_function
from gym_adapters.adapters.trl.rows import ROW, trl_dataset
from gym_adapters.adapters.trl.trainer_facts import TrainerFacts
from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.task import Task

__all__ = ["TrlSpec", "Way", "trl_spec"]

Way = Literal["rollout", "environment_factory", "reward"]
"""Whose loop runs the episodes: ours, TRL's tool loop, or none (a single turn)."""

Tasks = Iterable[Task | Mapping[str, Any]] | Path | str
"""Tasks, rows, or a JSONL file of rows."""


@dataclass
class TrlSpec:
    """What GRPOTrainer takes for one environment; make one with `trl_spec`.

    Attributes:
        way: Whose loop runs the episodes.
        tasks: What is trained on.
        eval_tasks: What is evaluated on; empty for nothing.
        reward_funcs: The environment's reward, then the further ones.
        rollout_func: For the way ``rollout``.
        environment_factory: For the way ``environment_factory``.
        facts: About the trainer, once it is made.
        close: Closes the environment's resources.
    """

    way: Way
    tasks: Sequence[Task]
    eval_tasks: Sequence[Task]
    reward_funcs: list[RewardFunction] = field(default_factory=list)
    rollout_func: RolloutFunction | None = None
    environment_factory: EnvironmentFactory | None = None
    facts: TrainerFacts = field(default_factory=TrainerFacts)
    close: Callable[[], None] = lambda: None

    @cached_property
    def train_dataset(self) -> Any:
        """A ``datasets.Dataset``, one row a task."""
        return trl_dataset(self.tasks, row_in_prompt=self.way == "rollout")

    @cached_property
    def eval_dataset(self) -> Any:
        """As `train_dataset`, of the evaluation tasks; ``None`` without any."""
        if not self.eval_tasks:
            return None
        return trl_dataset(self.eval_tasks, row_in_prompt=self.way == "rollout")

    @cached_property
    def callbacks(self) -> list[Any]:
        """Callbacks the trainer must have: they tell the adapter about it, and close it."""
        from gym_adapters.adapters.trl.trainer_callback import GymCallback

        columns = () if self.way == "rollout" else (ROW,)
        return [GymCallback(self.facts, self.close, columns)]

    def trainer_arguments(self) -> dict[str, Any]:
        """Keyword arguments for GRPOTrainer; add ``model``, ``args`` and what else you like."""
        arguments: dict[str, Any] = {
            "train_dataset": self.train_dataset,
            "reward_funcs": list(self.reward_funcs),
            "callbacks": list(self.callbacks),
        }
        if self.eval_tasks:
            arguments["eval_dataset"] = self.eval_dataset
        if self.rollout_func is not None:
            arguments["rollout_func"] = self.rollout_func
        if self.environment_factory is not None:
            arguments["environment_factory"] = self.environment_factory
        return arguments


def trl_spec(
    environment: AnyEnvironment,
    *,
    tasks: Tasks | None = None,
    eval_tasks: Tasks | None = None,
    way: Way = "rollout",
    reward_funcs: Sequence[RewardFunction] = (),
    **options: Any,
) -> TrlSpec:
    """Everything GRPOTrainer needs to train on `environment`.

    ::

        spec = trl_spec("arithmetic_tools", tasks="train.jsonl")
        trainer = GRPOTrainer(model=..., args=GRPOConfig(...), **spec.trainer_arguments())

    Args:
        environment: Class, registry entry or name.
        tasks: Tasks, or a JSONL file of rows; by default the environment's examples.
        eval_tasks: The same for evaluation.
        way: ``rollout`` carries every environment; ``environment_factory`` uses TRL's own tool
            loop, for environments of tools alone; ``reward`` is for one turn without tools.
        reward_funcs: Further reward functions, added to the environment's. Those of the way
            ``rollout`` are made to leave failed rollouts out; of the other ways they must do so
            themselves.
        **options: Of `rollout_function`, `environment_factory` or `reward_function`.

    Raises:
        Unsupported: If the way can't carry the environment or one of the rows.
        InvalidRow: If a row can't be read, or there is none.
        UnknownEnvironment: If the name is not known.
    """
    if way not in _ADAPTERS:
        raise InvalidConfig(f"there is no way {way!r}. Fix: one of {', '.join(_ADAPTERS)}.")
    entry = _entry(environment)
    rows = _tasks(entry, tasks)
    tests = _tasks(entry, eval_tasks) if eval_tasks is not None else []
    refuse_unsupported(_ADAPTERS[way], entry.environment, [*rows, *tests])
    spec = TrlSpec(way, rows, tests)
    if way == "rollout":
        spec.rollout_func = rollout_function(entry, **options)
        spec.close = spec.rollout_func.close
        own: RewardFunction = RolloutReward(entry.environment.name)
        spec.reward_funcs = [own, *map(survivors_only, reward_funcs)]
        return spec
    if way == "environment_factory":
        factory = environment_factory(entry, tasks=rows, facts=spec.facts, **options)
        spec.environment_factory, spec.close = factory, factory.close
        spec.reward_funcs = [EnvironmentReward(factory), *reward_funcs]
        return spec
    reward = reward_function(entry, facts=spec.facts, **options)
    spec.close = reward.close
    spec.reward_funcs = [reward, *reward_funcs]
    return spec


_ADAPTERS: dict[Way, Adapter] = {
    "rollout": Adapter.TRL_ROLLOUT,
    "environment_factory": Adapter.TRL_ENVIRONMENT_FACTORY,
    "reward": Adapter.TRL_REWARD,
}


def _entry(environment: object) -> EnvironmentEntry:
    if isinstance(environment, str):
        return load_environment(environment)
    if isinstance(environment, EnvironmentEntry):
        return environment
    if inspect.isclass(environment) and issubclass(environment, Environment):
        return EnvironmentEntry(environment.name, environment, None)
    raise InvalidConfig(
        f"one environment is trained on: its class, registry entry or name, not {environment!r}. "
        "Fix: for several, train one after the other."
    )


def _tasks(entry: EnvironmentEntry, tasks: Tasks | None) -> list[Task]:
    if tasks is None:
        found = entry.example_tasks()
        if not found:
            raise InvalidRow(f"{entry.name} ships no examples.", fix="give tasks=.")
        return found
    if isinstance(tasks, str | Path):
        given: list[Task] = list(entry.read_tasks(tasks))
    else:
        given = [_task(entry, task, place) for place, task in enumerate(tasks, start=1)]
    if not given:
        raise InvalidRow("there are no tasks.", fix="give at least one.")
    return given


def _task(entry: EnvironmentEntry, task: Task | Mapping[str, Any], place: int) -> Task:
    """A task of the environment's own type, whether it is one, another or a row."""
    own = entry.environment.task_type
    if isinstance(task, own):
        return task
    return own.from_row(task.to_row() if isinstance(task, Task) else task, line=place)
