from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs the extra gym-adapters[verl]")

from gym_adapters.errors import Unsupported
from gym_adapters.testing import tiny_policy
from gym_adapters.testing.verl_cpu import OVERRIDES, environment_variables


@pytest.fixture
def server() -> Any:
    from gym_adapters.testing.verl_cpu.replica import HfServer

    return HfServer(str(tiny_policy(size="small").model_path), 64)


SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": True, "max_tokens": 5}


async def test_it_answers_as_verls_servers_do(server: Any) -> None:
    await server.set_global_steps(3)
    output = await server.generate([1, 2, 3], {**SAMPLING, "repetition_penalty": 1.0}, "r")
    assert 1 <= len(output.token_ids) <= 5
    assert len(output.log_probs) == len(output.token_ids)
    assert output.stop_reason == "completed"
    assert output.extra_fields == {"global_steps": 3}
    silent = await server.generate([1, 2, 3], {**SAMPLING, "logprobs": False}, "r")
    assert silent.log_probs is None


async def test_new_weights_are_what_it_samples_from(server: Any) -> None:
    import torch

    model = tiny_policy(size="small").load_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    await server.update_weights(dict(model.state_dict()), 7)
    output = await server.generate([1, 2, 3], SAMPLING, "r")
    uniform = -torch.log(torch.tensor(float(model.config.vocab_size))).item()
    assert output.log_probs == pytest.approx([uniform] * len(output.log_probs), abs=1e-4)
    assert output.extra_fields == {"global_steps": 7}


async def test_what_it_does_not_know_is_refused(server: Any) -> None:
    with pytest.raises(Unsupported, match="hf_cpu"):
        await server.generate([1], {**SAMPLING, "min_p": 0.1}, "r")
    with pytest.raises(Unsupported, match="hf_cpu"):
        await server.generate([1], SAMPLING, "r", image_data=["x"])


@pytest.mark.timeout(300)
def test_verl_finds_platform_and_engine_only_where_it_is_told_to() -> None:
    code = (
        "from verl.plugin.platform import get_platform\n"
        "from verl.workers.rollout.base import get_rollout_class\n"
        "from verl.workers.rollout.replica import get_rollout_replica_class\n"
        "print(get_platform().device_name, get_rollout_class('hf_cpu').__name__,"
        " get_rollout_replica_class('hf_cpu').__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **environment_variables()},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "cpu HfRollout HfReplica"


def test_the_overrides_are_ones_that_verl_takes() -> None:
    from gym_adapters.adapters.verl import verl_overrides
    from gym_adapters.adapters.verl.launch import check_overrides

    own = verl_overrides("arithmetic_tools", model="m", train_files="t.parquet")
    config = check_overrides([*own, *OVERRIDES])
    assert config.actor_rollout_ref.rollout.name == "hf_cpu"
    assert config.trainer.device == "cpu"
