"""A model with LoRA adapters: from Unsloth, or from transformers and PEFT alone."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from gym_adapters.adapters.unsloth.config import UnslothConfig
from gym_adapters.adapters.unsloth.version import check_unsloth
from gym_adapters.errors import InvalidConfig, Unsupported
from gym_adapters.extras import require

__all__ = ["UnslothPolicy", "load_policy"]

STANDBY = "UNSLOTH_VLLM_STANDBY"


@dataclass(frozen=True, slots=True)
class UnslothPolicy:
    """What `grpo_trainer` and `sft_trainer` train.

    Attributes:
        model: A PEFT model; only its adapters are trained.
        tokenizer: Its tokenizer.
        config: What it was loaded with.
    """

    model: Any
    tokenizer: Any
    config: UnslothConfig

    @property
    def shares_engine(self) -> bool:
        """Whether a vLLM engine samples from the model's own base weights."""
        return getattr(self.model, "vllm_engine", None) is not None


def load_policy(config: UnslothConfig) -> UnslothPolicy:
    """Load a model and give it LoRA adapters.

    Call it before you import ``trl``: importing Unsloth rewrites TRL's trainers, and a trainer
    imported earlier stays as it was.

    Raises:
        InvalidConfig: If the machine or the process can't do what `config` asks for.
        MissingExtra: Without Unsloth, or without vLLM where an engine is asked for.
        Unsupported: If the model takes more than text, or Unsloth gave no engine.
    """
    policy = _with_peft(config) if config.loader == "peft" else _with_unsloth(config)
    if not hasattr(policy.tokenizer, "convert_tokens_to_ids"):
        raise Unsupported(
            f"{config.model} comes with a multimodal processor, and this adapter trains on text. "
            "Fix: choose a text model."
        )
    return policy


def _with_unsloth(config: UnslothConfig) -> UnslothPolicy:
    check_unsloth()
    unsloth = _import_unsloth(config)
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        **{
            "model_name": config.model,
            "max_seq_length": config.max_seq_length,
            "dtype": _dtype(config),
            "load_in_4bit": config.load_in_4bit,
            "fast_inference": config.fast_inference,
            "max_lora_rank": config.lora_rank,
            "gpu_memory_utilization": config.gpu_memory_utilization,
            **config.model_arguments,
        }
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        **{
            "r": config.lora_rank,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
            "target_modules": list(config.target_modules),
            "use_gradient_checkpointing": _checkpointing(config),
            "random_state": config.seed,
            **config.lora_arguments,
        },
    )
    policy = UnslothPolicy(model, tokenizer, config)
    if config.fast_inference and not policy.shares_engine:
        raise Unsupported(
            "Unsloth loaded the model without its vLLM engine; what it printed above says why (an "
            "old GPU, say). Fix: fast_inference=False for SFT, or train with TRL."
        )
    return policy


def _import_unsloth(config: UnslothConfig) -> Any:
    standby = "1" if config.fast_inference and config.standby else "0"
    before = os.environ.get(STANDBY, "0")
    if "unsloth" in sys.modules and before != standby:
        raise InvalidConfig(
            f"Unsloth was imported with {STANDBY}={before}, and standby can't be changed after "
            f"that. Fix: call load_policy first, or set {STANDBY}={standby} before the import."
        )
    if config.fast_inference:
        torch = require("torch", "unsloth", "the Unsloth adapter")
        if not torch.accelerator.is_available():
            raise InvalidConfig(
                "fast_inference needs a GPU, and there is none here. Fix: fast_inference=False; "
                "rollouts are then sampled with transformers."
            )
        require("vllm", "vllm", "Unsloth's fast_inference")
    os.environ[STANDBY] = standby
    return require("unsloth", "unsloth", "the Unsloth adapter")


def _with_peft(config: UnslothConfig) -> UnslothPolicy:
    torch = require("torch", "unsloth", "a policy with LoRA")
    transformers = require("transformers", "unsloth", "a policy with LoRA")
    peft = require("peft", "unsloth", "a policy with LoRA")
    dtype = _dtype(config)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        config.model, **{"dtype": "auto" if dtype is None else dtype, **config.model_arguments}
    )
    lora = peft.LoraConfig(
        **{
            "task_type": "CAUSAL_LM",
            "r": config.lora_rank,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
            "target_modules": list(config.target_modules),
            **config.lora_arguments,
        }
    )
    # The caller's random state is left as it was.
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = peft.get_peft_model(model, lora)
    tokenizer = transformers.AutoTokenizer.from_pretrained(config.model)
    return UnslothPolicy(model, tokenizer, config)


def _dtype(config: UnslothConfig) -> Any:
    if config.dtype == "auto":
        return None
    return getattr(require("torch", "unsloth", "a policy with LoRA"), config.dtype)


def _checkpointing(config: UnslothConfig) -> str | bool:
    if config.gradient_checkpointing == "unsloth":
        return "unsloth"
    return config.gradient_checkpointing == "on"
