# ruff: noqa: E402, T201 - Unsloth must be imported before what it rewrites; the result is printed
"""Run by an interpreter that has Unsloth: trains on a CPU with what Unsloth runs on a GPU.

Unsloth's own switch for CPU-only machines imports its GPU code; its functions then rewrite TRL's
trainers and their vLLM generation, as importing it does where there is a GPU. What needs a GPU is
stood in for: a vLLM of a CPU build is the engine.

Prints one line of JSON.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(
    UNSLOTH_ALLOW_CPU="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    TRL_EXPERIMENTAL_SILENCE="1",
)
folder, model_path = Path(sys.argv[1]), sys.argv[2]
os.chdir(folder)

import unsloth
from unsloth.models import rl
from unsloth_zoo import vllm_utils

# As its patch_vllm does, which reaches for the GPU too.
vllm_utils.LORA_REQUEST_ID = 1
vllm_utils.patch_vllm_lora_tokenizer()
vllm_utils.patch_vllm_lora_load_tensors()
rl.patch_trl_rl_trainers()
rl.patch_trl_vllm_generation()

import torch
import vllm._custom_ops
from datasets import Dataset
from vllm import LLM

# LoRA needs the layers as they are, not packed for oneDNN.
vllm._custom_ops._supports_onednn = False

from gym_adapters import Reward, load_environment
from gym_adapters.adapters.trl import rollouts
from gym_adapters.adapters.unsloth import (
    UnslothConfig,
    grpo_trainer,
    load_policy,
    sft_trainer,
    unsloth_spec,
)

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


def policy() -> Any:
    return load_policy(
        UnslothConfig(
            model=model_path,
            loader="peft",
            fast_inference=False,
            dtype="float32",
            max_seq_length=512,
            lora_rank=8,
        )
    )


def with_engine(made: Any) -> list[str]:
    """Gives a model what Unsloth gives it on a GPU; returns the environment's word on folding."""
    model, asked = made.model, []
    model.vllm_engine = LLM(
        model=model_path,
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=8,
        max_loras=1,
        logprobs_mode="processed_logprobs",
        gpu_memory_utilization=0.1,
        max_model_len=512,
        seed=0,
    )
    model.vllm_engine.shared_weights = True

    def load_lora(name: str, load_tensors: bool = False) -> Any:
        asked.append(os.environ.get("UNSLOTH_VLLM_MERGED_ROLLOUT", ""))
        return vllm_utils.load_lora(model, name, load_tensors=load_tensors)

    model.load_lora = load_lora
    model.for_training = lambda use_gradient_checkpointing=None: model.train()
    model.for_inference = model.eval
    return asked


def scored(model: Any, segment: Any) -> list[float]:
    """What the model makes of the sampled tokens of one segment."""
    ids = torch.tensor([[*segment.prompt_ids, *segment.completion_ids]])
    with torch.no_grad():
        logprobs = model(ids).logits[0].log_softmax(-1)
    start = len(segment.prompt_ids)
    return [
        float(logprobs[start + place - 1, token])
        for place, token in enumerate(segment.completion_ids)
        if segment.mask[place]
    ]


def furthest(model: Any, segments: list[Any]) -> float:
    """Largest difference of log-probability between sampler and model."""
    gap = 0.0
    for segment in segments:
        told = [p for p, m in zip(segment.logprobs, segment.mask, strict=True) if m]
        gap = max(gap, *(abs(a - b) for a, b in zip(told, scored(model, segment), strict=True)))
    return gap


def grpo() -> dict[str, Any]:
    made = policy()
    asked = with_engine(made)
    gaps: list[tuple[float, float]] = []
    rows: list[list[list[int]]] = []
    original = rollouts.rollout_columns

    def kept(batch: Any, **options: Any) -> Any:
        segments = [rollout.segments[0] for rollout in batch]
        newest = furthest(made.model, segments)
        with made.model.disable_adapter():
            gaps.append((newest, furthest(made.model, segments)))
        rows.append([list(segment.mask) for segment in segments])
        return original(batch, **options)

    rollouts.rollout_columns = kept
    tasks = list(ArithmeticTools.generate_tasks(20, seed=1, difficulty=0.0))
    spec = unsloth_spec(Graded, tasks=tasks)
    settings = {"max_steps": 3, "num_generations": 4, "max_completion_length": 160}
    trainer = grpo_trainer(made, spec, {**SETTINGS, "learning_rate": 3e-2, **settings})
    trained: list[list[list[int]]] = []
    generate = trainer._generate_and_score_completions

    def recorded(inputs: Any) -> Any:
        batch = generate(inputs)
        keep = batch["completion_mask"].bool()
        trained.append([m[k].tolist() for m, k in zip(batch["tool_mask"], keep, strict=True)])
        return batch

    trainer._generate_and_score_completions = recorded
    shares = trainer.vllm_generation.llm is made.model.vllm_engine
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    return {
        "trainer": type(trainer).__name__,
        "shares_engine": shares,
        "gap_to_adapters": [newest for newest, _ in gaps],
        "gap_to_base": [base for _, base in gaps],
        "masks_match": trained == rows,
        "tool_tokens": sum(mask.count(0) for batch in rows for mask in batch),
        "folding": asked,
        "gradients": [entry["grad_norm"] for entry in history],
        "rewards": [entry["reward"] for entry in history],
    }


def sft() -> dict[str, Any]:
    made = policy()
    ids = made.tokenizer.encode("12 + 7 = 19", add_special_tokens=False)
    row = {"input_ids": ids, "labels": [-100] * 5 + ids[5:]}
    made.model.for_training = lambda use_gradient_checkpointing=None: made.model.train()
    made.model.for_inference = made.model.eval
    trainer = sft_trainer(
        made,
        Dataset.from_list([row] * 16),
        {**SETTINGS, "max_steps": 12, "learning_rate": 5e-3},
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"trainer": type(trainer).__name__, "losses": losses}


def names(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


result = {
    "version": unsloth.__version__,
    "from_pretrained": names(unsloth.FastLanguageModel.from_pretrained),
    "get_peft_model": names(unsloth.FastLanguageModel.get_peft_model),
    "grpo": grpo(),
    "sft": sft(),
}
print(json.dumps(result))
