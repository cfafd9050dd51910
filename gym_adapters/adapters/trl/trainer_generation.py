"""The generation a GRPOTrainer owns, as a `TokenGenerator`."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any, TypeVar

from gym_adapters.adapters.trainer_sampling import TrainerSampling
from gym_adapters.errors import Unsupported
from gym_adapters.generation.protocol import SamplingParams, TokenGenerator

__all__ = [
    "GeneratorSource",
    "GrpoSampling",
    "TrainerGeneration",
    "max_context_of",
    "sampling_params",
    "tokenizer_of",
]

log = logging.getLogger(__name__)

GeneratorT = TypeVar("GeneratorT", bound=TokenGenerator)
GeneratorSource = Callable[[Any], AbstractContextManager[TokenGenerator]]
"""Given the trainer, a context in which its newest weights generate."""


class TrainerGeneration:
    """Generation with what the trainer has: transformers, colocated vLLM or a vLLM server.

    The generator is made once a trainer. TRL has loaded the newest weights into vLLM before it
    calls a rollout function; transformers runs on the very model that is trained.

    Args:
        max_batch_size: Most rollouts decoded at once by transformers; vLLM has its own bounds.
    """

    def __init__(self, *, max_batch_size: int = 64) -> None:
        self._max_batch_size = max_batch_size
        self._made: tuple[weakref.ref[Any], Any] | None = None

    @contextmanager
    def __call__(self, trainer: Any) -> Iterator[TokenGenerator]:
        """The trainer's generator, with its weights gathered and ready.

        Raises:
            Unsupported: If the trainer is set up in a way that its generation can't be shared.
        """
        if not trainer.use_vllm:
            with self._transformers(trainer) as generator:
                yield generator
        elif trainer.vllm_mode == "colocate":
            from gym_adapters.adapters.trl.colocated_vllm import awake, colocated_generator

            stepper = self._once(trainer, colocated_generator)
            with awake(trainer.vllm_generation), stepper.session():
                yield stepper
        else:
            from gym_adapters.adapters.trl.vllm_server import server_generator

            yield self._once(trainer, server_generator)

    async def aclose(self) -> None:
        """Let go of the trainer, its model and its connections; the next call begins anew."""
        made, self._made = self._made, None
        close = getattr(made[1], "aclose", None) if made is not None else None
        if close is not None:
            await close()

    @contextmanager
    def _transformers(self, trainer: Any) -> Iterator[TokenGenerator]:
        from trl.models import unwrap_model_for_generation

        from gym_adapters.generation.transformers_generator import TransformersGenerator

        if getattr(trainer, "is_fsdp_enabled", False):
            raise Unsupported(
                "rollout_function can't generate with transformers under FSDP, where all processes "
                "must take every step together. Fix: use_vllm=True."
            )
        unwrapping = {"gather_deepspeed3_params": trainer.args.ds3_gather_for_generation}
        # TRL 1.15 knows no such argument.
        if "gradient_checkpointing_kwargs" in signature(unwrap_model_for_generation).parameters:
            checkpointing = trainer.args.gradient_checkpointing_kwargs
            unwrapping["gradient_checkpointing_kwargs"] = checkpointing
        with unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, **unwrapping
        ) as model:

            def make(trainer: Any) -> TransformersGenerator:
                state = trainer.state
                return TransformersGenerator(
                    model,
                    tokenizer_of(trainer),
                    max_batch_size=self._max_batch_size,
                    eos_token_ids=trainer.eos_token_ids,
                    weights_version=lambda: int(state.global_step),
                    seed=trainer.args.seed,
                )

            if self._made is not None and getattr(self._made[1], "model", None) is not model:
                self._made = None
            yield self._once(trainer, make)

    def _once(self, trainer: Any, make: Callable[[Any], GeneratorT]) -> GeneratorT:
        if self._made is None or self._made[0]() is not trainer:
            self._made = (weakref.ref(trainer), make(trainer))
        generator: GeneratorT = self._made[1]
        return generator


def tokenizer_of(trainer: Any) -> Any:
    """The trainer's tokenizer.

    Raises:
        Unsupported: If the trainer has a multimodal processor in its place.
    """
    processor = trainer.processing_class
    if not hasattr(processor, "convert_tokens_to_ids"):
        raise Unsupported(
            "rollout_function takes text only, and the trainer has a multimodal processor. "
            "Fix: pass processing_class=processor.tokenizer."
        )
    return processor


def max_context_of(trainer: Any) -> int | None:
    """Most tokens the trainer's engine can hold in one sequence; ``None`` where it doesn't tell."""
    limits = []
    if trainer.use_vllm and trainer.vllm_mode == "colocate":
        limits.append(trainer.vllm_generation.llm.llm_engine.model_config.max_model_len)
    elif trainer.use_vllm:
        limits.append(trainer.args.vllm_max_model_length)
    limits.append(getattr(trainer.model.config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit is not None), default=None)


class GrpoSampling(TrainerSampling):
    """The sampling of a GRPOTrainer.

    Args:
        trainer: A GRPOTrainer.
        max_tokens: Most tokens of one turn; ``None`` leaves it to the rollout's budget.
    """

    def __init__(self, trainer: Any, max_tokens: int | None = None) -> None:
        params = sampling_params(trainer, trainer.args.generation_kwargs)
        super().__init__(replace(params, max_tokens=max_tokens))


def sampling_params(settings: Any, further: Mapping[str, Any] | None = None) -> SamplingParams:
    """The sampling that a trainer, or its arguments, ask for.

    Args:
        settings: What has ``temperature``, ``top_p``, ``top_k``, ``min_p`` and
            ``repetition_penalty``.
        further: Settings by the engine's names.
    """
    extras = dict(further or {})
    if settings.min_p:
        extras["min_p"] = settings.min_p
    if settings.repetition_penalty != 1.0:
        extras["repetition_penalty"] = settings.repetition_penalty
    return SamplingParams(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=max(settings.top_k or 0, 0),
        extras=extras,
    )
