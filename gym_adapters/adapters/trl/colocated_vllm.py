"""The vLLM engine that TRL keeps beside the trainer, in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gym_adapters.errors import Unsupported
from gym_adapters.generation.engine_stepper import EngineStepper

__all__ = ["awake", "colocated_generator"]


def colocated_generator(trainer: Any) -> EngineStepper:
    """A generator over the trainer's own engine; it samples inside its ``session()``.

    Raises:
        Unsupported: If several processes share the engine.
    """
    owner = trainer.vllm_generation
    if owner.tensor_parallel_size > 1:
        raise Unsupported(
            "rollout_function can't step a colocated vLLM of several processes, which must all "
            "take the same requests in the same step. Fix: vllm_tensor_parallel_size=1, or "
            'vllm_mode="server".'
        )
    state = trainer.state
    return EngineStepper(owner.llm, weights_version=lambda: int(state.global_step))


@contextmanager
def awake(owner: Any) -> Iterator[None]:
    """Keep the engine of a ``VLLMGeneration`` awake, and put it to sleep again where it sleeps.

    As ``VLLMGeneration.generate`` does: sleeping discards the weights, so they are pushed again.
    """
    if not owner.enable_sleep_mode:
        yield
        return
    if owner._llm_weights_sleeping:
        owner.sync_weights()
    owner.llm.wake_up(tags=["kv_cache"])
    try:
        yield
    finally:
        owner.llm.sleep(level=2)
        owner._llm_weights_sleeping = True
