"""Parity cases through the files: rollouts stored, read back, and exported with their tokens."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

import orjson

from gym_adapters.adapters.capabilities import Adapter
from gym_adapters.adapters.parity_case import refusal_of
from gym_adapters.errors import Unsupported
from gym_adapters.rollout import Rollout
from gym_adapters.testing.parity import (
    Attempt,
    ParityCase,
    ParityDriver,
    Received,
    ReceivedRollout,
    Room,
    Sample,
    reference_rollouts,
)
from gym_adapters.training_data.export import Export, export_sft
from gym_adapters.training_data.selection import Selection
from gym_adapters.training_data.sft import IGNORED
from gym_adapters.training_data.stored import StoredRollouts

__all__ = ["driver"]


def driver() -> ParityDriver:
    """The driver of the exported rows."""
    return _OfflineDriver()


class _OfflineDriver:
    trainer = "offline"

    def unavailable(self) -> str | None:
        return None

    def refusal(self, case: ParityCase) -> str | None:
        return refusal_of(Adapter.OFFLINE, case)

    def drive(self, case: ParityCase, room: Room) -> Received:
        why = self.refusal(case)
        if why is not None:
            raise Unsupported(why)
        with tempfile.TemporaryDirectory(prefix="gym_adapters-parity-") as folder:
            rollouts = asyncio.run(reference_rollouts(case))
            stored = Path(folder) / "rollouts.jsonl"
            _write(stored, [rollout.to_json() for rollout in rollouts.values()])
            told = [rollout for _, rollout in StoredRollouts(stored)]
            read = dict(zip(rollouts, told, strict=True))
            rows: list[dict[str, list[int]]] = []
            if any(rollout.reward is not None and rollout.segments for rollout in told):
                exported = Path(folder) / "tokens.jsonl"
                everything = Selection(truncated=True)
                export_sft(Export(stored, exported, everything), tokens=True)
                rows = [orjson.loads(line) for line in exported.read_bytes().splitlines()]
        return Received(_received(read, rows), {})


def _write(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(it, option=orjson.OPT_APPEND_NEWLINE) for it in lines))


def _received(
    rollouts: Mapping[Attempt, Rollout], rows: list[dict[str, list[int]]]
) -> dict[Attempt, ReceivedRollout]:
    """Tokens and mask of the rows, in whose order the rollouts are; the rest as it was stored."""
    following = iter(rows)
    received: dict[Attempt, ReceivedRollout] = {}
    for attempt, rollout in rollouts.items():
        outcome = rollout.outcome
        samples = []
        for segment in rollout.segments if outcome.reward is not None else ():
            row = next(following)
            read = len(segment.prompt_ids)
            ids, labels = row["input_ids"], row["labels"]
            mask = [int(label == token) for token, label in zip(ids, labels, strict=True)]
            trained_prompt = any(label != IGNORED for label in labels[:read])
            samples.append(
                Sample(
                    prompt_ids=[] if trained_prompt else ids[:read],
                    completion_ids=ids[read:],
                    mask=mask[read:],
                    logprobs=segment.logprobs,
                )
            )
        received[attempt] = ReceivedRollout(
            samples=samples,
            reward=rollout.reward,
            components=outcome.reward.components if outcome.reward is not None else None,
            stop_reason=outcome.stop_reason.value,
            failure=outcome.failure.boundary.value if outcome.failure is not None else None,
        )
    return received
