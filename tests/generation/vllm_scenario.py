"""Run by test_vllm_engines.py in a process of its own: vLLM changes the process it lives in.

One synchronous engine and one asynchronous engine sample the same tiny model, the latter also over
HTTP. What they did is written as JSON to the file named on the command line.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_SERVER_DEV_MODE"] = "1"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

from gym_adapters import Environment, ModelError, Reward, Task
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.episode import Episode
from gym_adapters.generation.engine_stepper import EngineStepper
from gym_adapters.generation.protocol import Generation, SamplingParams, TokenGenerator
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.generation.vllm_cpu import keep_loadable_weights
from gym_adapters.generation.vllm_engine import VLLMGenerator
from gym_adapters.generation.vllm_http import VLLMHttpGenerator
from gym_adapters.generation.vllm_launch import is_cpu
from gym_adapters.testing.tiny_model import TinyPolicy, tiny_policy
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer

PROMPTS = [[65, 66, 67], [70] * 11, [80, 81], [90, 30, 31, 32, 33, 34, 35] * 12]
GREEDY = SamplingParams(max_tokens=16, temperature=0.0)
WARM = SamplingParams(max_tokens=24, temperature=0.7, seed=7)
CONSTRAINED = SamplingParams(max_tokens=20, extras={"regex": "[0-9]{5}"})
CHOICES: list[dict[str, Any]] = [
    {"json_schema": {"enum": ["left", "right"]}},
    {"grammar": 'root ::= "yes" | "no"'},
]
CONTEXT = 512
EPISODES = 200


class Chatter(Environment[Task]):
    """Three turns of talk, with pauses in between."""

    async def start(self) -> None:
        self.turns = 0

    async def reply(self, message: str) -> str | None:
        self.turns += 1
        await asyncio.sleep(self.rng.random() * 0.05)
        return "go on" if self.turns < 3 else None

    async def verify(self, transcript: Any) -> Reward | float:
        return float(self.turns == 3)


def task_of(index: int) -> Task:
    return Task.from_row({"responses_create_params": {"input": f"say {index}"}})


class Reference:
    """What transformers says of the same weights."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def logprobs(self, prompt: Sequence[int], ids: Sequence[int], heat: float) -> list[float]:
        import torch

        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([[*prompt, *ids]])).logits
        scored = torch.log_softmax(logits[0, len(prompt) - 1 : -1].float() / heat, dim=-1)
        return [float(scored[i, token]) for i, token in enumerate(ids)]

    def gap(self, prompt: Sequence[int], turn: Generation, heat: float = 1.0) -> float:
        """Largest difference in log-probability."""
        expected = self.logprobs(prompt, turn.token_ids, heat)
        return max(abs(a - b) for a, b in zip(expected, turn.logprobs, strict=True))

    def greedy(self, prompt: Sequence[int], length: int) -> list[int]:
        import torch

        ids = list(prompt)
        for _ in range(length):
            with torch.no_grad():
                ids.append(int(self.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]


async def turns(generator: TokenGenerator, how: SamplingParams, name: str) -> list[Generation]:
    return await asyncio.gather(
        *(
            generator.generate(prompt, how, request_id=f"{name}-{index}")
            for index, prompt in enumerate(PROMPTS)
        )
    )


async def samples(
    generator: TokenGenerator, reference: Reference, tokenizer: Any
) -> dict[str, Any]:
    """The same questions for every way to reach an engine."""
    greedy = await turns(generator, GREEDY, "greedy")
    warm = await turns(generator, WARM, "warm")
    constrained = await generator.generate([65, 66], CONSTRAINED, request_id="digits")
    chosen = await asyncio.gather(
        *(
            generator.generate([66, 65], SamplingParams(extras=extras), request_id="chosen")
            for extras in CHOICES
        )
    )
    # What the third greedy token says, as a stop string.
    said = tokenizer.decode(greedy[0].token_ids[2:3])
    stopping = SamplingParams(max_tokens=16, temperature=0.0, stop=(said,))
    stopped = await generator.generate(PROMPTS[0], stopping, request_id="stops")
    return {
        "stopped": [stopped.finish_reason, list(stopped.token_ids)],
        "greedy": [list(each.token_ids) for each in greedy],
        "greedy_gap": max(map(reference.gap, PROMPTS, greedy)),
        "warm_gap": max(
            reference.gap(prompt, turn, 0.7) for prompt, turn in zip(PROMPTS, warm, strict=True)
        ),
        "versions": sorted({str(each.weights_version) for each in greedy}),
        "finish": sorted({str(each.finish_reason) for each in greedy}),
        "chosen": [tokenizer.decode(each.token_ids, skip_special_tokens=True) for each in chosen],
        "constrained_ids": list(constrained.token_ids),
        "constrained_gap": reference.gap([65, 66], constrained),
        "constrained_by": [
            drawn - own
            for drawn, own in zip(
                constrained.extras["constrained_logprobs"], constrained.logprobs, strict=True
            )
        ],
        "too_long": await problem(generator, [1] * (CONTEXT + 10)),
    }


async def problem(generator: TokenGenerator, prompt: Sequence[int]) -> str:
    try:
        await generator.generate(prompt, GREEDY, request_id="bad")
    except ModelError as error:
        return type(error).__name__
    return "none"


async def episodes(generator: TokenGenerator, policy: TinyPolicy, context: int) -> dict[str, int]:
    """Many rollouts at once, some cancelled at random moments."""
    model = TokenChatModel(
        generator,
        TemplateRenderer(policy.tokenizer),
        output_parser(policy.tokenizer),
        name="tiny",
        max_context=context,
    )
    moments = random.Random(5)

    # Noise must end its turns too: a third of all tokens does.
    sampling = SamplingParams(max_tokens=60, stop_token_ids=tuple(range(0, 240, 3)))

    async def rollout(index: int) -> int:
        episode = Episode(Chatter, task_of(index), seed=1, rollout_index=index)
        result = await ToolAgent().run(episode, model, sampling=sampling, request_id=f"e{index}")
        if result.outcome.failure is not None:
            raise AssertionError(result.outcome.failure.message)
        return result.usage.turns

    tasks = [asyncio.create_task(rollout(index)) for index in range(EPISODES)]
    for task in moments.sample(tasks, EPISODES // 3):
        asyncio.get_running_loop().call_later(moments.random() * 0.8, task.cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [each for each in results if isinstance(each, Exception)]
    if failed:
        raise failed[0]
    return {
        "cancelled": sum(isinstance(each, asyncio.CancelledError) for each in results),
        "three_turns": sum(each == 3 for each in results),
    }


def shaken(model: Any) -> dict[str, Any]:
    """Other weights: every tensor changed, embeddings and output layer included."""
    import torch

    noise = torch.Generator().manual_seed(3)
    return {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=noise) * tensor.std()
        for name, tensor in model.state_dict().items()
    }


def stepped_here(stepper: EngineStepper, policy: TinyPolicy) -> dict[str, int]:
    return asyncio.run(episodes(stepper, policy, CONTEXT))


def synchronous(policy: TinyPolicy) -> dict[str, Any]:
    from vllm import LLM

    keep_loadable_weights()
    llm = LLM(
        str(policy.model_path),
        dtype="float32",
        enforce_eager=True,
        max_model_len=CONTEXT,
        max_num_batched_tokens=CONTEXT,
        kv_cache_memory_bytes=2**28,
        logprobs_mode="processed_logprobs",
    )
    model = policy.load_model()
    reference = Reference(model)
    version = [4]
    stepper = EngineStepper(llm, weights_version=lambda: version[0])
    found: dict[str, Any] = {}
    found["reference"] = [reference.greedy(prompt, 16) for prompt in PROMPTS]
    with stepper.session():
        found.update(asyncio.run(samples(stepper, reference, policy.tokenizer)))
    # The other way to step: in this thread, with the rollouts in another.
    with ThreadPoolExecutor() as threads:
        found["episodes"] = stepper.drive(lambda: threads.submit(stepped_here, stepper, policy))
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    found["left"] = [
        stepper.running,
        llm.llm_engine.get_num_unfinished_requests(),
        len(scheduler.requests),
        len(scheduler.running),
        len(scheduler.waiting),
    ]
    # The owner's turn: new weights, as trainers load them.
    changed = shaken(model)
    runner = llm.llm_engine.model_executor.driver_worker.model_runner
    runner.model.load_weights(changed.items())
    llm.reset_prefix_cache()
    model.load_state_dict(changed)
    version[0] = 5
    with stepper.session():
        later = asyncio.run(turns(stepper, GREEDY, "later"))
    found["updated"] = [list(each.token_ids) for each in later]
    found["updated_reference"] = [reference.greedy(prompt, 16) for prompt in PROMPTS]
    found["updated_versions"] = sorted({str(each.weights_version) for each in later})
    return found


@asynccontextmanager
async def served(engine: Any, policy: TinyPolicy) -> AsyncIterator[str]:
    """vLLM's own HTTP application over a running engine."""
    import uvicorn
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args(["--model", str(policy.model_path), "--enable-scale-out"])
    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def asynchronous(policy: TinyPolicy) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with await VLLMGenerator.start(
        policy.model_path,
        max_model_len=CONTEXT,
        max_num_batched_tokens=CONTEXT,
        kv_cache_memory_bytes=2**28,
    ) as generator:
        engine = generator.engine
        reference = Reference(policy.load_model())
        found["engine"] = await samples(generator, reference, policy.tokenizer)
        async with served(engine, policy) as url:
            for route in ("completions", "generate"):
                async with VLLMHttpGenerator(url, route=route, weights_version="w") as remote:
                    found[route] = await samples(remote, reference, policy.tokenizer)
                    found[route]["max_context"] = await remote.max_context()
            async with VLLMHttpGenerator(url) as remote:
                await cancelled(remote)
                found["left_after_http_cancel"] = await drained(engine)
                # Left out, a server would take 16 for the budget.
                turn = await remote.generate([65], SamplingParams(), request_id="open")
                found["without_budget"] = [turn.finish_reason, len(turn.token_ids)]
        found["episodes"] = await episodes(generator, policy, CONTEXT)
        found["left"] = [
            generator.running,
            await drained(engine),
            not await engine.reset_prefix_cache(),
        ]
        found["update"] = await updated(generator, reference)
    return found


async def cancelled(generator: TokenGenerator) -> None:
    long = SamplingParams(max_tokens=400, extras={"ignore_eos": True})
    tasks = [
        asyncio.create_task(generator.generate([66 + n], long, request_id=f"c{n}"))
        for n in range(8)
    ]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def drained(engine: Any) -> int:
    """Requests in the engine, once aborts that are on their way have arrived."""
    for _ in range(1200):
        left = int(engine.get_num_unfinished_requests())
        if not left:
            return 0
        await asyncio.sleep(0.05)
    return left


async def fly(generator: VLLMGenerator) -> Generation:
    long = SamplingParams(max_tokens=450, extras={"ignore_eos": True})
    return await generator.generate([65], long, request_id="flying")


async def updated(generator: VLLMGenerator, reference: Reference) -> dict[str, Any]:
    before = [list(each.token_ids) for each in await turns(generator, GREEDY, "before")]
    changed = shaken(reference.model)
    flights: list[asyncio.Task[Generation]] = []
    pause = generator.engine.pause_generation

    async def pause_in_flight(**how: Any) -> None:
        """Begin a turn, and pause before it ends: a busy machine may need several turns for it."""
        while not flights or flights[-1].done():
            flights.append(asyncio.create_task(fly(generator)))
            while not generator.running and not flights[-1].done():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
            await pause(**how)
            if flights[-1].done():
                await generator.engine.resume_generation()

    generator.engine.pause_generation = pause_in_flight
    found: dict[str, Any] = {"version": await generator.update_weights(changed)}
    generator.engine.pause_generation = pause
    flown = await flights[-1]
    found["flown"] = [len(flown.token_ids), flown.weights_version]
    reference.model.load_state_dict(changed)
    after = await turns(generator, GREEDY, "after")
    found["before"] = before
    found["after"] = [list(each.token_ids) for each in after]
    found["reference"] = [reference.greedy(prompt, 16) for prompt in PROMPTS]
    found["gap"] = max(map(reference.gap, PROMPTS, after))
    found["versions"] = sorted({str(each.weights_version) for each in after})
    found["refused"] = []
    for wrong in ({"no.such.tensor": changed["lm_head.weight"]}, dict(list(changed.items())[:3])):
        try:
            await generator.update_weights(wrong)
        except Exception as error:
            found["refused"].append(f"{type(error).__name__}: {error}")
    found["version_after_refusal"] = generator.weights_version
    # Back to the checkpoint, from its folder.
    folder = generator.engine.vllm_config.model_config.model
    await generator.update_weights(folder, version="first", in_flight="abort")
    back = await turns(generator, GREEDY, "back")
    found["back"] = [list(each.token_ids) for each in back]
    found["back_versions"] = sorted({str(each.weights_version) for each in back})
    try:
        await generator.sleep()
    except Exception as error:
        found["sleep"] = type(error).__name__
    return found


def main(cache: str, output: str) -> None:
    policy = tiny_policy(cache_dir=cache)
    found = {
        "is_cpu": is_cpu(),
        "synchronous": synchronous(policy),
        "asynchronous": asyncio.run(asynchronous(policy)),
    }
    Path(output).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
