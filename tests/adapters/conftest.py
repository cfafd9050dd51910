"""What the tests of all trainers begin with."""

from __future__ import annotations

import asyncio

import pytest

from gym_adapters import Task, load_environment
from gym_adapters.testing import Conversation, TinyPolicy, WarmUp, gold_conversations, tiny_policy


@pytest.fixture(scope="session")
def sums() -> list[Task]:
    environment = load_environment("arithmetic_tools").environment
    return list(environment.generate_tasks(20, seed=1, difficulty=0.0))


@pytest.fixture(scope="session")
def gold(sums: list[Task]) -> list[Conversation]:
    return asyncio.run(gold_conversations(load_environment("arithmetic_tools"), sums))


@pytest.fixture(scope="session")
def policy(gold: list[Conversation]) -> TinyPolicy:
    """Calls the calculator in most rollouts, and is often wrong about numbers."""
    pytest.importorskip("transformers", reason="the policy is a model of transformers")
    return tiny_policy(
        warmup=WarmUp(gold, copy_steps=70, mistake_steps=15, batch_size=8, learning_rate=8e-3)
    )
