"""NeMo RL's commands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_adapters.errors import InvalidConfig
from gym_adapters.training.checkpoints import numbered_checkpoints
from gym_adapters.training.data_steps import rows_step
from gym_adapters.training.hydra import flat, joined, nearest_problem, override
from gym_adapters.training.planning import Asked
from gym_adapters.training.recipe import Recipe
from gym_adapters.training.rows import row_files
from gym_adapters.training.steps import Plan, RunPaths, Step

__all__ = ["CHECKOUT", "LAUNCH", "check", "make_plan"]

LAUNCH = "gym_adapters.adapters.nemo_rl.launcher"
CHECKOUT = "NEMO_RL_CHECKOUT"
"""Environment variable that names the checkout to run in."""


def make_plan(asked: Asked, recipe: Recipe, paths: RunPaths) -> Plan:
    """The commands; nothing is written.

    Raises:
        InvalidConfig: If the recipe asks for what NeMo RL can't do.
    """
    here = RunPaths(paths.folder.absolute())
    own = [override(*each) for each in _own(recipe, here).items()]
    given = [override(*each) for each in flat(recipe.arguments)]
    # NeMo RL has Python of its own: uv finds it in the checkout.
    command = (
        *("uv", "run", "python", "-m", LAUNCH, recipe.launch.script),
        *("--config", recipe.launch.base, "~env.math", *joined(own, given)),
    )
    variables = dict(recipe.launch.variables)
    if recipe.launch.devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = recipe.launch.devices
    training = Step("training", command, variables, folder=f"${CHECKOUT}")
    return Plan(recipe, here, [rows_step(asked, here), training], lambda: newest_step(here.policy))


def newest_step(folder: Path) -> Path | None:
    """The last checkpoint that NeMo RL wrote to `folder`."""
    found = numbered_checkpoints(folder, "step_")
    return found[-1][1] if found else None


def _own(recipe: Recipe, paths: RunPaths) -> dict[str, Any]:
    files = row_files(recipe, paths.data)
    evaluates = bool(files.held_out) and recipe.evaluate_every is not None
    settings: dict[str, Any] = {
        "policy.model_name": recipe.model,
        "grpo.seed": recipe.seed,
        "data.train.dataset_name": "NemoGymDataset",
        "+data.train.data_path": str(files.train[0]),
        "data.train.split_validation_size": 0,
        "data.default.prompt_file": None,
        "data.default.processor": "nemo_gym_data_processor",
        "data.default.env_name": "nemo_gym",
        "+env.should_use_nemo_gym": True,
        "+env.nemo_gym.gym_adapters.seed": recipe.seed,
        "+env.nemo_gym.gym_adapters.ledger": str(paths.rollouts),
        "+env.nemo_gym.gym_adapters.validation_ledger": str(paths.evaluation),
        "policy.generation.vllm_cfg.async_engine": True,
        "+policy.generation.vllm_cfg.expose_http_server": True,
        # Those that training computes, whatever the temperature.
        "policy.generation.vllm_cfg.logprobs_mode": "processed_logprobs",
        "checkpointing.enabled": True,
        "checkpointing.checkpoint_dir": str(paths.policy),
        "checkpointing.save_period": recipe.save_every or recipe.steps or 10,
        "logger.log_dir": str(paths.folder / "nemo_rl_logs"),
        "cluster.num_nodes": recipe.launch.nodes,
        "cluster.gpus_per_node": recipe.launch.processes,
    }
    if recipe.steps is not None:
        settings |= {"grpo.max_num_steps": recipe.steps, "grpo.max_num_epochs": 1_000}
    if evaluates:
        settings |= {
            "data.validation": {
                "dataset_name": "NemoGymDataset",
                "data_path": str(files.held_out[0]),
            },
            "grpo.val_period": recipe.evaluate_every,
        }
    else:
        settings |= {"grpo.val_period": 0, "checkpointing.metric_name": None}
    for name in recipe.loggers:
        if name == "trackio":
            raise InvalidConfig("NeMo RL has no logger trackio; it has wandb, tensorboard, mlflow")
        settings[f"logger.{name}_enabled"] = True
    return settings


def check(plan: Plan) -> list[str]:
    """Hold the overrides against the configuration classes of a NeMo RL checkout.

    Raises:
        InvalidConfig: Naming the key, and the nearest that there is.
    """
    folder = os.environ.get(CHECKOUT)
    if not folder:
        return [f"NeMo RL's configuration was not checked: {CHECKOUT} names no checkout"]
    base = Path(folder) / plan.recipe.launch.base
    if not base.is_file():
        raise InvalidConfig(f"launch.base: there is no {base}")
    from gym_adapters.testing import nemo_rl_checkout

    absent = nemo_rl_checkout.install()
    if absent is not None:
        return [f"NeMo RL's configuration was not checked: {absent}"]
    config = nemo_rl_checkout.quietly("nemo_rl.utils.config")
    grpo = nemo_rl_checkout.quietly("nemo_rl.algorithms.grpo")
    words = plan.steps[-1].command
    check_overrides(words[words.index("--config") + 2 :], base, config, grpo)
    return []


def check_overrides(overrides: Sequence[str], base: Path, config: Any, grpo: Any) -> None:
    """Hold overrides against a base configuration and ``MasterConfig``.

    Args:
        overrides: Of hydra.
        base: NeMo RL's own configuration.
        config: ``nemo_rl.utils.config``.
        grpo: ``nemo_rl.algorithms.grpo``.

    Raises:
        InvalidConfig: Naming the key, and the nearest that there is.
    """
    from omegaconf import OmegaConf
    from pydantic import ValidationError

    config.register_omegaconf_resolvers()
    loaded = config.load_config(base)
    known: Mapping[str, Any] = OmegaConf.to_container(loaded, resolve=False)
    problem = nearest_problem(overrides, known)
    if problem is not None:
        raise InvalidConfig(f"arguments: {problem}")
    try:
        merged = config.parse_hydra_overrides(loaded, list(overrides))
        whole = grpo.MasterConfig(**OmegaConf.to_container(merged, resolve=True))
    except config.OverridesError as error:
        raise InvalidConfig(f"NeMo RL does not take these overrides: {error}") from error
    except ValidationError as error:
        raise InvalidConfig(f"NeMo RL's configuration does not take this: {error}") from error
    from gym_adapters.adapters.nemo_rl.spinup import checked_settings

    checked_settings(whole.env, False)
