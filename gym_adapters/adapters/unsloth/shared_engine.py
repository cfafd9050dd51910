"""Generation with the vLLM engine that shares its base weights with the model in training."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gym_adapters.adapters.trl.colocated_vllm import awake
from gym_adapters.adapters.trl.trainer_generation import TrainerGeneration
from gym_adapters.errors import Unsupported
from gym_adapters.generation.engine_stepper import EngineStepper
from gym_adapters.generation.protocol import TokenGenerator

__all__ = ["SharedEngine"]

FOLDING = "UNSLOTH_VLLM_MERGED_ROLLOUT"


class SharedEngine:
    """A `GeneratorSource` that samples from the adapters as they are, and never from the base.

    The engine holds the base weights; Unsloth names the adapters to it only inside
    ``VLLMGeneration.generate``. Here each request names them: their newest values are handed over
    once a batch, and the engine is stepped while rollouts join and leave.

    A trainer without such an engine generates as TRL has it: on a CPU, with transformers.

    Args:
        max_batch_size: Most rollouts decoded at once by transformers; vLLM has its own bounds.
    """

    def __init__(self, *, max_batch_size: int = 64) -> None:
        self._own = TrainerGeneration(max_batch_size=max_batch_size)
        self._made: tuple[weakref.ref[Any], EngineStepper] | None = None
        self._adapters: object | None = None

    @contextmanager
    def __call__(self, trainer: Any) -> Iterator[TokenGenerator]:
        """The trainer's generator, with its newest weights.

        Raises:
            Unsupported: If it would sample from other weights than those that are trained.
        """
        engine = _engine_of(trainer)
        if engine is None:
            with self._own(trainer) as generator:
                yield generator
            return
        stepper = self._stepper(trainer, engine)
        with awake(trainer.vllm_generation), _newest_adapters(trainer) as adapters:
            self._adapters = adapters
            try:
                with stepper.session():
                    yield stepper
            finally:
                self._adapters = None

    async def aclose(self) -> None:
        """Let go of the trainer, its model and its engine; the next call begins anew."""
        self._made = None
        await self._own.aclose()

    def _stepper(self, trainer: Any, engine: Any) -> EngineStepper:
        if self._made is None or self._made[0]() is not trainer:
            state = trainer.state
            stepper = EngineStepper(
                engine,
                lora_request=lambda: self._adapters,
                weights_version=lambda: int(state.global_step),
            )
            self._made = (weakref.ref(trainer), stepper)
        return self._made[1]


@contextmanager
def _newest_adapters(trainer: Any) -> Iterator[Any]:
    """What a request of vLLM names the adapters by, as they are now."""
    load = getattr(trainer.vllm_generation, "_unsloth_load_lora", None)
    if load is None:
        load = getattr(trainer.model, "load_lora", None)
    if load is None:
        raise Unsupported(
            "the model shares its weights with vLLM and has no LoRA, so that there is nothing to "
            "sample from but the base. Fix: FastLanguageModel.get_peft_model(model, ...)."
        )
    # Unsloth hands the weights over in memory, and writes down the adapters' configuration.
    with tempfile.TemporaryDirectory(prefix="gym_adapters-lora-") as folder:
        with _unfolded():
            request = load(os.path.join(folder, "adapters"), load_tensors=True)
        if getattr(request, "lora_int_id", None) is None:
            raise Unsupported(
                f"Unsloth gave {request!r:.200} where vLLM takes a LoRARequest. "
                f"Fix: set {FOLDING}=0 before the model is loaded."
            )
        tensors = getattr(request, "lora_tensors", None)
        if tensors is not None:
            # They are the very weights in training, and vLLM scales what it is given in place.
            request.lora_tensors = {name: each.detach().clone() for name, each in tensors.items()}
        yield request


def _engine_of(trainer: Any) -> Any:
    """The engine that shares weights with the trainer's model; ``None`` where there is none."""
    owner = getattr(trainer, "vllm_generation", None)
    used = getattr(owner, "llm", None)
    made = getattr(trainer.model, "vllm_engine", None)
    if made is not None and used is not made:
        raise Unsupported(
            "the model has a vLLM engine of Unsloth, and the trainer generates with something "
            "else: TRL was not patched. Fix: import unsloth before trl, or call load_policy first."
        )
    if used is None or not getattr(used, "shared_weights", False):
        return None
    return used


@contextmanager
def _unfolded() -> Iterator[None]:
    """Have Unsloth hand out adapters, not a promise to fold them into the weights for one call.

    Folding lasts for a call of ``LLM.generate``, and nobody makes such a call here.
    """
    before = os.environ.get(FOLDING)
    os.environ[FOLDING] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDING]
        else:
            os.environ[FOLDING] = before
