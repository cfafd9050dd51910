"""What the adapter reads of verl's configuration, and what it refuses there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from gym_adapters.adapters.verl.loop_outputs import SampleBounds
from gym_adapters.errors import InvalidConfig, Unsupported

__all__ = ["MANAGER", "RunSettings"]

log = logging.getLogger(__name__)

MANAGER = "gym_adapters.adapters.verl.manager.GymAgentLoopManager"
"""Value of ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``."""

# Estimators that judge a rollout without its group: a lone survivor is judged no differently.
_NO_BASELINE = frozenset({"gae", "reinforce_plus_plus"})


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of one run; make them with `RunSettings.of`.

    Attributes:
        bounds: Of a training sample.
        max_context: Most tokens the servers hold in one sequence; ``None`` where it is not said.
        group_size: Rollouts a prompt in training.
        validation_group_size: Rollouts a prompt in validation.
        has_baseline: Whether the advantage estimator compares the rollouts of a group.
        takes_segments: Whether a rollout may be several training samples.
        seed: Of the run.
        model: Name or folder of the policy.
        ledger: Folder to keep the rollouts of training in; ``+gym_adapters.ledger``.
        validation_ledger: The same for validation; ``+gym_adapters.validation_ledger``.
        agent: What drives the episodes in place of our own agent; ``+gym_adapters.agent``, see
            `gym_adapters.adapters.verl.named_agent`.
    """

    bounds: SampleBounds
    max_context: int | None
    group_size: int
    validation_group_size: int
    has_baseline: bool
    takes_segments: bool
    seed: int
    model: str = "policy"
    ledger: str | None = None
    validation_ledger: str | None = None
    agent: str | None = None

    @classmethod
    def of(cls, config: Any) -> RunSettings:
        """The settings of verl's whole configuration.

        Raises:
            Unsupported: If the run is set up in a way that the adapter can't work in.
            InvalidConfig: If it lacks a setting that the adapter needs.
        """
        rollout = config.actor_rollout_ref.rollout
        _refuse(config, rollout)
        estimator = str(config.algorithm.adv_estimator)
        own = config.get("gym_adapters") or {}
        return cls(
            bounds=SampleBounds(int(rollout.prompt_length), int(rollout.response_length)),
            max_context=rollout.get("max_model_len"),
            group_size=int(rollout.n),
            validation_group_size=int(rollout.val_kwargs.n),
            has_baseline=estimator not in _NO_BASELINE,
            # For the others verl counts every sample of a rollout as a rollout of its group.
            takes_segments=estimator == "grpo",
            seed=int(config.data.get("seed") or 0),
            model=str(config.actor_rollout_ref.model.path),
            ledger=own.get("ledger"),
            validation_ledger=own.get("validation_ledger"),
            agent=own.get("agent"),
        )


def _refuse(config: Any, rollout: Any) -> None:
    if not config.trainer.get("use_v1", True):
        raise Unsupported(
            "verl's V0 trainer can't leave out a rollout that failed: it would be trained as a "
            "reward of 0, or end the run. Fix: trainer.use_v1=True."
        )
    if rollout.get("agent", {}).get("agent_loop_manager_class") != MANAGER:
        raise InvalidConfig(
            "without the adapter's manager a failed rollout would shift the baseline of its group. "
            f"Fix: +actor_rollout_ref.rollout.agent.agent_loop_manager_class={MANAGER}"
        )
    if not rollout.get("calculate_log_probs", False):
        raise InvalidConfig(
            "verl's V1 trainer needs the log-probabilities of what was sampled. "
            "Fix: actor_rollout_ref.rollout.calculate_log_probs=True"
        )
    if rollout.get("enable_rollout_routing_replay", False):
        raise Unsupported(
            "the adapter does not carry routed experts. "
            "Fix: actor_rollout_ref.rollout.enable_rollout_routing_replay=False"
        )
    if str(config.algorithm.adv_estimator) == "remax":
        raise Unsupported(
            "ReMax takes its baseline from a greedy rollout, and the adapter would leave that out "
            "when it fails. Fix: use another algorithm.adv_estimator."
        )


def tell_biases(config: Any) -> None:
    """Warn, once a run, of settings that work and are seldom meant."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.get("top_p", 1.0) != 1.0 or (rollout.get("top_k") or -1) > 0:
        log.warning(
            "top_p=%s and top_k=%s cut the distribution that is sampled from, which biases "
            "importance ratios; train with top_p=1 and top_k=-1",
            rollout.get("top_p"),
            rollout.get("top_k"),
        )
    room, model = rollout.prompt_length + rollout.response_length, rollout.get("max_model_len")
    if model is not None and model < room:
        log.warning(
            "rollout.max_model_len=%s is less than prompt_length + response_length = %s: long "
            "rollouts are cut there",
            model,
            room,
        )
    mode = config.trainer.v1.trainer_mode
    if mode == "sync" and not config.trainer.v1.sampler.get("sync_refill_failed_groups", False):
        log.warning(
            "a step in which every prompt is left out ends the run, unless verl replaces them: "
            "set trainer.v1.sampler.sync_refill_failed_groups=True"
        )
