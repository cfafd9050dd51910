"""What ``--smoke`` makes of a recipe: the same trainer and method, small enough for two cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gym_adapters.errors import Unsupported

__all__ = ["TINY", "smoke_part"]

TINY = "tiny"
"""Model of a recipe that stands for the embedded tiny policy, made in place."""

# Numbers that teach the tiny policy to add in a minute or two; see docs/recipes.md.
_CPU: Mapping[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "dtype": "float32",
    "attn_implementation": "eager",
    "gradient_checkpointing": False,
    "gradient_accumulation_steps": 1,
    "use_peft": False,
    "load_in_4bit": False,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "dataloader_num_workers": 0,
}
_GRPO: Mapping[str, Any] = {
    **_CPU,
    "use_vllm": False,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 64,
    "steps_per_generation": None,
    "generation_batch_size": None,
    "num_generations": 8,
    "num_iterations": 1,
    "max_completion_length": 160,
    "temperature": 1.0,
    "learning_rate": 5e-4,
    "loss_type": "dr_grpo",
    "beta": 0.0,
}
_SFT: Mapping[str, Any] = {
    **_CPU,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "learning_rate": 2e-3,
    "max_length": 1024,
    "packing": False,
}
_PREFERENCES: Mapping[str, Any] = {
    **_CPU,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "learning_rate": 5e-4,
    "max_length": 1024,
}
# Unsloth loads the model; without a GPU the same functions do it with PEFT alone.
_UNSLOTH: Mapping[str, Any] = {
    "loader": "peft",
    "fast_inference": False,
    "standby": False,
    "load_in_4bit": False,
    "dtype": "float32",
    "gradient_checkpointing": "off",
    "lora_rank": 16,
    "lora_alpha": 32,
    "max_seq_length": 1024,
    "optim": "adamw_torch",
    # TRL's ModelConfig, not Unsloth's.
    "attn_implementation": None,
    "use_peft": None,
}
# All attempts in each batch: with few desirable ones a part of them says little of the loss.
_KTO: Mapping[str, Any] = {
    **_PREFERENCES,
    "per_device_train_batch_size": 128,
    "learning_rate": 3e-4,
    "desirable_weight": 6.0,
}
_ONE_MACHINE = {
    "processes": 1,
    "nodes": 1,
    "accelerate": {},
    "server": None,
    "server_devices": None,
    "devices": None,
    # Tiny matrices gain nothing from a second thread.
    "variables": {"OMP_NUM_THREADS": "1"},
}
_COLLECTED = {"path": None, "collector": None, "attempts": 6, "temperature": 1.0, "max_tokens": 64}


def smoke_part(data: Mapping[str, Any]) -> dict[str, Any]:
    """What to lay over the recipe `data`, its own ``smoke`` part aside.

    Raises:
        Unsupported: If its trainer does not run without a GPU.
    """
    trainer, method = data.get("trainer"), data.get("method")
    if trainer == "nemo_rl":
        raise Unsupported(
            "NeMo RL runs on GPUs only, so there is no smoke run. Fix: --dry-run checks the "
            "configuration against NeMo RL's own classes, where NEMO_RL_CHECKOUT names a checkout."
        )
    environments = data.get("environments")
    names = list(environments) if isinstance(environments, Mapping) else []
    # Rollouts that are collected first take longest of all.
    collects = method not in ("grpo", "dapo") or data.get("warm_start") is not None
    number = 160 if not collects else 20 if method == "kto" else 64
    tasks = {"rows": None, "generate": number, "difficulty": 0.0}
    part: dict[str, Any] = {
        "model": TINY,
        "loggers": [],
        "launch": _ONE_MACHINE,
        "environments": {name: dict(tasks) for name in names},
    }
    if trainer == "verl":
        return {**part, "steps": 10, "evaluate_every": None, "save_every": None, "held_out": 0.0}
    loading = _UNSLOTH if trainer == "unsloth" else {}
    # Adapters start at nothing, and learn with larger steps.
    rates = {"learning_rate": 5e-3} if trainer == "unsloth" else {}
    if method == "grpo":
        arguments = {**_GRPO, **loading, **rates}
        part |= {"steps": 30, "arguments": arguments, "evaluate_every": None}
        if data.get("warm_start") is not None:
            part["warm_start"] = {
                "rollouts": _COLLECTED,
                # Not too well, so that there is something left to learn.
                "steps": 8,
                "arguments": {**_SFT, "learning_rate": 5e-4},
            }
        return part
    sizes = {"sft": _SFT, "kto": _KTO}.get(str(method), _PREFERENCES)
    return {
        **part,
        "steps": 25 if method == "kto" else 40,
        "evaluate_every": None,
        "rollouts": _COLLECTED,
        "arguments": {**sizes, **loading, **rates},
    }
