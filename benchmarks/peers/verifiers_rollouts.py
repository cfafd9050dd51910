"""Single turns through verifiers before 1.0's rewrite, for benchmarks/collection.py.

The last releases that run a rollout in the process that asks for it (``verifiers<0.2``). Prints CPU
seconds and the seconds of each rollout.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import verifiers as vf
from datasets import Dataset
from openai import AsyncOpenAI
from verifiers.clients import OpenAIChatCompletionsClient


def rows(count: int) -> Dataset:
    questions = [f"What is 1 + 2? ({number})" for number in range(count)]
    return Dataset.from_list([{"question": each, "answer": "3"} for each in questions])


async def right(completion: Any, answer: str, **_: Any) -> float:
    return float(answer in completion[-1]["content"])


async def main(url: str, count: int, concurrency: int) -> None:
    client = OpenAIChatCompletionsClient(AsyncOpenAI(base_url=url, api_key="none"))
    spent = wall = 0.0
    for number in (concurrency, count):
        environment = vf.SingleTurnEnv(dataset=rows(number), rubric=vf.Rubric(funcs=[right]))
        began, wall_began = time.process_time(), time.perf_counter()
        await environment.evaluate(
            client, "m", num_examples=number, rollouts_per_example=1, max_concurrent=concurrency
        )
        spent = time.process_time() - began
        wall = time.perf_counter() - wall_began
    print(json.dumps([spent, [wall / count * concurrency] * count]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
