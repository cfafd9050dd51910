"""What a recipe asks of model and machine, in one set of words for all trainers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gym_adapters.adapters.capabilities import Adapter
from gym_adapters.adapters.unsloth.config import PROJECTIONS
from gym_adapters.training.recipe import Recipe

__all__ = ["ADAPTERS", "Setup", "setup_of"]

Engine = Literal["none", "shared", "beside", "elsewhere"]
"""None; one that shares the weights; one with a copy on the same GPUs; one on other GPUs."""

FOUR_BITS = 0.56
"""Bytes of a weight in 4 bits: half a byte, and one 32-bit scale for each 64 of them."""

ADAPTERS: Mapping[str, Adapter] = {
    "trl": Adapter.TRL_ROLLOUT,
    "unsloth": Adapter.TRL_ROLLOUT,
    "verl": Adapter.VERL,
    "nemo_rl": Adapter.NEMO_RL,
}


@dataclass(frozen=True, slots=True)
class Setup:
    """The numbers that matter; ``None`` where the recipe leaves them to the trainer.

    Attributes:
        trainer: Its name.
        samples: Whether it samples while it trains.
        max_completion: Most tokens of a rollout after its prompt.
        max_prompt: Most tokens of a prompt.
        max_total: Most tokens of prompt and completion together.
        rollouts_per_step: Of one optimiser step, on all GPUs.
        steps: Of the optimiser.
        gpus: On which model and optimiser are spread.
        sharded: Whether they are spread at all, or every GPU holds them whole.
        weight_bytes: Of one base weight in training.
        optimiser_bytes: Of the optimiser's state for one trained weight.
        lora_rank: ``None``: all weights are trained.
        lora_targets: Modules with adapters.
        reference: Whether a frozen copy of the model is held beside it.
        engine: What samples.
        engine_share: Of a GPU's memory that is the engine's.
    """

    trainer: str
    samples: bool
    max_completion: int | None = None
    max_prompt: int | None = None
    max_total: int | None = None
    rollouts_per_step: int | None = None
    steps: int | None = None
    gpus: int = 1
    sharded: bool = False
    weight_bytes: float = 2.0
    optimiser_bytes: float = 8.0
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] = PROJECTIONS
    reference: bool = False
    engine: Engine = "none"
    engine_share: float | None = None

    @property
    def adapter(self) -> Adapter:
        """Which row of the capability matrix it is."""
        return ADAPTERS[self.trainer]


def setup_of(recipe: Recipe) -> Setup:
    """The numbers of `recipe`."""
    common: dict[str, Any] = {
        "trainer": recipe.trainer,
        "samples": recipe.is_online,
        "steps": recipe.steps,
        "gpus": recipe.launch.processes * recipe.launch.nodes,
    }
    readers = {"trl": _trl, "unsloth": _unsloth, "verl": _verl, "nemo_rl": _nemo_rl}
    return Setup(**common, **readers[recipe.trainer](recipe))


def _trl(recipe: Recipe) -> dict[str, Any]:
    given = recipe.arguments
    accumulated = given.get("gradient_accumulation_steps", 1)
    each = given.get("per_device_train_batch_size", 8)
    served = given.get("vllm_mode") == "server"
    uses_vllm = bool(given.get("use_vllm"))
    return {
        "max_completion": given.get("max_completion_length") if recipe.is_online else None,
        "max_total": given.get("vllm_max_model_length") or given.get("max_length"),
        "rollouts_per_step": each * accumulated * recipe.launch.processes * recipe.launch.nodes,
        "sharded": bool(recipe.launch.accelerate.get("use_fsdp"))
        or bool(recipe.launch.accelerate.get("use_deepspeed")),
        "weight_bytes": FOUR_BITS if given.get("load_in_4bit") else _width(given),
        "optimiser_bytes": _optimiser(given, _width(given)),
        "lora_rank": given.get("lora_r", 16) if given.get("use_peft") else None,
        # With adapters the base itself is the reference.
        "reference": not given.get("use_peft")
        and (recipe.method in ("dpo", "kto") or bool(given.get("beta") and recipe.is_online)),
        "engine": ("elsewhere" if served else "beside") if uses_vllm else "none",
        "engine_share": given.get("vllm_gpu_memory_utilization", 0.3) if uses_vllm else None,
    }


def _unsloth(recipe: Recipe) -> dict[str, Any]:
    given = recipe.arguments
    shares = recipe.is_online and given.get("fast_inference", True)
    return {
        **_trl(recipe),
        "reference": False,
        "max_total": given.get("max_seq_length", 4096),
        "weight_bytes": FOUR_BITS if given.get("load_in_4bit") else 2.0,
        "optimiser_bytes": _optimiser(given, 4.0),
        "lora_rank": given.get("lora_rank", 16),
        "lora_targets": tuple(given.get("target_modules", PROJECTIONS)),
        "engine": "shared" if shares else "none",
        "engine_share": given.get("gpu_memory_utilization", 0.9) if shares else None,
    }


def _verl(recipe: Recipe) -> dict[str, Any]:
    given = recipe.arguments
    rollouts = _at(given, "actor_rollout_ref.rollout.n", 1)
    rank = _at(given, "actor_rollout_ref.model.lora_rank", 0)
    return {
        "max_prompt": _at(given, "data.max_prompt_length"),
        "max_completion": _at(given, "data.max_response_length"),
        "max_total": _at(given, "actor_rollout_ref.rollout.max_model_len"),
        "rollouts_per_step": _at(given, "data.train_batch_size", 1024) * rollouts,
        "sharded": True,
        "weight_bytes": 4.0,
        "lora_rank": rank or None,
        "reference": not rank and bool(_at(given, "actor_rollout_ref.actor.use_kl_loss")),
        "engine": "beside",
        "engine_share": _at(given, "actor_rollout_ref.rollout.gpu_memory_utilization", 0.5),
    }


def _nemo_rl(recipe: Recipe) -> dict[str, Any]:
    given = recipe.arguments
    prompts = _at(given, "grpo.num_prompts_per_step")
    each = _at(given, "grpo.num_generations_per_prompt")
    return {
        "max_total": _at(given, "policy.max_total_sequence_length"),
        "rollouts_per_step": prompts * each if prompts and each else None,
        "sharded": True,
        "weight_bytes": 4.0,
        "engine": "beside",
        "engine_share": _at(given, "policy.generation.vllm_cfg.gpu_memory_utilization", 0.6),
    }


def _width(given: Mapping[str, Any]) -> float:
    """Bytes of a weight as TRL loads it: in 32 bits, unless it is told otherwise."""
    return 2.0 if given.get("dtype") in ("bfloat16", "float16", "auto") else 4.0


def _optimiser(given: Mapping[str, Any], moment: float) -> float:
    """Bytes of AdamW's two moments, which are of the weights' own type."""
    return 2.0 if "8bit" in str(given.get("optim", "")) else 2 * moment


def _at(data: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """The value at a dotted path, whether it is written nested or dotted."""
    if path in data:
        return data[path]
    found: Any = data
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return default
        found = found[name]
    return found
