"""Parity cases through a real GRPOTrainer: what reaches its loss.

The trainer makes its dataset, its batch and its advantages itself; only its generation is scripted.
The run is stopped where the loss of the first step would be computed.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from gym_adapters.adapters.capabilities import Adapter
from gym_adapters.adapters.parity_case import refusal_of, seen_seeds
from gym_adapters.adapters.trl.reporting import Attempt as Told
from gym_adapters.adapters.trl.reward import ATTEMPT
from gym_adapters.adapters.trl.spec import trl_spec
from gym_adapters.registry import load_environment
from gym_adapters.testing import ScriptedGenerator, tiny_policy
from gym_adapters.testing.parity import (
    ParityCase,
    ParityDriver,
    Received,
    ReceivedRollout,
    Room,
    Sample,
)

__all__ = ["driver"]

_ROW = "gym_parity_row"


def driver() -> ParityDriver:
    """The driver of GRPOTrainer with our rollout function."""
    return _TrlDriver()


class _TrlDriver:
    trainer = "trl"

    def unavailable(self) -> str | None:
        if find_spec("trl") is None:
            return "not installed: pip install 'gym-adapters[trl]'"
        return None

    def refusal(self, case: ParityCase) -> str | None:
        return refusal_of(Adapter.TRL_ROLLOUT, case)

    def drive(self, case: ParityCase, room: Room) -> Received:
        @contextmanager
        def scripted(trainer: object) -> Iterator[ScriptedGenerator]:
            yield case.generator(lambda name: case.attempt(int(name.rpartition("-")[2])))

        spec = trl_spec(load_environment(case.environment), tasks=case.tasks, generator=scripted)
        try:
            with (
                tempfile.TemporaryDirectory(prefix="gym_adapters-parity-") as folder,
                seen_seeds() as seeds,
            ):
                batch, told = _first_batch(case, room, spec.trainer_arguments(), folder)
        finally:
            spec.close()
        rollouts = {
            attempt: _received(batch, row, told[row]) for row, attempt in enumerate(case.attempts)
        }
        return Received(rollouts, seeds.of(case))


class _LossReached(Exception):
    """Carries the batch that the loss would have been computed of."""

    def __init__(self, batch: Mapping[str, Any]) -> None:
        super().__init__("the first batch has reached the loss")
        self.batch = batch


def _first_batch(
    case: ParityCase, room: Room, arguments: Mapping[str, Any], folder: str
) -> tuple[dict[str, Any], list[Told]]:
    """The batch that reaches the loss, its rows in the case's order, and what rewards are of."""
    trainer = _trainer(case, room, arguments, folder)
    generate, score = trainer._generate_and_score_completions, trainer._calculate_rewards
    told: list[Told] = []

    def numbered(inputs: Any) -> Any:
        import torch

        output = generate(inputs)
        # TRL shuffles the rows between here and the loss, of whatever the batch holds.
        output[_ROW] = torch.arange(len(inputs))
        return output

    def scored(inputs: Sequence[Mapping[str, Any]], *rest: Any) -> Any:
        told.extend(each[ATTEMPT] for each in inputs)
        return score(inputs, *rest)

    def reached(model: object, inputs: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        raise _LossReached(inputs)

    trainer._generate_and_score_completions = numbered
    trainer._calculate_rewards = scored
    trainer.compute_loss = reached
    # Training begins with a garbage collection, a second of it for all that is imported by now.
    gc.freeze()
    try:
        trainer.train()
    except _LossReached as stopped:
        order = stopped.batch[_ROW].argsort()
        rows = len(case.attempts)
        batch = {
            name: values[order] if getattr(values, "ndim", 0) and len(values) == rows else values
            for name, values in stopped.batch.items()
        }
        return batch, told
    finally:
        gc.unfreeze()
    raise RuntimeError("TRL trained without computing a loss")


def _trainer(case: ParityCase, room: Room, arguments: Mapping[str, Any], folder: str) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    model = tiny_policy(size="small").load_model()
    # Where there is no vLLM, it is the model that bounds a rollout as a whole.
    model.config.max_position_embeddings = room.total
    return GRPOTrainer(
        model=model,
        processing_class=case.tokenizer(),
        args=GRPOConfig(
            output_dir=folder,
            max_steps=1,
            per_device_train_batch_size=len(case.attempts),
            num_generations=case.group_size,
            max_completion_length=room.completion,
            shuffle_dataset=False,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        **arguments,
    )


def _received(batch: Mapping[str, Any], row: int, told: Told) -> ReceivedRollout:
    real = batch["completion_mask"][row].bool()
    mask = (batch["tool_mask"][row] * batch["completion_mask"][row])[real]
    sample = Sample(
        prompt_ids=batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist(),
        completion_ids=batch["completion_ids"][row][real].tolist(),
        mask=mask.tolist(),
        logprobs=batch["sampling_per_token_logps"][row][real].tolist(),
    )
    advantage = float(batch["advantages"][row])
    failure = told.failure
    return ReceivedRollout(
        # TRL has a row for every rollout; what has no token in the loss is not trained on.
        samples=[sample] if any(sample.mask) or (told.reward is None and advantage) else [],
        reward=told.reward,
        components=told.components,
        stop_reason=told.stop_reason,
        failure=None if failure is None else failure.boundary.value,
        advantage=None if told.reward is None else advantage,
    )
