"""Unsloth: LoRA on one GPU, sampled from the vLLM that shares its weights. See docs/unsloth.md."""

from __future__ import annotations

from gym_adapters.adapters.unsloth.config import UnslothConfig
from gym_adapters.adapters.unsloth.policy import UnslothPolicy, load_policy
from gym_adapters.adapters.unsloth.shared_engine import SharedEngine
from gym_adapters.adapters.unsloth.trainers import grpo_trainer, sft_trainer, unsloth_spec

__all__ = [
    "SharedEngine",
    "UnslothConfig",
    "UnslothPolicy",
    "grpo_trainer",
    "load_policy",
    "sft_trainer",
    "unsloth_spec",
]
