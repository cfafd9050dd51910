"""verl's V1 manager and worker, told which sessions belong to one prompt."""

from __future__ import annotations

import logging
from typing import Any

from gym_adapters.adapters.verl import plugin
from gym_adapters.adapters.verl.agent_loop import speech_of
from gym_adapters.adapters.verl.named_agent import named_agent
from gym_adapters.adapters.verl.rollout_group import (
    GroupDropped,
    GroupPolicy,
    current_group,
    rollout_group,
)
from gym_adapters.adapters.verl.run_health import RunHealth
from gym_adapters.adapters.verl.run_settings import RunSettings, tell_biases
from gym_adapters.errors import MissingExtra
from gym_adapters.rollouts.training_ledger import TrainingLedger

try:
    import ray
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
except ModuleNotFoundError as error:
    raise MissingExtra(
        "verl", package=error.name or "verl", needed_for="the verl adapter"
    ) from error

# verl declares its worker as a Ray actor; what can be subclassed is the class inside.
_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__

__all__ = ["GymAgentLoopManager", "GymAgentLoopWorker"]

log = logging.getLogger(__name__)

plugin.install()


class GymAgentLoopWorker(_Worker):
    """Runs the sessions of each prompt as one group."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = RunSettings.of(self.config)
        self._health = RunHealth()
        # Takes seconds for a large vocabulary: before there is an event loop to hold up.
        speech_of(self.tokenizer, self.config.data.get("apply_chat_template_kwargs"))

    async def generate_sequences(self, batch: Any) -> None:
        """Begin the rollouts of `batch`.

        Raises:
            RolloutError: If no rollout has had a reward for long.
            Unsupported: If the chat template can't be trained on.
        """
        self._health.check()
        await super().generate_sequences(batch)

    async def _run_prompt(
        self,
        prompt: dict[str, Any],
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        trace: bool = False,
    ) -> None:
        with rollout_group(self._policy(prompt, trajectory["validate"])) as group:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        if group.is_ours:
            self._health.note(group)

    async def _run_agent_loop(self, *args: Any, **kwargs: Any) -> Any:
        group = current_group()
        if group is None:
            raise RuntimeError("a session was begun outside of its group")
        group.is_ours = kwargs["agent_name"] == plugin.AGENT_NAME
        try:
            return await super()._run_agent_loop(*args, **kwargs)
        except GroupDropped:
            raise
        except Exception as error:
            group.errors.append(error)
            raise
        finally:
            # Whatever happened to this session, the others must not wait for it.
            group.leave(int(kwargs["session_id"]))

    def _policy(self, prompt: dict[str, Any], validate: bool) -> GroupPolicy:
        settings = self._settings
        usual = settings.validation_group_size if validate else settings.group_size
        size = int(prompt.get("__rollout_n__", usual))
        return GroupPolicy(size, validate=validate, has_baseline=settings.has_baseline)


class GymAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, over our workers.

    It checks the configuration before the first step, and cuts the ledgers back where verl resumes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = RunSettings.of(self.config)
        if settings.agent is not None:
            named_agent(settings.agent)
        tell_biases(self.config)
        self._uncut = {False: settings.ledger, True: settings.validation_ledger}
        self.agent_loop_workers_class = ray.remote(GymAgentLoopWorker)

    def generate_sequences(self, prompts: Any) -> None:
        """Begin the rollouts of `prompts`.

        Raises:
            UsageError: If the manifest of a ledger that must be cut can't be read.
            OSError: If that ledger can't be written.
        """
        self._cut_ledger(int(prompts["global_steps"]), "validate" in prompts)
        super().generate_sequences(prompts)

    def _cut_ledger(self, step: int, validates: bool) -> None:
        """Drop what is kept of `step` and later ones, before the first batch of a resumed run."""
        folder = self._uncut.pop(validates, None)
        # It trains from step 1 on, and validates at step 0 before that.
        if folder is None or step <= (0 if validates else 1):
            return
        dropped = TrainingLedger(folder).keep_steps(step)
        log.info("begins at step %d: %d rollouts of %s dropped", step, dropped, folder)
