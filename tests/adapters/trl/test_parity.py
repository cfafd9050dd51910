"""Our loop and TRL's own, on the same environment: the same tokens, masks and rewards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from gym_adapters import Reward, Task, Transcript, load_environment
from gym_adapters.adapters.trl import trl_spec
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.items import item_text
from gym_adapters.testing.tiny_model import TinyPolicy

ArithmeticTools = load_environment("arithmetic_tools").environment


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives rewards that vary, whatever the policy can do."""

    name = "graded"

    async def verify(self, transcript: Transcript) -> Reward:
        texts = [call.arguments.replace(" ", "") for call in transcript.tool_calls]
        texts += [item_text(i) for i in transcript.output if i["type"] == "message"]
        return Reward(sum(map(ord, "".join(texts))) % 7 / 6)


class Lockstep:
    """TRL's own batched generation as a `TokenGenerator`: calls wait until all are there."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._waiting: dict[int, tuple[list[int], asyncio.Future[list[int]]]] = {}

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: object = None,
    ) -> Generation:
        row = int(request_id.rpartition("-")[2])
        sampled: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting[row] = (list(prompt_ids), sampled)
        # Rounds of the loop, not seconds: nothing here waits for anything but this generator.
        for _ in range(200):
            await asyncio.sleep(0)
        if not sampled.done():
            batch = [self._waiting[row] for row in sorted(self._waiting)]
            self._waiting = {}
            ids, _ = self._trainer._generate_single_turn([p for p, _ in batch], None, {}, 1)
            for (_, waiting), found in zip(batch, ids, strict=True):
                waiting.set_result(found)
        ids = (await sampled)[: sampling.max_tokens]
        return Generation(ids, [0.0] * len(ids))


CALL = (
    r'<tool_call>\n\{"name": "calculate", "arguments": \{"expression": "[^"\\]*"\}\}\n</tool_call>'
)
ANSWER = r"[^<>{}]{1,20}"


def speak_well(trainer: Any, tokenizer: Any) -> None:
    """Have `trainer` sample one call, or none, and then an answer: a number where it is else.

    At a malformed call TRL ends a rollout, and we tell the model. How often a policy writes such
    is its luck, and not what is compared here.
    """
    sampled = trainer._generate_single_turn
    end = re.escape("<|im_end|>")

    def spoken(prompts: list[list[int]], *arguments: Any, **named: Any) -> Any:
        turns, logprobs = sampled(prompts, *arguments, **named)
        assert logprobs is None
        told = []
        for prompt, ids in zip(prompts, turns, strict=True):
            called = "<tool_response>" in tokenizer.decode(prompt)
            said = ANSWER if called else f"({CALL}|{ANSWER})"
            well = re.fullmatch(said + end, tokenizer.decode(ids)) is not None
            told.append(ids if well else tokenizer.encode(f"{sum(ids) % 97}<|im_end|>"))
        return told, logprobs

    trainer._generate_single_turn = spoken


def test_both_loops_give_the_same_training_batches_and_reward_curve(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], record: Any
) -> None:
    import torch

    @contextmanager
    def lockstep(trainer: Any) -> Iterator[Lockstep]:
        yield Lockstep(trainer)

    ours = trl_spec(Graded, tasks=sums, generator=lockstep)
    theirs = trl_spec(Graded, tasks=sums, way="environment_factory")
    curves, batches = [], []
    for spec in (ours, theirs):
        trainer = make_trainer(policy, spec.trainer_arguments(), max_steps=5)
        speak_well(trainer, policy.tokenizer)
        recorder = record(trainer)
        trainer.train()
        curves.append([e["reward"] for e in trainer.state.log_history if "reward" in e])
        batches.append([recorder.rows(step) for step in range(5)])
        advantages = torch.cat([batch["advantages"] for batch in recorder.batches])
        curves.append(advantages.tolist())
    assert batches[0] == batches[1]
    assert curves[0] == pytest.approx(curves[2], abs=1e-6)
    assert curves[1] == pytest.approx(curves[3], abs=1e-5)
    assert any(curves[1])
    assert any(0 in mask for step in batches[0] for *_, mask in step)
