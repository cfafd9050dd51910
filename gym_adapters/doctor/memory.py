"""How much memory model, optimiser and engine take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gym_adapters.doctor.finding import Finding, failed, fine, warned
from gym_adapters.doctor.machine import GIB, Machine
from gym_adapters.doctor.model_files import ModelFiles
from gym_adapters.doctor.setup import Setup

__all__ = ["Estimate", "estimate", "memory_findings"]

PART = "memory"
TIGHT = 0.8
SERVED_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on each GPU; activations are not counted.

    Attributes:
        weights: The model's in training.
        adapters: LoRA's.
        gradients: As large as what is trained.
        optimiser: AdamW's moments.
        reference: A frozen copy of the weights.
        engine: The engine's copy of the weights; its cache takes what it is left.
    """

    weights: float
    adapters: float
    gradients: float
    optimiser: float
    reference: float
    engine: float

    @property
    def training(self) -> float:
        """All but the engine's."""
        return self.weights + self.adapters + self.gradients + self.optimiser + self.reference

    @property
    def total(self) -> float:
        """All of it."""
        return self.training + self.engine


def estimate(model: ModelFiles, setup: Setup) -> Estimate:
    """What stays in memory all the time.

    Mixed precision with AdamW: a trained weight costs itself, a gradient of its type and two
    moments (the table of ZeRO, arXiv:1910.02054, section 3). Sharded over the GPUs where the
    trainer shards. The engine holds 16-bit weights, a whole model on each GPU.
    """
    count = float(model.parameters)
    spread = setup.gpus if setup.sharded else 1
    adapters = 0.0
    trained, kind = count, setup.weight_bytes
    if setup.lora_rank is not None:
        trained = float(model.lora_parameters(setup.lora_rank, setup.lora_targets))
        adapters, kind = trained * 4.0, 4.0
    return Estimate(
        weights=count * setup.weight_bytes / spread,
        adapters=adapters / spread,
        gradients=trained * kind / spread,
        optimiser=trained * setup.optimiser_bytes / spread,
        reference=count * setup.weight_bytes / spread if setup.reference else 0.0,
        engine=count * SERVED_BYTES if setup.engine == "beside" else 0.0,
    )


def memory_findings(
    model: ModelFiles, setup: Setup | None, machine: Machine, *, rollout_tokens: int | None
) -> Iterator[Finding]:
    """Weights, cache and optimiser against the GPUs there are.

    Args:
        model: The model.
        setup: What a recipe asks for.
        machine: The machine.
        rollout_tokens: Most tokens of a rollout, prompt included.
    """
    if not model.parameters:
        fix = "save the model as safetensors"
        yield warned(PART, "weights", "there are no safetensors files to measure", fix)
        return
    size = sum(weight.size for weight in model.weights.values())
    yield fine(PART, "weights", f"{_count(model.parameters)} parameters, {_bytes(size)} on disk")
    yield from _cache(model, rollout_tokens)
    if setup is not None:
        yield _training(estimate(model, setup), setup, machine)


def _cache(model: ModelFiles, rollout_tokens: int | None) -> Iterator[Finding]:
    each = model.cache_bytes_per_token
    if each is None:
        return
    told = f"{_bytes(each)} a token in 16 bits"
    if rollout_tokens is not None:
        told += f", {_bytes(each * rollout_tokens)} a rollout of {rollout_tokens:,} tokens"
    yield fine(PART, "KV cache", told)


def _training(needs: Estimate, setup: Setup, machine: Machine) -> Finding:
    parts = {
        "weights": needs.weights,
        "adapters": needs.adapters,
        "gradients": needs.gradients,
        "optimiser": needs.optimiser,
        "reference": needs.reference,
        "engine's weights": needs.engine,
    }
    shown = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items() if size)
    told = f"about {_bytes(needs.total)} on each GPU before activations and cache: {shown}"
    if not machine.gpus:
        return fine(PART, "training", f"{told}; no GPU here to compare with")
    room = min(size for _, size in machine.gpus)
    if needs.total > room:
        fix = "LoRA, 4 bits, a smaller model, or more GPUs with a trainer that shards"
        return failed(PART, "training", f"{told}; a GPU here has {_bytes(room)}", fix)
    share = setup.engine_share
    if setup.engine == "beside" and share is not None and needs.engine > share * room:
        fix = "a larger gpu_memory_utilization"
        return failed(
            PART, "training", f"{told}; the engine's share is {_bytes(share * room)}", fix
        )
    if needs.total > TIGHT * room:
        fix = "gradient checkpointing, a smaller micro batch, or LoRA"
        return warned(PART, "training", f"{told}; a GPU here has {_bytes(room)}", fix)
    return fine(PART, "training", f"{told}; a GPU here has {_bytes(room)}")


def _bytes(size: float) -> str:
    if size >= GIB / 10:
        return f"{size / GIB:.1f} GiB"
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 / 10 else f"{size / 2**10:.1f} KiB"


def _count(number: int) -> str:
    for name, unit in (("billion", 10**9), ("million", 10**6)):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return f"{number:,}"
