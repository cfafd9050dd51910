"""The exact path over NeMo RL's own HTTP server and a real vLLM."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(400),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]

HERE = Path(__file__).parent


def test_every_turn_reads_the_ledgers_tokens_and_gives_the_models_own_logprobs(
    nemo_rl: Any, tmp_path: Path
) -> None:
    target = tmp_path / "told.json"
    paths = [str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(HERE / "vllm_server_scenario.py"), str(target)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert target.exists(), done.stderr[-3000:]
    told = json.loads(target.read_text())
    # A context read otherwise than given would be a failure.
    assert told["failures"] == [None] * 32
    assert max(map(len, told["roles"])) >= 4
    assert told["worst"] < 1e-4
