"""TRL's own tool loop and ours, over one real vLLM, make the same batch to the token."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "stepper.py"


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    find_spec("vllm") is None or find_spec("trl") is None, reason="needs the extras vllm and trl"
)
def test_trls_tool_loop_and_ours_make_the_same_batch(tmp_path: Path) -> None:
    # It ends with an error where the batches differ, or an episode lacks a turn.
    run = subprocess.run(
        [sys.executable, BENCHMARK, "--episodes", "4", "--seeds", "1", "--only", "trl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    table = run.stdout.partition("seconds of a batch")[2].splitlines()[2:]
    assert [line.split()[0] for line in table] == ["none", "uniform", "heavy-tailed"]
