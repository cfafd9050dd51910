"""Tasks, a policy that speaks their format, and trainer settings for a CPU."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")
pytest.importorskip("peft", reason="needs the extra gym-adapters[trl]")

from gym_adapters import Reward, Transcript, load_environment
from gym_adapters.adapters.unsloth import UnslothConfig
from gym_adapters.testing.tiny_model import TinyPolicy

ArithmeticTools = load_environment("arithmetic_tools").environment


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives each of four rewards equally often, so that no group of four has only one."""

    name = "graded"
    verified = itertools.count()

    async def verify(self, transcript: Transcript) -> Reward:
        return Reward(next(Graded.verified) % 4 / 3)


@pytest.fixture(scope="session")
def graded() -> type[Any]:
    return Graded


@pytest.fixture
def config(policy: TinyPolicy) -> UnslothConfig:
    """Loads the tiny policy with PEFT alone."""
    return UnslothConfig(
        model=str(policy.model_path),
        loader="peft",
        fast_inference=False,
        dtype="float32",
        max_seq_length=512,
        lora_rank=8,
    )


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of every trainer here: two steps on a CPU, and nothing written but where a test asks."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    return {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 7,
    }
