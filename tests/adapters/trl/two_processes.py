"""Run by test_two_processes.py under ``accelerate launch``: a GRPO training of two processes."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from gym_adapters import JudgeError, Reward, Task, Transcript, load_environment
from gym_adapters.adapters.trl import blended_spec, rollouts, trl_spec
from gym_adapters.items import item_text
from gym_adapters.testing import TinyPolicy, WarmUp, gold_conversations, tiny_policy

ArithmeticTools = load_environment("arithmetic_tools").environment


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives rewards that vary, whatever the policy can do."""

    name = "graded"

    async def verify(self, transcript: Transcript) -> Reward:
        text = "".join(item_text(i) + str(i.get("arguments", "")) for i in transcript.output)
        value = sum(map(ord, text)) % 7 / 6
        return Reward(value, {"grade": value})


class Fragile(Graded):
    """Fails in a third of the attempts."""

    name = "fragile"

    async def verify(self, transcript: Transcript) -> Reward:
        if self.rng.random() < 0.33:
            raise JudgeError("the judge is silent")
        return await super().verify(transcript)


def vllm_on_cpu() -> None:
    """The two things that a colocated vLLM needs on a CPU."""
    import trl.generation.vllm_generation as trl_vllm
    from vllm import LLM, _custom_ops

    _custom_ops._supports_onednn = False
    trl_vllm.LLM = functools.partial(LLM, dtype="float32", enforce_eager=True)


def tasks_and_policy() -> tuple[list[Task], TinyPolicy]:
    """Those of the fixtures."""
    sums = list(ArithmeticTools.generate_tasks(20, seed=1, difficulty=0.0))
    gold = asyncio.run(gold_conversations(ArithmeticTools, sums))
    policy = tiny_policy(
        warmup=WarmUp(gold, copy_steps=70, mistake_steps=15, batch_size=8, learning_rate=8e-3)
    )
    return sums, policy


def train_asynchronously(folder: str) -> None:
    """AsyncGRPOTrainer, whose first process samples for both."""
    import pytest
    import torch
    from async_cpu import Gaps, LocalPolicy, learning_twice, on_cpu
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

    torch.set_num_threads(1)
    on_cpu(pytest.MonkeyPatch())
    sums, policy = tasks_and_policy()
    local = LocalPolicy(policy)
    spec = blended_spec(
        trl_spec(Graded, tasks=sums[:10], way="async", generator=local),
        trl_spec(Fragile, tasks=sums[10:], way="async", generator=local),
    )
    trainer = AsyncGRPOTrainer(
        model=str(policy.model_path),
        processing_class=policy.tokenizer,
        weight_transfer=local,
        args=AsyncGRPOConfig(
            output_dir=folder,
            max_steps=8,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=160,
            max_staleness=1,
            token_budget=0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            seed=1,
        ),
        **spec.trainer_arguments(),
    )
    trainer.optimizer, trainer.lr_scheduler = learning_twice(trainer.model)
    gaps = Gaps(trainer)
    trainer.train()
    told = {
        "versions": len(local.versions),
        "gaps": gaps.steps,
        "weights": [float(p.detach().double().sum()) for p in trainer.model.parameters()],
        "history": trainer.state.log_history,
    }
    path = Path(folder) / f"{trainer.accelerator.process_index}.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()


def main(way: str, folder: str) -> None:
    if way == "async":
        train_asynchronously(folder)
        return
    import torch
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)
    output = Path(folder)
    sums, policy = tasks_and_policy()
    calls: list[list[dict[str, Any]]] = []
    original = rollouts.rollout_columns

    def kept(batch: Any, **options: Any) -> Any:
        columns = original(batch, **options)
        calls.append(
            [
                {
                    "task": rollout.task_id,
                    "index": rollout.rollout_index,
                    "environment": rollout.provenance.environment,
                    "reward": rollout.reward,
                    "ids": list(ids),
                    "mask": list(mask),
                }
                for rollout, ids, mask in zip(
                    batch, columns["completion_ids"], columns["env_mask"], strict=True
                )
            ]
        )
        return columns

    rollouts.rollout_columns = kept
    spec = blended_spec(trl_spec(Graded, tasks=sums[:10]), trl_spec(Fragile, tasks=sums[10:]))
    shared: dict[str, Any] = {}
    if way == "tensor_parallel":
        vllm_on_cpu()
        shared = {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_tensor_parallel_size": 2,
            "vllm_gpu_memory_utilization": 0.1,
            "vllm_max_model_length": 512,
        }
    trainer = GRPOTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        args=GRPOConfig(
            output_dir=str(output),
            max_steps=4,
            per_device_train_batch_size=4,
            num_generations=8,
            max_completion_length=160,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            seed=1,
            **shared,
        ),
        **spec.trainer_arguments(),
    )
    taken: list[dict[str, Any]] = []
    scored = trainer._generate_and_score_completions

    def recorded(inputs: Any) -> Any:
        batch = scored(inputs)
        taken.append({"advantages": batch["advantages"].tolist()})
        return batch

    trainer._generate_and_score_completions = recorded
    trainer.train()
    rank = trainer.accelerator.process_index
    weights = [float(p.detach().double().sum()) for p in trainer.model.parameters()]
    told = {
        "processes": trainer.accelerator.num_processes,
        "calls": calls,
        "taken": taken,
        "weights": weights,
        "history": trainer.state.log_history,
    }
    (output / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(*sys.argv[1:])
