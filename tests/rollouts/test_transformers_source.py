"""A model of transformers, from its spec to rollouts with tokens."""

from __future__ import annotations

import pytest

from gym_adapters import Environment, Rollout, Task, Transcript
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.rollouts import collect, model_source

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs the extra tokens")


class Anything(Environment[Task]):
    """Takes anything."""

    async def verify(self, transcript: Transcript) -> float:
        return 0.5


TASKS = [
    Task.from_row({"responses_create_params": {"input": f"What is {number} + 1?"}})
    for number in range(3)
]
SAMPLING = SamplingParams(max_tokens=8)


async def collected(spec: str, seed: int) -> list[Rollout]:
    rollouts = collect(Anything, TASKS, spec, num_repeats=2, seed=seed, sampling=SAMPLING)
    return sorted(
        [rollout async for rollout in rollouts],
        key=lambda rollout: (rollout.task_id, rollout.rollout_index),
    )


def sampled(rollouts: list[Rollout]) -> list[list[int]]:
    return [rollout.segments[0].sampled_ids for rollout in rollouts]


async def test_rollouts_have_the_exact_tokens_and_the_seed_decides_them() -> None:
    one = await collected("tiny", seed=1)
    for rollout in one:
        (segment,) = rollout.segments
        assert rollout.outcome.failure is None
        assert 1 <= len(segment.sampled_ids) <= 8
        assert rollout.usage.output_tokens == len(segment.sampled_ids)
        assert rollout.usage.input_tokens == len(segment.prompt_ids)
        assert len(segment.logprobs) == len(segment.mask) == len(segment.completion_ids)
    assert len({tuple(ids) for ids in sampled(one)}) > 3
    assert sampled(await collected("tiny", seed=1)) == sampled(one)
    assert sampled(await collected("tiny", seed=2)) != sampled(one)


async def test_a_saved_model_is_named_by_its_folder_and_tells_its_template() -> None:
    from gym_adapters.testing.tiny_model import tiny_policy

    folder = str(tiny_policy(seed=0).model_path)
    source = model_source(f"transformers:{folder}", seed=3)
    assert source.template_hash is None
    async with source:
        template = source.template_hash
        assert template
        assert source.for_rollout(Anything, TASKS[0]).name == f"transformers:{folder}"
    async with model_source("tiny") as tiny:
        assert tiny.template_hash == template
