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
