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
from gym_adapters.adapters.trl.async_worker import RolloutWorker, rollout_worker
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
from gym_adapters.adapters.trl.rows import ROW, blended_dataset, trl_dataset
from gym_adapters.adapters.trl.trainer_facts import TrainerFacts
from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig, InvalidRow, Unsupported
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.rollouts.blend import blended
from gym_adapters.task import Task

__all__ = ["SpecPart", "TrlSpec", "Way", "trl_spec"]

Way = Literal["rollout", "environment_factory", "reward", "async"]
"""Whose loop runs the episodes: ours, TRL's tool loop, none (a single turn), or ours beside
AsyncGRPOTrainer."""

Tasks = Iterable[Task | Mapping[str, Any]] | Path | str
"""Tasks, rows, or a JSONL file of rows."""


@dataclass(frozen=True, slots=True)
class SpecPart:
    """One environment of a spec.

    Attributes:
        entry: The environment.
        tasks: What is trained on.
        eval_tasks: What is evaluated on.
    """

    entry: EnvironmentEntry
    tasks: Sequence[Task]
    eval_tasks: Sequence[Task]

    @property
    def name(self) -> str:
        """The environment's name."""
        return self.entry.environment.name


@dataclass
class TrlSpec:
    """What a trainer takes for its environments; make one with `trl_spec` or `blended_spec`.

    Attributes:
        way: Whose loop runs the episodes.
        parts: The environments.
        reward_funcs: Each environment's reward, then the further ones.
        rollout_func: For the way ``rollout``.
        environment_factory: For the way ``environment_factory``; several by name.
        rollout_worker: For the way ``async``.
        facts: About the trainer, once it is made.
        close: Closes the environments' resources.
    """

    way: Way
    parts: Sequence[SpecPart]
    reward_funcs: list[RewardFunction] = field(default_factory=list)
    rollout_func: RolloutFunction | None = None
    environment_factory: EnvironmentFactory | dict[str, EnvironmentFactory] | None = None
    rollout_worker: RolloutWorker | None = None
    facts: TrainerFacts = field(default_factory=TrainerFacts)
    close: Callable[[], None] = lambda: None

    @property
    def tasks(self) -> list[Task]:
        """What is trained on, in the order of the dataset."""
        return [task for _, task in self._rows([part.tasks for part in self.parts])]

    @property
    def eval_tasks(self) -> list[Task]:
        """What is evaluated on; empty for nothing."""
        return [task for _, task in self._rows([part.eval_tasks for part in self.parts])]

    @cached_property
    def train_dataset(self) -> Any:
        """A ``datasets.Dataset``, one row a task."""
        return self._dataset([part.tasks for part in self.parts])

    @cached_property
    def eval_dataset(self) -> Any:
        """As `train_dataset`, of the evaluation tasks; ``None`` without any."""
        if not self.eval_tasks:
            return None
        return self._dataset([part.eval_tasks for part in self.parts])

    @cached_property
    def callbacks(self) -> list[Any]:
        """Callbacks the trainer must have: they tell the adapter about it, and close it."""
        from gym_adapters.adapters.trl.trainer_callback import GymCallback

        columns = (ROW,) if self.way in ("environment_factory", "reward") else ()
        worker, function = self.rollout_worker, self.rollout_func
        if worker is not None:
            told = (worker.learn, worker.begin, worker.remember)
            return [GymCallback(self.facts, self.close, columns, *told)]
        begin = None if function is None else function.begin
        return [GymCallback(self.facts, self.close, columns, begin=begin)]

    def trainer_arguments(self) -> dict[str, Any]:
        """Keyword arguments for GRPOTrainer; add ``model``, ``args`` and what else you like.

        Those of the way ``async`` are for AsyncGRPOTrainer.
        """
        arguments: dict[str, Any] = {
            "train_dataset": self.train_dataset,
            "callbacks": list(self.callbacks),
        }
        if self.rollout_worker is not None:
            return {**arguments, "rollout_worker": self.rollout_worker}
        arguments["reward_funcs"] = list(self.reward_funcs)
        if self.eval_dataset is not None:
            arguments["eval_dataset"] = self.eval_dataset
        if self.rollout_func is not None:
            arguments["rollout_func"] = self.rollout_func
        if self.environment_factory is not None:
            arguments["environment_factory"] = self.environment_factory
        return arguments

    def rows(self) -> list[tuple[str, Task]]:
        """Name of the environment and task of each row of the dataset."""
        return self._rows([part.tasks for part in self.parts])

    def _rows(self, streams: Sequence[Sequence[Task]]) -> list[tuple[str, Task]]:
        # In proportion to how many there are: all of them end together.
        weights = [max(len(stream), 1) for stream in streams]
        return [(self.parts[index].name, task) for index, task in blended(streams, weights)]

    def _dataset(self, streams: Sequence[Sequence[Task]]) -> Any:
        in_prompt = self.way in ("rollout", "async")
        rows = self._rows(streams)
        if len(self.parts) == 1:
            return trl_dataset([task for _, task in rows], row_in_prompt=in_prompt)
        return blended_dataset(rows, row_in_prompt=in_prompt)


def trl_spec(
    environment: AnyEnvironment,
    *,
    tasks: Tasks | None = None,
    eval_tasks: Tasks | None = None,
    way: Way = "rollout",
    reward_funcs: Sequence[RewardFunction] = (),
    **options: Any,
) -> TrlSpec:
    """Everything GRPOTrainer, or AsyncGRPOTrainer, needs to train on `environment`.

    ::

        spec = trl_spec("arithmetic_tools", tasks="train.jsonl")
        trainer = GRPOTrainer(model=..., args=GRPOConfig(...), **spec.trainer_arguments())

    Args:
        environment: Class, registry entry or name.
        tasks: Tasks, or a JSONL file of rows; by default the environment's examples.
        eval_tasks: The same for evaluation.
        way: ``rollout`` carries every environment; ``environment_factory`` uses TRL's own tool
            loop, for environments of tools alone; ``reward`` is for one turn without tools;
            ``async`` is for AsyncGRPOTrainer, which samples while it trains.
        reward_funcs: Further reward functions, added to the environment's. Those of the way
            ``rollout`` are made to leave failed rollouts out; of the other ways they must do so
            themselves. There are none of the way ``async``.
        **options: Of `rollout_function`, `environment_factory`, `reward_function` or
            `rollout_worker`.

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
    spec = TrlSpec(way, [SpecPart(entry, rows, tests)])
    if way == "async":
        if tests or reward_funcs:
            raise Unsupported(
                "AsyncGRPOTrainer evaluates nothing, and takes the rewards that its rollout worker "
                "gives. Fix: leave out eval_tasks and reward_funcs, and score in the environment."
            )
        spec.rollout_worker = rollout_worker(entry, rows, **options)
        spec.close = spec.rollout_worker.close
        return spec
    if way == "rollout":
        spec.rollout_func = rollout_function(entry, **options)
        spec.close = spec.rollout_func.close
        own: RewardFunction = RolloutReward(entry.environment.name, spec.facts)
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
    "async": Adapter.TRL_ASYNC,
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
        "Fix: for several, make a spec of each, and blended_spec(...) of them."
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
