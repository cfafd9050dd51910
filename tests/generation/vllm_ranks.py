"""Run by test_vllm_engines.py, once a rank: a real vLLM of two tensor-parallel ranks on the CPU."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

MOMENT = 0.1


def configure(rank: str, port: str) -> None:
    """As torchrun would, before vLLM is imported."""
    os.environ.update(
        RANK=rank,
        LOCAL_RANK=rank,
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_LOGGING_LEVEL="ERROR",
    )


async def rollout(stepper: Any, rank: int, number: int) -> tuple[list[int], list[Any]]:
    """Three turns; the context, and where in it each turn starts, with its log-probabilities."""
    from gym_adapters.generation.protocol import SamplingParams

    moments = random.Random(10 * rank + number)
    context = [65 + rank, 66 + number]
    told: list[Any] = []
    for _ in range(3):
        how = SamplingParams(max_tokens=moments.randint(3, 12), temperature=float(number % 2))
        turn = await stepper.generate(context, how, request_id=f"{rank}-{number}")
        told.append([len(context), list(turn.token_ids), list(turn.logprobs)])
        context = [*context, *turn.token_ids, 70]
        await asyncio.sleep(moments.random() * MOMENT)
    return context, told


async def rollouts(stepper: Any, rank: int) -> list[Any]:
    # The ranks have different numbers of rollouts, and each cancels one.
    tasks = [asyncio.create_task(rollout(stepper, rank, n)) for n in range(3 if rank else 6)]
    await asyncio.sleep(MOMENT)
    tasks[0].cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def gap(model: Any, context: list[int], told: list[Any]) -> float:
    """Largest difference to the log-probabilities of transformers."""
    import torch

    with torch.no_grad():
        scored = torch.log_softmax(model(input_ids=torch.tensor([context])).logits[0], dim=-1)
    return max(
        abs(float(scored[start - 1 + k, token]) - logprob)
        for start, ids, logprobs in told
        for k, (token, logprob) in enumerate(zip(ids, logprobs, strict=True))
    )


def main(rank: str, port: str, cache: str, output: str) -> None:
    configure(rank, port)
    import torch.distributed as dist
    from vllm import LLM
    from vllm.distributed import get_tp_group

    from gym_adapters.errors import Unsupported
    from gym_adapters.generation.engine_stepper import EngineStepper
    from gym_adapters.generation.step_group import TorchStepGroup
    from gym_adapters.testing import tiny_policy

    policy = tiny_policy(cache_dir=cache)
    llm = LLM(
        str(policy.model_path),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        kv_cache_memory_bytes=2**27,
        logprobs_mode="processed_logprobs",
        tensor_parallel_size=2,
        distributed_executor_backend="external_launcher",
        seed=0,
    )
    found: dict[str, Any] = {}
    try:
        EngineStepper(llm)
    except Unsupported as error:
        found["refused"] = str(error)
    stepper = EngineStepper(llm, group=TorchStepGroup(get_tp_group().cpu_group))
    with stepper.session():
        results = asyncio.run(rollouts(stepper, int(rank)))
    model = policy.load_model()
    whole = [each for each in results if isinstance(each, tuple)]
    found |= {
        "whole": len(whole),
        "cancelled": sum(isinstance(each, asyncio.CancelledError) for each in results),
        "gap": max(gap(model, context, told) for context, told in whole),
        "left": [stepper.running, llm.llm_engine.get_num_unfinished_requests()],
    }
    Path(output).write_text(json.dumps(found), encoding="utf-8")
    # None leaves while the other still needs it.
    dist.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
