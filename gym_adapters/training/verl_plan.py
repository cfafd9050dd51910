"""verl's commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_adapters.adapters.verl.overrides import verl_overrides
from gym_adapters.errors import InvalidConfig, MissingExtra
from gym_adapters.rollouts.training_ledger import TrainingLedger
from gym_adapters.training.checkpoints import numbered_checkpoints
from gym_adapters.training.data_steps import model_of, rows_step, start_steps
from gym_adapters.training.hydra import flat, joined, nearest_problem, override
from gym_adapters.training.planning import Asked
from gym_adapters.training.recipe import Recipe
from gym_adapters.training.rows import row_files
from gym_adapters.training.steps import Plan, RunPaths, Step, python

__all__ = ["LAUNCH", "check", "make_plan"]

LAUNCH = "gym_adapters.adapters.verl.launch"

# What verl's DAPO recipe does, in terms of its V1 trainer.
DAPO: Mapping[str, Any] = {
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.28,
    "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
    "actor_rollout_ref.actor.use_kl_loss": False,
    "algorithm.use_kl_in_reward": False,
    "algorithm.norm_adv_by_std_in_grpo": True,
    # Groups whose rewards are all alike are replaced by others.
    "algorithm.filter_groups.enable": True,
    "algorithm.filter_groups.metric": "reward",
}
# Sizes that teach the tiny policy something in a minute; see docs/recipes.md.
SMOKE: Mapping[str, Any] = {
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 32,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 32,
    "actor_rollout_ref.actor.optim.lr": 5e-4,
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "data.train_batch_size": 8,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
    "data.max_prompt_length": 128,
    "data.max_response_length": 160,
    "trainer.logger": ["console", "file"],
}


def make_plan(asked: Asked, recipe: Recipe, paths: RunPaths) -> Plan:
    """The commands; nothing is written.

    Raises:
        InvalidConfig: If the recipe asks for what verl can't do.
        Unsupported: If verl can't carry an environment.
        MissingExtra: If a smoke run is asked for without verl.
    """
    folder = paths.folder.absolute()
    here = RunPaths(folder)
    files = row_files(recipe, here.data)
    trainer_metrics = here.folder / "verl_metrics.jsonl"
    evaluates = bool(files.held_out) and recipe.evaluate_every is not None
    first, *_ = recipe.environments
    base = verl_overrides(
        first,
        model=model_of(recipe, here),
        train_files=files.train,
        val_files=files.held_out if evaluates else None,
    )
    own = [override(key, value) for key, value in _own(asked, recipe, here, evaluates).items()]
    dapo = [override(*each) for each in DAPO.items()] if recipe.method == "dapo" else []
    given = [override(*each) for each in flat(recipe.arguments)]
    variables = {"VERL_FILE_LOGGER_PATH": str(trainer_metrics), **recipe.launch.variables}
    if recipe.launch.devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = recipe.launch.devices
    groups: list[Sequence[str]] = [base, own, dapo, given]
    if asked.smoke:
        from gym_adapters.testing.verl_cpu import OVERRIDES, environment_variables

        # Engines of the recipe's own, vLLM's say, are not those of a CPU.
        groups += [OVERRIDES, [override(*each) for each in SMOKE.items()]]
        variables |= environment_variables()
        variables["VERL_FILE_LOGGER_PATH"] = str(trainer_metrics)
    command = (python(), "-m", LAUNCH, *joined(*groups))
    steps = [
        *start_steps(recipe, here),
        rows_step(asked, here),
        Step("training", command, variables),
    ]
    return Plan(
        recipe,
        here,
        steps,
        lambda: newest_policy(here.policy),
        trainer_metrics,
        lambda: rewind(here),
    )


def rewind(paths: RunPaths) -> None:
    """Drop the rollouts of steps after the checkpoint that verl goes on from; its first is 1."""
    tracker = paths.policy / "latest_checkpointed_iteration.txt"
    done = int(tracker.read_text(encoding="utf-8")) if tracker.is_file() else 0
    TrainingLedger(paths.rollouts).keep_steps(done + 1)
    # It validates before it goes on, which counts as the step it had done.
    TrainingLedger(paths.evaluation).keep_steps(done)


def newest_policy(folder: Path) -> Path | None:
    """What can be loaded of the last checkpoint that verl wrote to `folder`."""
    found = numbered_checkpoints(folder, "global_step_")
    return found[-1][1] / "actor" / "huggingface" if found else None


def _own(asked: Asked, recipe: Recipe, paths: RunPaths, evaluates: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "trainer.nnodes": recipe.launch.nodes,
        "trainer.n_gpus_per_node": recipe.launch.processes,
        "trainer.logger": ["console", "file", *recipe.loggers],
        "trainer.project_name": "gym_adapters",
        "trainer.experiment_name": paths.folder.name,
        "trainer.default_local_dir": str(paths.policy),
        "trainer.resume_mode": "auto" if asked.resume else "disable",
        # The last step is saved in any case.
        "trainer.save_freq": recipe.save_every or 1_000_000,
        "actor_rollout_ref.actor.checkpoint.save_contents": [
            "model",
            "optimizer",
            "extra",
            "hf_model",
        ],
        "data.seed": recipe.seed,
        "+gym_adapters.ledger": str(paths.rollouts),
        "+gym_adapters.validation_ledger": str(paths.evaluation),
        # Of the main process alone.
        "hydra.run.dir": str(paths.folder / "hydra"),
    }
    if recipe.steps is not None:
        settings |= {"trainer.total_training_steps": recipe.steps, "trainer.total_epochs": 1_000}
    else:
        settings["trainer.total_epochs"] = 1
    if evaluates:
        settings |= {"trainer.test_freq": recipe.evaluate_every, "trainer.val_before_train": True}
    return settings


def check(plan: Plan) -> list[str]:
    """Hold the overrides against verl's own configuration, composed by hydra.

    Raises:
        InvalidConfig: Naming the key, and the nearest that there is.
        Unsupported: If the adapter can't work in the configuration.
    """
    step = plan.steps[-1]
    overrides = step.command[step.command.index(LAUNCH) + 1 :]
    try:
        known = default_configuration()
        problem = nearest_problem(overrides, known)
        if problem is not None:
            raise InvalidConfig(f"arguments: {problem}")
        from gym_adapters.adapters.verl.launch import check_overrides

        check_overrides(overrides)
    except MissingExtra as error:
        return [f"verl's configuration was not checked: {error}"]
    return []


def default_configuration() -> Mapping[str, Any]:
    """Verl's configuration as it is without overrides.

    Raises:
        MissingExtra: Without verl.
    """
    from gym_adapters.extras import require

    hydra = require("hydra", "verl", "checking a recipe for verl")
    require("verl", "verl", "checking a recipe for verl")
    from omegaconf import OmegaConf

    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        composed = hydra.compose("ppo_trainer", [])
    plain: Mapping[str, Any] = OmegaConf.to_container(composed, resolve=False)
    return plain
