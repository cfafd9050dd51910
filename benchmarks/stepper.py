"""How long a batch of rollouts takes on one vLLM engine, by how rollouts share it.

    python benchmarks/stepper.py [--episodes 64] [--seeds 2] [--skip-serial]

Each episode is three turns of a tiny model with a tool call between two turns. A tool only waits.
The same engine, prompts and waiting times are used for:

serial tools      the whole batch samples a turn, then one tool after the other runs, as in the tool
                  loop of TRL's GRPOTrainer (environment_factory), whether tools are async or not
lock-step         the whole batch samples a turn, then all tools run at once
stepper           EngineStepper: every episode goes its own way

Two kinds of tools: `uniform` take 0 to 2 s; `heavy-tailed` mostly take under 0.2 s and sometimes 2.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable
from statistics import mean
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from gym_adapters.generation.engine_stepper import EngineStepper
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.vllm_cpu import keep_loadable_weights
from gym_adapters.testing import tiny_policy

TURNS = 3
TOKENS = 48
RESULT = [65] * 8
LONGEST = 2.0

Waits = list[list[float]]
"""Seconds of each tool call, by episode and turn."""


def uniform(chance: random.Random) -> float:
    return chance.uniform(0.0, LONGEST)


def heavy_tailed(chance: random.Random) -> float:
    return min(LONGEST, 0.05 * chance.paretovariate(1.1))


def prompt_of(episode: int) -> list[int]:
    return [66 + episode % 100] * (8 + episode % 8)


def sampled(llm: Any, contexts: list[list[int]]) -> None:
    """One turn of all episodes; appended to their contexts, with a tool's result."""
    from vllm import SamplingParams as Params

    params = Params(max_tokens=TOKENS, ignore_eos=True, logprobs=0, detokenize=False)
    prompts = [{"prompt_token_ids": context} for context in contexts]
    for context, output in zip(
        contexts, llm.generate(prompts, params, use_tqdm=False), strict=True
    ):
        context.extend([*output.outputs[0].token_ids, *RESULT])


def serial_tools(llm: Any, waits: Waits) -> None:
    contexts = [prompt_of(episode) for episode in range(len(waits))]
    for turn in range(TURNS):
        sampled(llm, contexts)
        if turn < TURNS - 1:
            for episode in waits:
                time.sleep(episode[turn])


def lock_step(llm: Any, waits: Waits) -> None:
    contexts = [prompt_of(episode) for episode in range(len(waits))]
    for turn in range(TURNS):
        sampled(llm, contexts)
        if turn < TURNS - 1:
            time.sleep(max(episode[turn] for episode in waits))


def stepped(llm: Any, waits: Waits) -> None:
    stepper = EngineStepper(llm)
    how = SamplingParams(max_tokens=TOKENS, extras={"ignore_eos": True})

    async def episode(number: int) -> None:
        context = prompt_of(number)
        for turn in range(TURNS):
            name = f"episode-{number}"
            generation = await stepper.generate(context, how, request_id=name)
            context.extend([*generation.token_ids, *RESULT])
            if turn < TURNS - 1:
                await asyncio.sleep(waits[number][turn])

    async def everything() -> None:
        await asyncio.gather(*(episode(number) for number in range(len(waits))))

    with stepper.session():
        asyncio.run(everything())


def seconds(llm: Any, arm: Callable[[Any, Waits], None], waits: Waits) -> float:
    llm.reset_prefix_cache()
    began = time.perf_counter()
    arm(llm, waits)
    return time.perf_counter() - began


def row(*cells: object) -> None:
    print(f"{cells[0]!s:<14}", *(f"{cell!s:>16}" for cell in cells[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--skip-serial", action="store_true", help="it takes minutes")
    options = parser.parse_args()

    from vllm import LLM

    keep_loadable_weights()
    llm = LLM(
        str(tiny_policy().model_path),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        kv_cache_memory_bytes=2**28,
        logprobs_mode="processed_logprobs",
    )
    nothing: Waits = [[0.0] * TURNS for _ in range(options.episodes)]
    for arm in (lock_step, stepped) * 3:
        seconds(llm, arm, nothing)
    print(f"\n{options.episodes} episodes of {TURNS} turns of {TOKENS} tokens; seconds")
    row("tools", "serial tools", "lock-step", "stepper", "x vs serial", "x vs lock-step")
    arms = {"none": lambda chance: 0.0, "uniform": uniform, "heavy-tailed": heavy_tailed}
    for name, tool in arms.items():
        took: dict[str, list[float]] = {"serial": [], "lock": [], "stepper": []}
        for seed in range(options.seeds):
            chance = random.Random(seed)
            waits = [[tool(chance) for _ in range(TURNS)] for _ in range(options.episodes)]
            took["stepper"].append(seconds(llm, stepped, waits))
            took["lock"].append(seconds(llm, lock_step, waits))
            # Once is enough: it is a sum, and hardly varies.
            if seed == 0 and not options.skip_serial:
                took["serial"].append(seconds(llm, serial_tools, waits))
        ours, lock = mean(took["stepper"]), mean(took["lock"])
        serial = mean(took["serial"]) if took["serial"] else None
        row(
            name,
            "-" if serial is None else f"{serial:.2f}",
            f"{lock:.2f}",
            f"{ours:.2f}",
            "-" if serial is None else f"{serial / took['stepper'][0]:.1f}",
            f"{lock / ours:.2f}",
        )


if __name__ == "__main__":
    main()
