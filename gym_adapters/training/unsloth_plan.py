"""Unsloth's commands: TRL's trainers over a model that Unsloth loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gym_adapters.errors import InvalidConfig, MissingExtra
from gym_adapters.training.data_steps import model_of, offline_steps, rows_step, start_steps
from gym_adapters.training.nearest import unknown
from gym_adapters.training.planning import Asked, only_environment
from gym_adapters.training.recipe import Recipe, RolloutSource
from gym_adapters.training.rows import row_files, settings_of
from gym_adapters.training.steps import Plan, RunPaths, Step, python
from gym_adapters.training.trl_plan import (
    Stage,
    options,
    parsed,
    rewinder,
    saved_policy,
    trainer_arguments,
)

__all__ = ["TRAIN", "check", "make_plan"]

TRAIN = "gym_adapters.adapters.unsloth.train"


def make_plan(asked: Asked, recipe: Recipe, paths: RunPaths) -> Plan:
    """The commands; nothing is written.

    Raises:
        InvalidConfig: If the recipe asks for what Unsloth can't do.
    """
    if (recipe.launch.processes, recipe.launch.nodes) != (1, 1):
        raise InvalidConfig("unsloth trains on one GPU. Fix: launch.processes=1, or trainer trl")
    model = model_of(recipe, paths)
    stage = Stage(recipe.method, model, recipe.steps, recipe.arguments, paths.policy)
    steps = start_steps(recipe, paths)
    given = trainer_arguments(asked, recipe, stage, paths)
    given["model"] = given.pop("model_name_or_path")
    if recipe.is_online:
        steps.append(rows_step(asked, paths))
        given |= _online(recipe, paths)
    else:
        source = recipe.rollouts or RolloutSource()
        before, train, held_out = offline_steps(recipe, source, stage.method, paths)
        steps += before
        given["train_file"] = train
        if held_out is not None:
            given["eval_file"] = held_out
        if not source.export.tokens:
            given["assistant_only_loss"] = True
    variables = dict(recipe.launch.variables)
    if recipe.launch.devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = recipe.launch.devices
    words = options({**given, **recipe.arguments})
    steps.append(Step("training", (python(), "-m", TRAIN, recipe.method, *words), variables))
    return Plan(
        recipe, paths, steps, lambda: saved_policy(paths.policy), rewind=rewinder(recipe, paths)
    )


def _online(recipe: Recipe, paths: RunPaths) -> dict[str, Any]:
    name = only_environment(recipe)
    files = row_files(recipe, paths.data)
    own: dict[str, Any] = {"environment": name, "tasks": files.train[0], "ledger": paths.rollouts}
    settings = settings_of(recipe.environments[name])
    if settings:
        own["settings"] = settings
    if files.held_out and recipe.evaluate_every is not None:
        own |= {"eval_tasks": files.held_out[0], "eval_ledger": paths.evaluation}
    return own


def check(plan: Plan) -> list[str]:
    """Hold the training's arguments against Unsloth's configuration of ours and TRL's parser.

    Raises:
        InvalidConfig: Naming the argument, and the nearest that there is.
    """
    words = plan.steps[-1].command
    at = words.index(TRAIN)
    try:
        check_arguments(words[at + 1], words[at + 2 :], Path(plan.paths.folder))
    except MissingExtra as error:
        return [f"TRL's arguments were not checked: {error}"]
    return []


def check_arguments(method: str, words: Sequence[str], folder: Path) -> None:
    """Hold a command line against both parsers.

    Raises:
        InvalidConfig: Naming the argument, and the nearest that there is.
        MissingExtra: Without TRL.
    """
    from gym_adapters.adapters.unsloth.config import UnslothConfig
    from gym_adapters.adapters.unsloth.train import METHODS, argument_names, policy_parser
    from gym_adapters.extras import require

    known = argument_names(method)
    for word in words:
        name = word.removeprefix("--")
        if name != word and name not in known:
            what = unknown(f"argument of Unsloth for {method}", name, known)
            raise InvalidConfig(f"arguments: {what}")
    reader = policy_parser(method)
    refusal = f"Unsloth does not take these arguments for {method}"
    own, rest = parsed(reader, words, refusal, known_only=True)
    loading = {k: v for k, v in vars(own).items() if k in UnslothConfig.__slots__ and v is not None}
    UnslothConfig(**loading)
    trl = require("trl", "unsloth", "checking a recipe for Unsloth")
    theirs = trl.TrlParser(dataclass_types=(getattr(trl, METHODS[method]),), allow_abbrev=False)
    parsed(theirs, rest, refusal)
