"""How long a batch of rollouts takes on one vLLM engine, by how rollouts share it.

    python benchmarks/stepper.py [--episodes 64] [--seeds 2] [--only trl|engine]

Part one is two real GRPOTrainers that share one colocated vLLM: TRL's own loop over an
``environment_factory``, written as TRL's documentation has it, and our ``rollout_function``. Timed
is the trainer's own method that makes a batch, tool calls and scoring included. Episodes have three
turns: the model's two calls of a tool that waits, and an answer. The engine computes every token
with the model, then a logits processor makes the turn say what the script says, so that both do the
same work; the batches that come out are compared token by token.

Part two leaves trainers out: the same engine sampled in lock-step (the whole batch samples a turn,
then all tools run at once) and stepped (every episode goes its own way).

Tools take nothing; 0 to 2 s, uniformly; or mostly under 0.2 s and sometimes 2 (heavy-tailed). With
heavy-tailed turns too, most episodes have few turns and most turns few tokens, and some have many.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import mean
from typing import Any, NamedTuple

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
import trl.generation.vllm_generation
import trl.trainer.grpo_trainer
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from vllm import LLM
from vllm.sampling_params import SamplingParams as VLLMParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from gym_adapters import Environment, Task, Transcript, tool
from gym_adapters.adapters.trl import trl_spec
from gym_adapters.generation.engine_stepper import EngineStepper
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.vllm_cpu import keep_loadable_weights
from gym_adapters.testing import TinyPolicy, tiny_policy

LONGEST = 2.0
TURNS = 3
RESULT = "You have waited long enough, so it seems."
CALL = 'I shall wait.\n<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call><|im_end|>'
ANSWER = "I have waited twice, and now I am done with it.<|im_end|>"
CONTEXT = 1024

Waits = list[list[float]]
"""Seconds of each tool call, by episode and turn."""


def no_wait(chance: random.Random) -> float:
    return 0.0


def uniform(chance: random.Random) -> float:
    return chance.uniform(0.0, LONGEST)


def heavy_tailed(chance: random.Random) -> float:
    return min(LONGEST, 0.05 * chance.paretovariate(1.1))


TOOLS: dict[str, Callable[[random.Random], float]] = {
    "none": no_wait,
    "uniform": uniform,
    "heavy-tailed": heavy_tailed,
}


def waits_of(tool_seconds: Callable[[random.Random], float], episodes: int, seed: int) -> Waits:
    chance = random.Random(seed)
    return [[tool_seconds(chance) for _ in range(TURNS - 1)] for _ in range(episodes)]


class Script(LogitsProcessor):  # type: ignore[misc]
    """Makes a turn of a conversation say `CALL`, and after two tool results `ANSWER`.

    Prompts that are no chat are left alone.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        tokenizer = tiny_policy().tokenizer
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        self._call, self._answer = encode(CALL), encode(ANSWER)
        (self._opens,) = encode("<|im_start|>")
        (self._result,) = encode("<tool_response>")
        self._rows: dict[int, tuple[list[int], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        rows = self._rows
        for index in batch_update.removed:
            rows.pop(index, None)
        for index, _, prompt, output in batch_update.added:
            rows.pop(index, None)
            if prompt and prompt[0] == self._opens:
                answers = prompt.count(self._result) >= TURNS - 1
                rows[index] = (self._answer if answers else self._call, output)
        for one, other, direction in batch_update.moved:
            moved, replaced = rows.pop(one, None), rows.pop(other, None)
            if moved is not None:
                rows[other] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                rows[one] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for index, (script, output) in self._rows.items():
            said = script[len(output)]
            logits[index] = float("-inf")
            logits[index, said] = 0.0
        return logits


class WaitTask(Task):
    """A row of ours."""

    waits: list[float]


class Waiting(Environment[WaitTask]):
    """Our environment: a tool that waits."""

    async def start(self) -> None:
        self.left = iter(self.task.waits)

    @tool
    async def wait(self) -> str:
        """Wait for a moment."""
        await asyncio.sleep(next(self.left))
        return RESULT

    async def verify(self, transcript: Transcript) -> float:
        return 1.0


class WaitingForTrl:
    """The same environment as TRL's documentation would have one write it."""

    def reset(self, **row: Any) -> None:
        self.left = iter(row["waits"])

    def wait(self) -> str:
        """Wait for a moment."""
        time.sleep(next(self.left))
        return RESULT

    def get_reward(self) -> float:
        return 1.0


class Trainers(NamedTuple):
    """Two trainers over one engine."""

    theirs: Any
    ours: Any

    @property
    def llm(self) -> Any:
        return self.theirs.vllm_generation.llm


def share_one_engine() -> None:
    """Have every GRPOTrainer of this process use the engine that the first one starts."""
    keep_loadable_weights()
    trl.generation.vllm_generation.LLM = functools.partial(
        LLM,
        dtype="float32",
        enforce_eager=True,
        kv_cache_memory_bytes=2**28,
        logits_processors=[Script],
    )
    started = trl.trainer.grpo_trainer.VLLMGeneration
    engines: list[Any] = []

    def once(**options: Any) -> Any:
        if not engines:
            engines.append(started(**options))
        return engines[0]

    trl.trainer.grpo_trainer.VLLMGeneration = once


def trainer_of(policy: TinyPolicy, folder: str, episodes: int, **arguments: Any) -> Any:
    return GRPOTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        args=GRPOConfig(
            output_dir=folder,
            max_steps=1,
            per_device_train_batch_size=episodes,
            num_generations=2,
            max_completion_length=CONTEXT // 2,
            use_vllm=True,
            vllm_mode="colocate",
            vllm_gpu_memory_utilization=0.1,
            vllm_max_model_length=CONTEXT,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        **arguments,
    )


def prompt_of(episode: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Wait twice, please. This is episode {episode}."}]


def task_of(episode: int, waits: Sequence[float]) -> WaitTask:
    params = {"input": prompt_of(episode)}
    return WaitTask.from_row({"responses_create_params": params, "waits": list(waits)})


def their_rows(waits: Waits) -> list[dict[str, Any]]:
    return [{"prompt": prompt_of(n), "waits": list(each)} for n, each in enumerate(waits)]


def our_rows(waits: Waits) -> list[dict[str, Any]]:
    tasks = [task_of(n, each) for n, each in enumerate(waits)]
    return list(trl_spec(Waiting, tasks=tasks).train_dataset)


def make_trainers(policy: TinyPolicy, folder: str, episodes: int) -> Trainers:
    share_one_engine()
    nothing = waits_of(no_wait, episodes, 0)
    theirs = trainer_of(
        policy,
        folder,
        episodes,
        train_dataset=Dataset.from_list(their_rows(nothing)),
        environment_factory=WaitingForTrl,
        reward_funcs=[],
    )
    tasks = [task_of(n, each) for n, each in enumerate(nothing)]
    spec = trl_spec(Waiting, tasks=tasks)
    return Trainers(theirs, trainer_of(policy, folder, episodes, **spec.trainer_arguments()))


def batch_seconds(trainer: Any, rows: list[dict[str, Any]]) -> tuple[float, list[Any]]:
    """Seconds of one batch, and its rows: prompt ids, completion ids and mask."""
    trainer.vllm_generation.llm.reset_prefix_cache()
    began = time.perf_counter()
    batch = trainer._generate_and_score_completions(rows)
    took = time.perf_counter() - began
    names = ("prompt_mask", "prompt_ids", "completion_mask", "completion_ids", "tool_mask")
    made = []
    for prompt_mask, prompt, keep, completion, mask in zip(*(batch[n] for n in names), strict=True):
        seen, kept = prompt_mask.bool(), keep.bool()
        made.append([prompt[seen].tolist(), completion[kept].tolist(), mask[kept].tolist()])
    return took, made


def check_same_work(theirs: list[Any], ours: list[Any], episodes: int) -> None:
    """Both batches must be the same, and have all the turns there were to have."""
    if theirs != ours or len(ours) != episodes:
        raise SystemExit("The two loops did not make the same batch.")
    encoded = tiny_policy().tokenizer.encode
    sampled = (TURNS - 1) * len(encoded(CALL)) + len(encoded(ANSWER))
    if any(sum(mask) != sampled for *_, mask in ours):
        raise SystemExit(f"Not every episode had its {TURNS} turns.")


def compare_trainers(trainers: Trainers, episodes: int, seeds: int) -> None:
    nothing = waits_of(no_wait, episodes, 0)
    for _ in range(2):
        batch_seconds(trainers.theirs, their_rows(nothing))
        batch_seconds(trainers.ours, our_rows(nothing))
    print(f"\nGRPOTrainer: {episodes} episodes of {TURNS} turns; seconds of a batch")
    row("tools", "TRL's loop", "ours", "times faster", "tools' sum", "longest episode")
    for name, tool_seconds in TOOLS.items():
        for seed in range(1 if name == "none" else seeds):
            waits = waits_of(tool_seconds, episodes, seed)
            ours, our_batch = batch_seconds(trainers.ours, our_rows(waits))
            theirs, their_batch = batch_seconds(trainers.theirs, their_rows(waits))
            check_same_work(their_batch, our_batch, episodes)
            sums = [sum(each) for each in waits]
            row(name, theirs, ours, theirs / ours, sum(sums), max(sums))


class Plan(NamedTuple):
    """One episode of part two: tokens of each turn, and seconds of the tool after it."""

    tokens: list[int]
    waits: list[float]


def uniform_plan(tool_seconds: Callable[[random.Random], float], chance: random.Random) -> Plan:
    return Plan([48] * TURNS, [tool_seconds(chance) for _ in range(TURNS - 1)])


def heavy_plan(tool_seconds: Callable[[random.Random], float], chance: random.Random) -> Plan:
    turns = min(10, int(2 * chance.paretovariate(1.1)))
    tokens = [min(160, int(16 * chance.paretovariate(1.1))) for _ in range(turns)]
    return Plan(tokens, [tool_seconds(chance) for _ in range(turns - 1)])


def context_of(episode: int) -> list[int]:
    return [66 + episode % 100] * (8 + episode % 8)


def lock_step(llm: Any, plans: Sequence[Plan]) -> None:
    contexts = [context_of(episode) for episode in range(len(plans))]
    for turn in range(max(len(plan.tokens) for plan in plans)):
        going = [n for n, plan in enumerate(plans) if turn < len(plan.tokens)]
        how = [
            VLLMParams(
                max_tokens=plans[n].tokens[turn], ignore_eos=True, logprobs=0, detokenize=False
            )
            for n in going
        ]
        prompts = [{"prompt_token_ids": contexts[n]} for n in going]
        for n, output in zip(going, llm.generate(prompts, how, use_tqdm=False), strict=True):
            contexts[n].extend([*output.outputs[0].token_ids, *[65] * 8])
        time.sleep(max(next(iter(plans[n].waits[turn:]), 0.0) for n in going))


def stepped(llm: Any, plans: Sequence[Plan]) -> None:
    stepper = EngineStepper(llm)

    async def episode(number: int, plan: Plan) -> None:
        context = context_of(number)
        for turn, tokens in enumerate(plan.tokens):
            how = SamplingParams(max_tokens=tokens, extras={"ignore_eos": True})
            generation = await stepper.generate(context, how, request_id=f"episode-{number}")
            context.extend([*generation.token_ids, *[65] * 8])
            if turn < len(plan.waits):
                await asyncio.sleep(plan.waits[turn])

    async def everything() -> None:
        await asyncio.gather(*(episode(number, plan) for number, plan in enumerate(plans)))

    with stepper.session():
        asyncio.run(everything())


def seconds(llm: Any, arm: Callable[[Any, Sequence[Plan]], None], plans: Sequence[Plan]) -> float:
    llm.reset_prefix_cache()
    began = time.perf_counter()
    arm(llm, plans)
    return time.perf_counter() - began


def engine_cases() -> Iterator[tuple[str, Callable[[random.Random], Plan]]]:
    for name, tool_seconds in TOOLS.items():
        yield name, functools.partial(uniform_plan, tool_seconds)
    yield "heavy, turns too", functools.partial(heavy_plan, heavy_tailed)


def compare_stepping(llm: Any, episodes: int, seeds: int) -> None:
    warm = [uniform_plan(no_wait, random.Random(0)) for _ in range(episodes)]
    for arm in (lock_step, stepped) * 2:
        seconds(llm, arm, warm)
    print(f"\nengine alone: {episodes} episodes; mean seconds of a batch")
    row("tools", "lock-step", "stepped", "times faster")
    for name, plan in engine_cases():
        took: dict[str, list[float]] = {"lock": [], "ours": []}
        for seed in range(seeds):
            chance = random.Random(seed)
            plans = [plan(chance) for _ in range(episodes)]
            took["ours"].append(seconds(llm, stepped, plans))
            took["lock"].append(seconds(llm, lock_step, plans))
        lock, ours = mean(took["lock"]), mean(took["ours"])
        row(name, lock, ours, lock / ours)


def row(*cells: object) -> None:
    shown = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print(f"{shown[0]:<18}", *(f"{cell:>15}" for cell in shown[1:]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=["trl", "engine"], help="the first takes minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainers = make_trainers(tiny_policy(), folder, options.episodes)
        if options.only != "engine":
            compare_trainers(trainers, options.episodes, options.seeds)
        if options.only != "trl":
            compare_stepping(trainers.llm, options.episodes, options.seeds)


if __name__ == "__main__":
    main()
