"""GRPO trainings of two processes on a CPU, which talk through gloo; each runs `two_processes`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")

from gym_adapters.testing.tiny_model import TinyPolicy

from .test_rollouts import survivors_advantages

SCRIPT = Path(__file__).with_name("two_processes.py")
GROUP = 8
STEPS = 4

pytestmark = pytest.mark.timeout(400)


def trained(way: str, folder: Path) -> list[dict[str, Any]]:
    """What each of the processes tells of its training.

    They are started as ``accelerate launch`` starts them for GPUs. Its own ``--cpu`` is no help:
    without MPI it starts one process, whatever ``--num_processes`` says.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    run = subprocess.run(
        [sys.executable, *launcher, "--master_port", str(port), SCRIPT, way, folder],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]


def check(processes: list[dict[str, Any]]) -> None:
    """Each group was split between the two, and all that is logged is of both."""
    first, second = processes
    assert first["processes"] == second["processes"] == 2
    assert len(first["calls"]) == len(second["calls"]) == STEPS
    history = [entry for entry in first["history"] if "reward" in entry]
    environments = set()
    for step in range(STEPS):
        rows = [*first["calls"][step], *second["calls"][step]]
        assert [row["index"] % GROUP for row in rows] == list(range(GROUP))
        assert len({row["task"] for row in rows}) == 1
        assert len({tuple(row["ids"]) for row in rows}) > GROUP // 2
        rewards = [row["reward"] for row in rows]
        advantages = [
            each for process in processes for each in process["taken"][step]["advantages"]
        ]
        assert advantages == pytest.approx(survivors_advantages(rewards, GROUP, "group"), abs=1e-4)
        assert [any(row["mask"]) for row in rows] == [reward is not None for reward in rewards]
        kept = [reward for reward in rewards if reward is not None]
        assert history[step]["reward"] == pytest.approx(sum(kept) / len(kept), abs=1e-4)
        (name,) = {row["environment"] for row in rows}
        environments.add(name)
        failed = rewards.count(None) / GROUP
        assert history[step][f"gym/{name}/failed"] == failed
        assert history[step][f"gym/{name}/failed/judge"] == failed
        assert history[step][f"gym/{name}/failed/sandbox"] == 0.0
        own = history[step][f"rewards/{name}/mean"]
        assert own == pytest.approx(history[step]["reward"], abs=1e-5)
        grades = history[step][f"gym/{name}/components/grade"]
        assert grades == pytest.approx(sum(kept) / len(kept), abs=1e-4)
        assert history[step]["grad_norm"] > 0
    assert environments == {"graded", "fragile"}
    assert first["weights"] == second["weights"]


def test_two_processes_split_every_group_and_learn_the_same(
    policy: TinyPolicy, tmp_path: Path
) -> None:
    check(trained("transformers", tmp_path))


@pytest.mark.full
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
def test_two_processes_share_a_tensor_parallel_engine_and_agree_with_its_logprobs(
    policy: TinyPolicy, tmp_path: Path
) -> None:
    processes = trained("tensor_parallel", tmp_path)
    check(processes)
    history = [entry for entry in processes[0]["history"] if "reward" in entry]
    assert all(e["sampling/sampling_logp_difference/max"] < 1e-3 for e in history)


@pytest.mark.full
@pytest.mark.skipif(find_spec("vllm") is None, reason="TRL's async trainer imports vLLM")
def test_the_first_of_two_processes_samples_for_both_while_they_train(
    policy: TinyPolicy, tmp_path: Path
) -> None:
    first, second = trained("async", tmp_path)
    assert (first["versions"], second["versions"]) == (9, 0)
    assert first["weights"] == second["weights"]
    # Weights move in two steps; soon after, what is trained on is what was sampled.
    assert max(max(p["gaps"][:1] + p["gaps"][6:]) for p in (first, second)) < 1e-3
    history = [entry for entry in first["history"] if "reward" in entry]
    assert len(history) == 8
    assert all(entry["batch/samples_per_step"] == 8 for entry in history)
    assert any(entry["grad_norm"] > 0 for entry in history)
