from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from in_process import stamped

from gym_adapters import Task
from gym_adapters.adapters.nemo_rl.rollouts import RolloutActor
from gym_adapters.adapters.nemo_rl.rows import nemo_rl_rows
from gym_adapters.rollouts.recorded import final_rollouts
from gym_adapters.testing.nemo_rl_server import NemoChatServer


async def test_rollouts_are_kept_training_and_validation_apart(
    server: NemoChatServer, tokenizer: Any, sums: list[Task], tmp_path: Path
) -> None:
    folders = {
        "ledger": str(tmp_path / "rollouts"),
        "validation_ledger": str(tmp_path / "evaluation"),
    }
    actor = RolloutActor(server.url, "policy", folders)
    actor.set_tokenizer(tokenizer)
    rows = stamped(nemo_rl_rows("arithmetic_tools", sums[:2]), 4)
    held_out = stamped(nemo_rl_rows("arithmetic_tools", sums[2:], split="validation"))
    for batch in (rows, rows, held_out):
        assert len([n async for n, *_ in actor.run_rollouts(batch, "timing")]) == len(batch)
    await asyncio.to_thread(actor.shutdown)
    kept = list(final_rollouts(tmp_path / "rollouts"))
    by_task = {
        task.task_id: sorted(r.rollout_index for r in kept if r.task_id == task.task_id)
        for task in sums[:2]
    }
    # Attempts at a task are numbered over all steps.
    assert by_task == {task.task_id: list(range(8)) for task in sums[:2]}
    assert len(kept) == 16
    (seen,) = final_rollouts(tmp_path / "evaluation")
    assert seen.task_id == sums[2].task_id


async def test_a_resumed_run_goes_on_numbering_where_its_ledgers_end(
    server: NemoChatServer, tokenizer: Any, sums: list[Task], tmp_path: Path
) -> None:
    folders = {
        "ledger": str(tmp_path / "rollouts"),
        "validation_ledger": str(tmp_path / "evaluation"),
    }
    rows = stamped(nemo_rl_rows("arithmetic_tools", sums[:2]), 4)
    others = stamped(nemo_rl_rows("arithmetic_tools", sums[1:3]), 2)
    held_out = stamped(nemo_rl_rows("arithmetic_tools", sums[2:], split="validation"))
    # NeMo RL starts an actor anew when it is resumed, and tells it nothing of the run before.
    for batches in ([rows, held_out], [others, held_out, rows]):
        actor = RolloutActor(server.url, "policy", folders)
        actor.set_tokenizer(tokenizer)
        for batch in batches:
            assert len([n async for n, *_ in actor.run_rollouts(batch, "timing")]) == len(batch)
        await asyncio.to_thread(actor.shutdown)
    counts = {"rollouts": (8, 10, 2), "evaluation": (0, 0, 2)}
    for name, expected in counts.items():
        kept = list(final_rollouts(tmp_path / name))
        for task, count in zip(sums, expected, strict=True):
            found = sorted(each.rollout_index for each in kept if each.task_id == task.task_id)
            assert found == list(range(count))


async def test_attempts_of_concurrent_calls_are_numbered_apart(
    server: NemoChatServer, tokenizer: Any, sums: list[Task], tmp_path: Path
) -> None:
    actor = RolloutActor(server.url, "policy", {"ledger": str(tmp_path)})
    actor.set_tokenizer(tokenizer)
    rows = stamped(nemo_rl_rows("arithmetic_tools", sums[:1]), 3)

    async def call() -> int:
        return len([n async for n, *_ in actor.run_rollouts(rows, "timing")])

    assert list(await asyncio.gather(call(), call())) == [3, 3]
    await asyncio.to_thread(actor.shutdown)
    assert sorted(each.rollout_index for each in final_rollouts(tmp_path)) == list(range(6))
