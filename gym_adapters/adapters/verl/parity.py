"""Parity cases through verl's V1 worker: what it puts into TransferQueue, and its advantages.

The worker runs in this process, without Ray: what reaches the queue is kept in place of sending it.
Only the servers behind verl's client are scripted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any
from unittest import mock

import orjson

from gym_adapters.adapters.capabilities import Adapter
from gym_adapters.adapters.parity_case import SeenSeeds, refusal_of, seen_seeds
from gym_adapters.adapters.verl.overrides import verl_overrides
from gym_adapters.adapters.verl.rollout_group import RolloutGroup
from gym_adapters.adapters.verl.rows import verl_rows
from gym_adapters.generation.protocol import SamplingParams, TokenGenerator
from gym_adapters.testing import tiny_policy
from gym_adapters.testing.parity import (
    Attempt,
    ParityCase,
    ParityDriver,
    Received,
    ReceivedRollout,
    Room,
    Sample,
)
from gym_adapters.testing.parity.shape_environments import Words

__all__ = ["Queue", "batch_of", "driver"]

FEWEST_SURVIVORS = 2
STEP = 4


def driver() -> ParityDriver:
    """The driver of verl's agent loop."""
    return _VerlDriver()


class _VerlDriver:
    trainer = "verl"

    def unavailable(self) -> str | None:
        for package in ("verl", "transfer_queue"):
            if find_spec(package) is None:
                return f"{package} is not installed: pip install 'gym-adapters[verl]'"
        return None

    def refusal(self, case: ParityCase) -> str | None:
        return refusal_of(Adapter.VERL, case)

    def drive(self, case: ParityCase, room: Room) -> Received:
        rows = verl_rows(case.environment, case.tasks)
        config = _config(case, room)
        with seen_seeds() as seeds, Queue().recording() as queue:
            groups = asyncio.run(_roll_out(case, config, rows, seeds))
        advantages = _advantages(config, queue.rows)
        rollouts = {
            attempt: _received(attempt, queue, groups[attempt.task], advantages)
            for attempt in case.attempts
        }
        fewest = FEWEST_SURVIVORS if case.group_size > 1 else 1
        return Received(rollouts, seeds.of(case), fewest)


@dataclass
class Queue:
    """What was put into TransferQueue.

    Attributes:
        rows: Fields by key, which is prompt, session and place of the sample.
        tags: Tags by key, those of prompts included.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, dict[str, Any]] = field(default_factory=dict)

    def recording(self) -> _Recording:
        """A context in which verl's worker writes here."""
        return _Recording(self)

    async def put(self, key: str, partition_id: str, tag: dict[str, Any], **_: object) -> None:
        """As ``transfer_queue.async_kv_put``."""
        self.tags[key] = tag

    async def put_batch(
        self, keys: Sequence[str], fields: Any, tags: Sequence[dict[str, Any]], partition_id: str
    ) -> None:
        """As ``transfer_queue.async_kv_batch_put``."""
        for place, key in enumerate(keys):
            self.tags[key] = tags[place]
            row = dict(fields[place].items())
            self.rows[key] = {name: getattr(it, "data", it) for name, it in row.items()}
            for name in ("responses", "prompts", "response_mask", "rollout_log_probs", "rm_scores"):
                self.rows[key][name] = row[name]


class _Recording(ExitStack):
    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self._queue = queue

    def __enter__(self) -> Queue:  # type: ignore[override]
        import transfer_queue

        super().__enter__()
        self.enter_context(
            mock.patch.multiple(
                transfer_queue,
                init=lambda *_: None,
                async_kv_put=self._queue.put,
                async_kv_batch_put=self._queue.put_batch,
            )
        )
        return self._queue


class _Servers:
    """verl's ``LLMServerClient`` over a generator. Not a dataclass: hydra would copy it."""

    def __init__(self, generator: TokenGenerator) -> None:
        self._generator = generator

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: Mapping[str, Any]
    ) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        sampling = SamplingParams(
            max_tokens=sampling_params["max_tokens"],
            stop_token_ids=tuple(sampling_params["stop_token_ids"]),
        )
        turn = await self._generator.generate(prompt_ids, sampling, request_id=request_id)
        return TokenOutput(
            token_ids=list(turn.token_ids),
            log_probs=list(turn.logprobs),
            stop_reason="completed",
            extra_fields={"global_steps": 3, "min_global_steps": 3, "max_global_steps": 3},
        )


def _config(case: ParityCase, room: Room) -> Any:
    """The whole configuration of verl, as our overrides make it, with the numbers of `case`.

    The next call changes it: hydra takes a second to compose one.
    """
    from omegaconf import OmegaConf

    config = _composed()
    numbers = {
        "data.train_batch_size": len(case.tasks),
        "data.max_prompt_length": room.prompt,
        "data.max_response_length": room.completion,
        "actor_rollout_ref.rollout.n": case.group_size,
        "actor_rollout_ref.actor.ppo_mini_batch_size": len(case.tasks),
        "actor_rollout_ref.model.custom_chat_template": case.chat_template,
    }
    for key, value in numbers.items():
        OmegaConf.update(config, key, value)
    return config


@cache
def _composed() -> Any:
    from gym_adapters.adapters.verl.launch import check_overrides

    overrides = verl_overrides(
        f"{Words.__module__}:{Words.__qualname__}",
        model=tiny_policy(size="small").model_path,
        train_files="unused.parquet",
    )
    # The worker starts no server: this names the kind whose settings it reads.
    return check_overrides([*overrides, "actor_rollout_ref.rollout.name=vllm"])


async def _roll_out(
    case: ParityCase, config: Any, rows: Sequence[Mapping[str, Any]], seeds: SeenSeeds
) -> list[RolloutGroup]:
    """The groups, one a task."""
    from gym_adapters.adapters.verl.manager import GymAgentLoopWorker

    def attempt_of(name: str) -> Attempt:
        uid, _, session = name.partition("-")
        return Attempt(int(uid.removeprefix("u")), int(session))

    worker = GymAgentLoopWorker(config, _Servers(case.generator(attempt_of)), None, None)
    groups: dict[str, RolloutGroup] = {}
    note = worker._health.note

    def noted(group: RolloutGroup) -> None:
        note(group)
        groups[next(iter(group.rollouts.values())).task_id] = group

    with mock.patch.object(type(worker._health), "note", lambda _, group: noted(group)):
        try:
            await worker.generate_sequences(batch_of(rows, step=STEP))
            await asyncio.gather(*worker.background_tasks)
        finally:
            # The processes of verl keep environments open on their one loop; this one ends here.
            for run in seeds.runs:
                await run.aclose()
    # Ends the run at its next batch, where the first one has shown that it can't go on.
    worker._health.check()
    return [groups[task.task_id] for task in case.tasks]


def batch_of(rows: Sequence[Mapping[str, Any]], *, step: int, validate: bool = False) -> Any:
    """Dataset rows as verl's trainer hands them to its worker, named u0, u1, ..."""
    import numpy as np
    from verl.utils import tensordict_utils

    columns: dict[str, Any] = {
        key: np.array([row[key] for row in rows] + [None], dtype=object)[:-1] for key in rows[0]
    }
    columns["raw_prompt"] = np.array([row["prompt"] for row in rows] + [None], dtype=object)[:-1]
    columns["uid"] = np.array([f"u{number}" for number in range(len(rows))], dtype=object)
    columns["index"] = np.array([row["extra_info"]["index"] for row in rows], dtype=object)
    batch = tensordict_utils.get_tensordict(columns)
    tensordict_utils.assign_non_tensor_data(batch, "global_steps", step)
    tensordict_utils.assign_non_tensor_data(batch, "validate", validate)
    return batch


def _advantages(config: Any, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """By key, as verl's V1 trainer makes them of what is in the queue."""
    if not rows:
        return {}
    import numpy as np
    from torch.nn.utils.rnn import pad_sequence
    from verl import DataProto
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    keys = list(rows)
    tensors = {
        name: pad_sequence([rows[key][source] for key in keys], batch_first=True)
        for name, source in {
            "response_mask": "response_mask",
            "token_level_scores": "rm_scores",
            "token_level_rewards": "rm_scores",
        }.items()
    }
    uids = np.array([key.partition("_")[0] for key in keys], dtype=object)
    data = compute_advantage_for_multi_trajectories(
        DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids}),
        batch_keys=keys,
        adv_estimator=config.algorithm.adv_estimator,
        num_repeat=config.actor_rollout_ref.rollout.n,
        norm_adv_by_std_in_grpo=config.algorithm.norm_adv_by_std_in_grpo,
        config=config.algorithm,
    )
    masks = tensors["response_mask"]
    told = [
        row[int(mask.argmax())] for row, mask in zip(data.batch["advantages"], masks, strict=True)
    ]
    return {key: float(value) for key, value in zip(keys, told, strict=True)}


def _received(
    attempt: Attempt, queue: Queue, group: RolloutGroup, advantages: Mapping[str, float]
) -> ReceivedRollout:
    session = f"u{attempt.task}_{attempt.index}_"
    keys = sorted(key for key in queue.rows if key.startswith(session))
    if not keys:
        failure = group.verdicts[attempt.index].outcome.failure
        return ReceivedRollout(failure=None if failure is None else failure.boundary.value)
    rows = [queue.rows[key] for key in keys]
    told = rows[-1]["extra_fields"]["reward_extra_info"]
    return ReceivedRollout(
        samples=[_sample(row) for row in rows],
        reward=float(rows[-1]["rm_scores"].sum()),
        components=orjson.loads(told["components"]),
        stop_reason=told["stop_reason"],
        advantage=advantages[keys[-1]],
    )


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        prompt_ids=row["prompts"].tolist(),
        completion_ids=row["responses"].tolist(),
        mask=row["response_mask"].tolist(),
        logprobs=row["rollout_log_probs"].tolist(),
    )
