"""The vLLM engine that TRL keeps beside the trainer, in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gym_adapters.errors import Unsupported
from gym_adapters.generation.engine_stepper import EngineStepper
from gym_adapters.generation.step_group import TorchStepGroup

__all__ = ["awake", "colocated_generator"]


def colocated_generator(trainer: Any) -> EngineStepper:
    """A generator over the trainer's own engine; it samples inside its ``session()``.

    Where several processes share the engine (``vllm_tensor_parallel_size``), all of them step it
    together, and each samples its own rollouts.

    Raises:
        Unsupported: If the engine holds the base weights of a LoRA in training.
    """
    owner = trainer.vllm_generation
    if getattr(owner.llm, "shared_weights", False):
        raise Unsupported(
            "this vLLM engine is Unsloth's and holds the base weights alone, so that rollouts "
            "would not be the trained model's. Fix: make the spec with "
            "gym_adapters.adapters.unsloth.unsloth_spec in place of trl_spec."
        )
    state = trainer.state
    return EngineStepper(
        owner.llm,
        weights_version=lambda: int(state.global_step),
        group=_step_group() if owner.tensor_parallel_size > 1 else None,
    )


def _step_group() -> TorchStepGroup:
    from vllm.distributed import get_tp_group

    return TorchStepGroup(get_tp_group().cpu_group)


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
