"""From a recipe to the commands of its trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from gym_adapters.errors import InvalidConfig
from gym_adapters.training.recipe import Recipe, load_recipe
from gym_adapters.training.rows import check_inputs
from gym_adapters.training.steps import Plan, RunPaths

__all__ = ["Asked", "check_plan", "plan_of"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line was asked to run.

    Attributes:
        source: File of the recipe, or its name.
        overrides: ``key=value``.
        smoke: Small enough for two cores.
        resume: Go on from the newest checkpoint in the folder.
    """

    source: str
    overrides: Sequence[str] = ()
    smoke: bool = False
    resume: bool = False

    @property
    def folder(self) -> Path:
        """Where the run goes when nothing is said: a file's name, or the recipe's, under runs/."""
        path = Path(self.source)
        return Path("runs") / (path.stem if path.suffix in (".yaml", ".yml") else self.source)

    def recipe(self) -> Recipe:
        """The recipe, with overrides applied.

        Raises:
            InvalidConfig: As `load_recipe`.
            Unsupported: As `load_recipe`.
        """
        return load_recipe(self.source, self.overrides, smoke=self.smoke)


_TRAINERS: Mapping[str, str] = {
    "trl": "gym_adapters.training.trl_plan",
    "unsloth": "gym_adapters.training.unsloth_plan",
    "verl": "gym_adapters.training.verl_plan",
    "nemo_rl": "gym_adapters.training.nemo_rl_plan",
}


def plan_of(asked: Asked, folder: Path) -> Plan:
    """The commands that run a recipe in `folder`; nothing is written.

    Raises:
        InvalidConfig: If the recipe is wrong.
        Unsupported: If its trainer can't carry it.
    """
    recipe = asked.recipe()
    make: Callable[[Asked, Recipe, RunPaths], Plan] = import_module(
        _TRAINERS[recipe.trainer]
    ).make_plan
    return make(asked, recipe, RunPaths(folder))


def check_plan(plan: Plan) -> list[str]:
    """Look at the environments, and hold the trainer's arguments against its own parser or classes.

    Returns:
        What could not be checked here, and why.

    Raises:
        InvalidConfig: Naming the argument, and the nearest that there is; or what is wrong with the
            environments, their tasks or the rollouts.
        Unsupported: If the adapter can't work in the configuration.
    """
    check_inputs(plan.recipe)
    check: Callable[[Plan], list[str]] = import_module(_TRAINERS[plan.recipe.trainer]).check
    return check(plan)


def only_environment(recipe: Recipe) -> str:
    """The one environment of a recipe whose trainer takes no more.

    Raises:
        InvalidConfig: If there are several.
    """
    if len(recipe.environments) != 1:
        raise InvalidConfig(
            f"{recipe.trainer} trains on one environment at a time, not on "
            f"{', '.join(recipe.environments)}. Fix: one of them, or a recipe for verl or NeMo RL"
        )
    return next(iter(recipe.environments))
