"""A tiny policy that speaks the format, and real GRPOTrainers over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")

from gym_adapters.testing.tiny_model import TinyPolicy, tiny_policy


@pytest.fixture(scope="session")
def raw_policy() -> TinyPolicy:
    """Random weights: its words are noise."""
    return tiny_policy(size="small")


MakeTrainer = Callable[..., Any]


@pytest.fixture
def make_trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MakeTrainer]:
    """Makes a GRPOTrainer of 3 steps of 8 rollouts; keyword arguments are GRPOConfig's."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    import torch
    from trl import GRPOConfig, GRPOTrainer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def make(policy: TinyPolicy, arguments: dict[str, Any], **config: Any) -> Any:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path),
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 160,
            "learning_rate": 1e-3,
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
        return GRPOTrainer(
            model=policy.load_model(),
            processing_class=policy.tokenizer,
            args=GRPOConfig(**{**settings, **config}),
            **arguments,
        )

    yield make
    torch.set_num_threads(threads)


class Recorder:
    """What a trainer was given to train on: one entry a batch of rollouts."""

    def __init__(self, trainer: Any) -> None:
        self.batches: list[dict[str, Any]] = []
        original = trainer._generate_and_score_completions

        def recorded(inputs: Any) -> Any:
            output = original(inputs)
            self.batches.append(
                {
                    key: value.clone() if hasattr(value, "clone") else value
                    for key, value in output.items()
                }
            )
            return output

        trainer._generate_and_score_completions = recorded

    def rows(self, batch: int) -> list[tuple[list[int], list[int], list[int]]]:
        """Prompt ids, completion ids and mask of each row, without padding."""
        data = self.batches[batch]
        rows = []
        for row in range(len(data["completion_ids"])):
            prompt = data["prompt_ids"][row][data["prompt_mask"][row].bool()]
            keep = data["completion_mask"][row].bool()
            mask = data["tool_mask"][row] if "tool_mask" in data else data["completion_mask"][row]
            rows.append(
                (prompt.tolist(), data["completion_ids"][row][keep].tolist(), mask[keep].tolist())
            )
        return rows


@pytest.fixture
def record() -> type[Recorder]:
    return Recorder


@pytest.fixture
def make_async(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MakeTrainer]:
    """Makes an AsyncGRPOTrainer that runs on a CPU; keyword arguments are AsyncGRPOConfig's."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    pytest.importorskip("vllm", reason="TRL's async trainer imports vLLM")
    import torch

    from .async_cpu import on_cpu

    on_cpu(monkeypatch)
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def make(policy: TinyPolicy, arguments: dict[str, Any], **config: Any) -> Any:
        optimizers = config.pop("optimizers", (None, None))
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path),
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 160,
            "learning_rate": 1e-3,
            "token_budget": 0,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "seed": 7,
        }
        return AsyncGRPOTrainer(
            model=str(policy.model_path),
            processing_class=policy.tokenizer,
            args=AsyncGRPOConfig(**{**settings, **config}),
            optimizers=optimizers,
            **arguments,
        )

    yield make
    torch.set_num_threads(threads)
