"""What a recipe says: trainer, method, model, tasks, and the trainer's own arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gym_adapters.config import apply_overrides
from gym_adapters.errors import InvalidConfig
from gym_adapters.training.nearest import unknown
from gym_adapters.training.smoke import smoke_part

__all__ = [
    "EnvironmentTasks",
    "ExportRules",
    "Launch",
    "Recipe",
    "RolloutSource",
    "WarmStart",
    "load_recipe",
    "recipe_names",
]

PACKAGE = "gym_adapters.recipes"

Method = Literal["grpo", "dapo", "sft", "dpo", "kto"]
TrainerName = Literal["trl", "verl", "nemo_rl", "unsloth"]
Logger = Literal["wandb", "tensorboard", "mlflow", "trackio"]

METHODS: Mapping[str, tuple[Method, ...]] = {
    "trl": ("grpo", "sft", "dpo", "kto"),
    "verl": ("grpo", "dapo"),
    "nemo_rl": ("grpo",),
    "unsloth": ("grpo", "sft"),
}
_ANYWHERE = ("processes", "nodes", "devices", "variables")
LAUNCH: Mapping[str, tuple[str, ...]] = {
    "trl": (*_ANYWHERE, "accelerate", "server", "server_devices"),
    "verl": _ANYWHERE,
    "nemo_rl": (*_ANYWHERE, "script", "base"),
    "unsloth": _ANYWHERE,
}
"""What each trainer takes of `Launch`."""
ONLINE: frozenset[Method] = frozenset({"grpo", "dapo"})
"""Methods that sample while they train."""


class Section(BaseModel):
    """A part of a recipe; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(unknown("key", str(key), cls.model_fields))
        return data


class EnvironmentTasks(Section):
    """Which tasks of one environment.

    Attributes:
        rows: File of rows; by default the environment's examples.
        generate: Generate so many tasks instead, where the environment can.
        difficulty: Of generated tasks, from 0 to 1.
        weight: How many of its tasks go to one of an environment of weight 1.
        settings: Of the environment, as in its card.
    """

    rows: Path | None = None
    generate: int | None = Field(default=None, ge=1)
    difficulty: float = Field(default=0.5, ge=0.0, le=1.0)
    weight: float = Field(default=1.0, gt=0.0)
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.rows is not None and self.generate is not None:
            raise ValueError("give rows, or generate, not both; generate=null leaves that out")
        return self


class ExportRules(Section):
    """Which rollouts are trained on; see ``gym-adapters export --help``.

    Attributes:
        min_reward: Least reward; by default what counts as a pass in the run (SFT).
        max_tokens: Most sampled tokens.
        no_tool_errors: No attempts with a failed tool call.
        near_duplicates: Leave out attempts this similar to another at the same task.
        per_task: Most attempts at one task (SFT).
        tokens: Token ids and labels as they were sampled, in place of messages (SFT).
        min_margin: Least difference of rewards (DPO, KTO).
        pairs_per_task: Pairs of a task (DPO); by default the best against the worst.
        all_pairs: All pairs of a task (DPO).
        length_ratio: Most ratio of lengths in a pair (DPO).
        threshold: Least reward of a desirable attempt (KTO); by default a pass.
    """

    min_reward: float | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    no_tool_errors: bool = False
    near_duplicates: float | None = Field(default=None, gt=0.0, le=1.0)
    per_task: int | None = Field(default=None, ge=1)
    tokens: bool = False
    min_margin: float | None = Field(default=None, ge=0.0)
    pairs_per_task: int | None = Field(default=None, ge=1)
    all_pairs: bool = False
    length_ratio: float | None = Field(default=None, ge=1.0)
    threshold: float | None = None


class RolloutSource(Section):
    """Where the rollouts come from that an offline method trains on.

    Attributes:
        path: Folder of a run, or file of rollouts; by default rollouts are collected first.
        collector: Who is asked for them, as ``gym-adapters collect --model`` takes it; by default
            the recipe's own model, with vLLM.
        attempts: At each task.
        temperature: Of sampling.
        max_tokens: Of one turn; by default the environment's budget.
        export: Which of them are trained on.
    """

    path: Path | None = None
    collector: str | None = None
    attempts: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, ge=0.0)
    max_tokens: int | None = Field(default=None, ge=1)
    export: ExportRules = ExportRules()


class WarmStart(Section):
    """Supervised fine-tuning before the method proper, which starts from what comes of it.

    Attributes:
        rollouts: What it learns from.
        steps: Of the optimiser; by default one pass over the rollouts.
        arguments: The trainer's own.
    """

    rollouts: RolloutSource = RolloutSource()
    steps: int | None = Field(default=None, ge=1)
    arguments: dict[str, Any] = Field(default_factory=dict)


class Launch(Section):
    """Where it runs.

    Attributes:
        processes: GPUs of a node.
        nodes: Machines.
        accelerate: Further options of ``accelerate launch``, without dashes (TRL).
        server: Options of ``vllm serve``, without dashes, where TRL samples from a server.
        server_devices: ``CUDA_VISIBLE_DEVICES`` of that server.
        devices: ``CUDA_VISIBLE_DEVICES`` of the training.
        script: Script of NeMo RL's checkout to run.
        base: Configuration of NeMo RL's checkout to begin with.
        variables: Further environment variables.
    """

    processes: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    accelerate: dict[str, Any] = Field(default_factory=dict)
    server: dict[str, Any] | None = None
    server_devices: str | None = None
    devices: str | None = None
    script: str = "examples/nemo_gym/run_grpo_nemo_gym.py"
    base: str = "examples/configs/grpo_math_1B.yaml"
    variables: dict[str, str] = Field(default_factory=dict)


class Recipe(Section):
    """One recipe; read it with `load_recipe`.

    Attributes:
        description: One sentence.
        trainer: Whose training loop.
        method: What it does.
        model: Name or folder of the policy.
        environments: What is trained on: names, and which of their tasks; null leaves one out.
        held_out: Share of tasks kept out of training, to evaluate on; a hash of a task's id places
            it, so that no task is ever on both sides.
        steps: Steps of the optimiser; by default one pass over the tasks.
        evaluate_every: Steps between evaluations on the held-out tasks; by default none.
        save_every: Steps between checkpoints; by default only the last is kept.
        seed: Of tasks, environments and training.
        loggers: Where metrics go besides the run's folder.
        rollouts: What an offline method trains on.
        warm_start: Supervised fine-tuning first.
        launch: Where it runs.
        arguments: The trainer's own, by its own names; they win over everything above.
        smoke: What ``--smoke`` changes: part of a recipe.
    """

    description: str
    trainer: TrainerName
    method: Method
    model: str
    environments: dict[str, EnvironmentTasks] = Field(min_length=1)
    held_out: float = Field(default=0.0, ge=0.0, le=0.5)
    steps: int | None = Field(default=None, ge=1)
    evaluate_every: int | None = Field(default=None, ge=1)
    save_every: int | None = Field(default=None, ge=1)
    seed: int = 0
    loggers: tuple[Logger, ...] = ()
    rollouts: RolloutSource | None = None
    warm_start: WarmStart | None = None
    launch: Launch = Launch()
    arguments: dict[str, Any] = Field(default_factory=dict)
    smoke: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_online(self) -> bool:
        """Whether it samples while it trains."""
        return self.method in ONLINE

    @field_validator("environments", mode="before")
    @classmethod
    def _without_nulls(cls, data: object) -> object:
        if isinstance(data, Mapping):
            return {name: tasks for name, tasks in data.items() if tasks is not None}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        able = METHODS[self.trainer]
        if self.method not in able:
            raise ValueError(f"{self.trainer} has no {self.method}; it has {', '.join(able)}")
        for key, field in Launch.model_fields.items():
            given = getattr(self.launch, key)
            if key not in LAUNCH[self.trainer] and given != field.get_default(
                call_default_factory=True
            ):
                mine = ", ".join(LAUNCH[self.trainer])
                raise ValueError(f"{self.trainer} has no launch.{key}; it has {mine}")
        if self.is_online and self.rollouts is not None:
            raise ValueError(f"{self.method} samples its own rollouts: leave out 'rollouts'")
        if self.warm_start is not None and (self.trainer, self.method) != ("trl", "grpo"):
            raise ValueError("'warm_start' goes before trl's grpo alone")
        if self.evaluate_every is not None and not self.held_out:
            raise ValueError("'evaluate_every' needs tasks to evaluate on: set 'held_out'")
        return self


def load_recipe(
    path_or_name: Path | str, overrides: Sequence[str] = (), *, smoke: bool = False
) -> Recipe:
    """The recipe of a file, or one that ships, with ``key=value`` overrides applied.

    Args:
        path_or_name: A YAML file, or a name such as ``trl/grpo``.
        overrides: Dotted keys and YAML values; they win.
        smoke: Make it small enough for two cores, below the overrides.

    Raises:
        InvalidConfig: If there is no such recipe, or a key or value is wrong; names the nearest.
        Unsupported: If its trainer has no smoke run.
    """
    source, data = _read(path_or_name)
    if smoke:
        own = data.get("smoke")
        part: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
        data = merged(merged(data, smoke_part(data)), part)
    return checked(apply_overrides(data, overrides), source)


def checked(data: Mapping[str, Any], source: str) -> Recipe:
    """`data` as a recipe.

    Raises:
        InvalidConfig: Naming `source`, the key and the fix.
    """
    try:
        return Recipe.model_validate(dict(data))
    except ValidationError as error:
        raise InvalidConfig(f"{source}: {'; '.join(_problems(error))}") from error


def recipe_names() -> list[str]:
    """The recipes that ship, as ``trainer/name``."""
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.yaml')}"
        for folder in files(PACKAGE).iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    )


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `under`: mappings are joined, everything else is replaced."""
    result = dict(under)
    for key, value in over.items():
        known = result.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            result[key] = merged(known, value)
        else:
            result[key] = value
    return result


def _read(path_or_name: Path | str) -> tuple[str, dict[str, Any]]:
    path = Path(path_or_name)
    if path.suffix in (".yaml", ".yml"):
        try:
            return str(path), _mapping(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"the recipe {path} can't be read: {error}") from error
    name = str(path_or_name)
    known = recipe_names()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise InvalidConfig(
            f"there is no recipe {name!r}. {meant}Those that ship: {', '.join(known)}; "
            "or give a file that ends in .yaml"
        )
    file = files(PACKAGE).joinpath(f"{name}.yaml")
    return name, _mapping(file.read_text(encoding="utf-8"), name)


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidConfig(f"{source} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise InvalidConfig(f"{source}: a recipe is a mapping of keys to values")
    return data


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        yield f"{place}: {message}" if place else message
