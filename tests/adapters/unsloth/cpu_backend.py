# ruff: noqa: E402, T201 - Unsloth must be imported before what it rewrites; the result is printed
"""Run by an interpreter that has Unsloth: its own CPU backend, GRPO and then SFT.

Prints one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

folder, model_path = Path(sys.argv[1]), sys.argv[2]
os.chdir(folder)

from gym_adapters import Reward, load_environment
from gym_adapters.adapters.unsloth import (
    UnslothConfig,
    grpo_trainer,
    load_policy,
    sft_trainer,
    unsloth_spec,
)

policy = load_policy(
    UnslothConfig(
        model=model_path,
        fast_inference=False,
        dtype="float32",
        max_seq_length=512,
        lora_rank=8,
        gradient_checkpointing="off",
    )
)

from datasets import Dataset

ArithmeticTools = load_environment("arithmetic_tools").environment
SETTINGS = {
    "output_dir": str(folder / "out"),
    "per_device_train_batch_size": 8,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 7,
}


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives each of four rewards equally often, so that no group of four has only one."""

    name = "graded"
    verified = itertools.count()

    async def verify(self, transcript: Any) -> Reward:
        return Reward(next(Graded.verified) % 4 / 3)


def adapters() -> dict[str, Any]:
    named = policy.model.named_parameters()
    return {name: weight.detach().clone() for name, weight in named if weight.requires_grad}


start = adapters()
spec = unsloth_spec(Graded, tasks=list(ArithmeticTools.generate_tasks(20, seed=1, difficulty=0.0)))
settings = {"max_steps": 2, "num_generations": 4, "max_completion_length": 160}
grpo = grpo_trainer(policy, spec, {**SETTINGS, "learning_rate": 1e-2, **settings})
grpo.train()
end = adapters()

ids = policy.tokenizer.encode("12 + 7 = 19", add_special_tokens=False)
rows = Dataset.from_list([{"input_ids": ids, "labels": [-100] * 5 + ids[5:]}] * 16)
sft = sft_trainer(policy, rows, {**SETTINGS, "max_steps": 12, "learning_rate": 5e-3})
sft.train()
result = {
    "adapters": len(start),
    "trained": sum("lora_" in name for name in start),
    "moved": sum(not start[name].equal(weight) for name, weight in end.items()),
    "gradients": [entry["grad_norm"] for entry in grpo.state.log_history if "reward" in entry],
    "losses": [entry["loss"] for entry in sft.state.log_history if "loss" in entry],
}
print(json.dumps(result))
