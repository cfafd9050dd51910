"""What verl must be told, as hydra overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.verl.named_agent import named_agent
from gym_adapters.adapters.verl.plugin import AGENT_NAME
from gym_adapters.adapters.verl.run_settings import MANAGER
from gym_adapters.agents.selective import check_agent
from gym_adapters.errors import InvalidConfig
from gym_adapters.registry import load_environment

__all__ = ["read_overrides", "verl_overrides", "write_overrides"]

Files = Path | str | Sequence[Path | str]


def verl_overrides(
    environment: str,
    *,
    model: Path | str,
    train_files: Files,
    val_files: Files | None = None,
    group_size: int = 8,
    batch_size: int = 32,
    max_prompt_length: int = 1024,
    max_response_length: int | None = None,
    agent: str | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """Overrides for ``python -m verl.trainer.main_ppo`` that train on `environment` with GRPO.

    Args:
        environment: Its name.
        model: Folder or name of the policy.
        train_files: Datasets that `gym_adapters.adapters.verl.write_verl_rows` wrote.
        val_files: The same for validation; the training files where there are none, unused.
        group_size: Rollouts a prompt.
        batch_size: Prompts a step.
        max_prompt_length: Most tokens of a prompt, tools included.
        max_response_length: Most tokens of a whole rollout after its prompt: all turns, tool
            results included. By default what the environment's card allows for all its turns.
        agent: What drives the episodes in place of our own agent, as ``module:name``: a class or a
            function that gives an agent, such as a `GatewayAgent`, when it is called.
        extra: Overrides of your own, which win.

    Raises:
        Unsupported: If verl, or the agent, can't carry the environment.
        InvalidConfig: If a number makes no sense, or there is no such agent.
    """
    entry = load_environment(environment)
    refuse_unsupported(Adapter.VERL, entry.environment)
    if agent is not None:
        check_agent(named_agent(agent), entry.environment)
    if max_response_length is None:
        budget = entry.card.budget if entry.card else None
        max_response_length = budget.max_turns * budget.max_tokens_per_turn if budget else 4096
    if min(group_size, batch_size, max_prompt_length, max_response_length) < 1:
        raise InvalidConfig("group_size, batch_size and the lengths must be at least 1.")
    settings = {
        "trainer.use_v1": "True",
        # A prompt that is left out is replaced by another, and a step is never empty.
        "trainer.v1.sampler.sync_refill_failed_groups": "True",
        "algorithm.adv_estimator": "grpo",
        "data.train_files": _files(train_files),
        "data.val_files": _files(train_files if val_files is None else val_files),
        "data.train_batch_size": batch_size,
        "data.max_prompt_length": max_prompt_length,
        "data.max_response_length": max_response_length,
        # verl would measure prompts without their tools; our loop measures what is sampled from.
        "data.filter_overlong_prompts": "False",
        "actor_rollout_ref.model.path": _quoted(str(model)),
        "actor_rollout_ref.actor.ppo_mini_batch_size": batch_size,
        "actor_rollout_ref.rollout.n": group_size,
        "actor_rollout_ref.rollout.calculate_log_probs": "True",
        "actor_rollout_ref.rollout.agent.default_agent_loop": AGENT_NAME,
        "+actor_rollout_ref.rollout.agent.agent_loop_manager_class": MANAGER,
        # Our loop brings its rewards: verl's reward workers have nothing to do.
        "reward.num_workers": 1,
    }
    if agent is not None:
        settings["+gym_adapters.agent"] = _quoted(agent)
    if val_files is None:
        settings |= {"trainer.val_before_train": "False", "trainer.test_freq": -1}
    return [*(f"{key}={value}" for key, value in settings.items()), *extra]


def write_overrides(overrides: Sequence[str], path: Path | str) -> None:
    """Write `overrides` to a file, one a line."""
    Path(path).write_text("".join(f"{line}\n" for line in overrides), encoding="utf-8")


def read_overrides(path: Path | str) -> list[str]:
    """The overrides of a file: one a line; empty lines and those that begin with # are skipped.

    Raises:
        InvalidConfig: If there is no such file.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidConfig(f"the overrides can't be read: {error}") from error
    return [text for line in lines if (text := line.strip()) and not text.startswith("#")]


def _files(files: Files) -> str:
    paths = [files] if isinstance(files, Path | str) else files
    return f"[{','.join(_quoted(str(Path(path).expanduser().resolve())) for path in paths)}]"


def _quoted(text: str) -> str:
    """`text` as hydra reads it back, whatever it holds."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
