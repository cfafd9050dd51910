"""Parity cases through NeMo RL's gym rollout function: the batch it makes, and its advantages.

The actor runs in this process, without Ray, behind a handle with the calls NeMo RL makes; it speaks
HTTP to a scripted server that joins prefix and template by NeMo RL's own function.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import orjson

from gym_adapters.adapters.capabilities import Adapter
from gym_adapters.adapters.nemo_rl.rollouts import RolloutActor
from gym_adapters.adapters.nemo_rl.rows import nemo_rl_rows
from gym_adapters.adapters.nemo_rl.survivors import use_survivors
from gym_adapters.adapters.parity_case import refusal_of, seen_seeds
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.testing import nemo_rl_checkout
from gym_adapters.testing.nemo_rl_server import NemoChatServer
from gym_adapters.testing.parity import (
    ParityCase,
    ParityDriver,
    Received,
    ReceivedRollout,
    Room,
    Sample,
)

__all__ = ["driver"]

_TENSORS = ("token_ids", "token_loss_mask", "generation_logprobs")


def driver() -> ParityDriver:
    """The driver of NeMo RL's exact path."""
    return _NemoRlDriver()


class _NemoRlDriver:
    trainer = "nemo-rl"

    def unavailable(self) -> str | None:
        if find_spec("nemo_rl") is not None:
            return None
        problem = nemo_rl_checkout.install()
        if problem is not None:
            return f"give {nemo_rl_checkout.VARIABLE}: {problem}"
        return None

    def refusal(self, case: ParityCase) -> str | None:
        return refusal_of(Adapter.NEMO_RL, case)

    def drive(self, case: ParityCase, room: Room) -> Received:
        rows = [orjson.dumps(row) for row in nemo_rl_rows(case.environment, case.tasks)]
        with seen_seeds() as seeds, _actor(case, room) as handle:
            result = _rolled_out(case, room, rows, handle)
        samples = _samples(result.final_batch["message_log"])
        advantages = _advantages(result)
        rollouts = {}
        for row, attempt in enumerate(case.attempts):
            told = handle.results[row]["full_result"]
            untrained = bool(result.final_batch["mask_sample"][row])
            rollouts[attempt] = ReceivedRollout(
                samples=[] if untrained else [samples[row]],
                reward=None if untrained else float(result.final_batch["total_reward"][row]),
                components=_components(told),
                stop_reason=told["stop_reason"],
                failure=told["failure"] and told["failure"]["boundary"],
                advantage=None if untrained else advantages[row],
            )
        return Received(rollouts, seeds.of(case))


class _Handle:
    """The calls of a Ray actor's handle that NeMo RL makes, answered in this process."""

    def __init__(self, actor: RolloutActor) -> None:
        self._actor = actor
        self.results: dict[int, dict[str, Any]] = {}

    @property
    def run_rollouts(self) -> _Handle:
        return self

    def options(self, *, num_returns: str) -> _Handle:
        if num_returns != "streaming":
            raise NotImplementedError(f"num_returns={num_returns!r}")
        return self

    async def remote(self, *arguments: Any) -> AsyncIterator[Awaitable[Any]]:
        async for each in self._actor.run_rollouts(*_across(arguments)):
            row, result, _ = each
            self.results[row] = result
            yield asyncio.sleep(0, _across(each))


def _across(value: Any) -> Any:
    """`value` as it is on the other side of Ray."""
    return pickle.loads(pickle.dumps(value))


@contextmanager
def _actor(case: ParityCase, room: Room) -> Iterator[_Handle]:
    generator = case.generator(lambda name: case.attempt(int(name.rpartition("-")[2])))

    def say(prompt_ids: Sequence[int], name: str) -> Sequence[int]:
        turn = generator.generate(prompt_ids, SamplingParams(), request_id=name)
        return asyncio.run(turn).token_ids

    tokenizer = case.tokenizer()
    utils = nemo_rl_checkout.quietly("nemo_rl.models.generation.openai_server_utils")
    with NemoChatServer(tokenizer, say, utils.replace_prefix_tokens) as server:
        actor = RolloutActor(server.url, "policy", {"max_context": room.total})
        actor.set_tokenizer(tokenizer)
        try:
            yield _Handle(actor)
        finally:
            actor.shutdown()


@dataclass(frozen=True)
class _Generation:
    """What the gym rollout function asks NeMo RL's generation: its settings alone."""

    cfg: Mapping[str, Any]


def _rolled_out(case: ParityCase, room: Room, rows: Sequence[bytes], handle: _Handle) -> Any:
    """NeMo RL's own result, from rows as its dataset has them."""
    quietly = nemo_rl_checkout.quietly
    process = quietly("nemo_rl.data.processors").nemo_gym_data_processor
    data = [
        process({"extra_env_info": row.decode(), "task_name": "train"}, None, None, None, place)
        for place, row in enumerate(rows)
    ]
    collate = quietly("nemo_rl.data.collate_fn").rl_collate_fn
    generation = _Generation(
        {
            "backend": "vllm",
            "vllm_cfg": {"async_engine": True, "max_model_len": room.total},
            "max_new_tokens": room.total,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": None,
            "val_temperature": 1.0,
            "val_top_p": 1.0,
            "stop_strings": None,
            "stop_token_ids": None,
        }
    )
    return quietly("nemo_rl.experience.rollouts").run_nemo_gym_rollout_sync(
        policy_generation=generation,
        input_batch=collate(data).repeat_interleave(case.group_size),
        tokenizer=case.tokenizer(),
        task_to_env={"nemo_gym": handle},
        generation_config=generation.cfg,
        log_full_result_tables=False,
        max_seq_len=room.total,
    )


def _samples(logs: Any) -> list[Sample]:
    """Each message log as NeMo RL builds its training tensors from it."""
    import torch

    grpo = nemo_rl_checkout.quietly("nemo_rl.algorithms.grpo")
    grpo.add_grpo_token_loss_masks_and_generation_logprobs(logs)
    samples = []
    for log in logs:
        ids, mask, logprobs = (torch.cat([m[key] for m in log]).tolist() for key in _TENSORS)
        # Nothing says where the prompt ends, but that nothing in it is trained on.
        read = mask.index(1) if 1 in mask else len(mask)
        samples.append(
            Sample(ids[:read], ids[read:], [int(each) for each in mask[read:]], logprobs[read:])
        )
    return samples


def _advantages(result: Any) -> list[float]:
    """By row, as NeMo RL's GRPO makes them under our launcher."""
    import torch

    grpo = nemo_rl_checkout.quietly("nemo_rl.algorithms.grpo")
    estimators = nemo_rl_checkout.quietly("nemo_rl.algorithms.advantage_estimator")
    use_survivors(grpo, estimators)
    batch = result.final_batch
    grpo._apply_mask_sample_filter(batch)
    estimator = estimators.GRPOAdvantageEstimator(estimators.AdvEstimatorConfig(), None)
    told = estimator.compute_advantage(
        result.input_ids,
        batch["total_reward"],
        torch.ones(len(result.input_ids), 1),
        repeated_batch=batch,
    )
    return [float(value) for value in told[:, 0]]


def _components(told: Mapping[str, Any]) -> dict[str, float]:
    prefix = "component_"
    return {
        name.removeprefix(prefix): value for name, value in told.items() if name.startswith(prefix)
    }
