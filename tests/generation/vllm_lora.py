"""Run by test_vllm_engines.py in a process of its own: a LoRA adapter, asked for on each engine.

What was sampled with the adapter and without is written as JSON to the file named.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import torch
from peft import LoraConfig, get_peft_model
from vllm import LLM
from vllm.lora.request import LoRARequest

from gym_adapters.generation.engine_stepper import EngineStepper
from gym_adapters.generation.protocol import SamplingParams, TokenGenerator
from gym_adapters.generation.vllm_cpu import keep_loadable_weights
from gym_adapters.generation.vllm_engine import VLLMGenerator
from gym_adapters.testing.tiny_model import TinyPolicy, tiny_policy

PROMPTS = [[65, 66, 67], [70] * 11, [80, 81]]
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, extras={"ignore_eos": True})
ENGINE: dict[str, Any] = {
    "max_model_len": 256,
    "kv_cache_memory_bytes": 2**27,
    "enable_lora": True,
    "max_lora_rank": 8,
}


def save_adapter(policy: TinyPolicy, folder: Path) -> Any:
    """A model with an adapter that changes what is said; the adapter is in `folder` too."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "o_proj"], init_lora_weights=False)
    adapted = get_peft_model(policy.load_model(), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.mul_(4.0)
    adapted.save_pretrained(folder)
    return adapted.eval()


def greedy(model: Any, prompt: Sequence[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


async def sampled(generator: TokenGenerator) -> list[list[int]]:
    turns = await asyncio.gather(
        *(generator.generate(p, GREEDY, request_id=f"r{n}") for n, p in enumerate(PROMPTS))
    )
    return [list(turn.token_ids) for turn in turns]


async def asynchronous(policy: TinyPolicy, adapter: LoRARequest) -> list[list[int]]:
    started = VLLMGenerator.start(policy.model_path, lora_request=adapter, **ENGINE)
    async with await started as generator:
        return await sampled(generator)


def main(cache: str, output: str) -> None:
    policy = tiny_policy(cache_dir=cache)
    folder = Path(cache) / "adapter"
    adapted = save_adapter(policy, folder)
    adapter = LoRARequest("adapter", 1, str(folder))
    keep_loadable_weights()
    llm = LLM(
        str(policy.model_path),
        dtype="float32",
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
        **ENGINE,
    )
    now: list[LoRARequest | None] = [adapter]
    stepper = EngineStepper(llm, lora_request=lambda: now[0])
    with stepper.session():
        found = {"stepper": asyncio.run(sampled(stepper))}
        now[0] = None
        found["without"] = asyncio.run(sampled(stepper))
    found["engine"] = asyncio.run(asynchronous(policy, adapter))
    found["adapted"] = [greedy(adapted, prompt) for prompt in PROMPTS]
    with adapted.disable_adapter():
        found["plain"] = [greedy(adapted, prompt) for prompt in PROMPTS]
    Path(output).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
