"""The path of a GPU, on a CPU: Unsloth's own rewriting of TRL, and a real vLLM with adapters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM")

from gym_adapters import Task
from gym_adapters.adapters.unsloth.version import TESTED
from gym_adapters.testing.tiny_model import TinyPolicy

HERE = Path(__file__).parent
# What importing it takes besides the trainers that are here already. Without dependencies: its
# metadata holds TRL and datasets at older versions.
PACKAGES = (
    f"unsloth=={TESTED[0]}.{TESTED[1]}.*",
    f"unsloth_zoo=={TESTED[0]}.{TESTED[1]}.*",
    "bitsandbytes>=0.46",
    "cut_cross_entropy",
    "docstring_parser",
    "hf_transfer",
    "nest-asyncio",
    "shtab",
    "structlog",
    "torchao>=0.13",
    "typeguard",
    "tyro",
)

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def unsloth_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has Unsloth, and all that this one has."""
    folder = tmp_path_factory.mktemp("unsloth")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    ours = sysconfig.get_paths()["purelib"]
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        pytest.skip(f"Unsloth can't be installed here: {done.stderr[-300:]}")
    return python


def run(python: Path, script: str, folder: Path, model: Path, *more: str) -> dict[str, Any]:
    repository = HERE.parents[2]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(repository),
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    done = subprocess.run(
        [python, HERE / script, folder, model, *more],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def rewritten(
    unsloth_python: Path, policy: TinyPolicy, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rewritten")
    return run(unsloth_python, "rewritten_by_unsloth.py", folder, policy.model_path)


def test_every_argument_we_name_is_one_of_unsloths(rewritten: dict[str, Any]) -> None:
    assert set(rewritten["from_pretrained"]) >= {
        "model_name",
        "max_seq_length",
        "dtype",
        "load_in_4bit",
        "fast_inference",
        "max_lora_rank",
        "gpu_memory_utilization",
    }
    assert set(rewritten["get_peft_model"]) >= {
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "use_gradient_checkpointing",
        "random_state",
    }


def test_rollouts_are_sampled_from_the_adapters_after_every_update(
    rewritten: dict[str, Any],
) -> None:
    grpo = rewritten["grpo"]
    assert grpo["trainer"] == "UnslothGRPOTrainer"
    assert grpo["shares_engine"]
    assert len(grpo["gap_to_adapters"]) == 3
    assert max(grpo["gap_to_adapters"]) < 1e-3
    # A fresh adapter adds nothing; from the first update on, the base would tell another story.
    assert min(grpo["gap_to_base"][1:]) > 1e-2
    assert grpo["folding"] == ["0", "0", "0"]


def test_the_rewritten_loss_gets_our_masks_and_has_a_gradient(rewritten: dict[str, Any]) -> None:
    grpo = rewritten["grpo"]
    assert grpo["masks_match"]
    assert grpo["tool_tokens"] > 0
    assert all(gradient > 0 for gradient in grpo["gradients"])
    assert grpo["rewards"] == pytest.approx([0.5, 0.5, 0.5])


def test_sft_on_token_rows_trains_in_the_rewritten_trainer(rewritten: dict[str, Any]) -> None:
    sft = rewritten["sft"]
    assert sft["trainer"] == "UnslothSFTTrainer"
    assert sft["losses"][-1] < sft["losses"][0] - 0.5


def test_unsloths_cpu_backend_trains_as_peft_alone_does(
    unsloth_python: Path, policy: TinyPolicy, tmp_path: Path, sums: list[Task]
) -> None:
    result = run(unsloth_python, "cpu_backend.py", tmp_path, policy.model_path)
    assert result["trained"] == result["adapters"] == 28
    assert all(gradient > 0 for gradient in result["gradients"])
    assert result["losses"][-1] < result["losses"][0] - 0.5
    assert result["moved"] == 28
