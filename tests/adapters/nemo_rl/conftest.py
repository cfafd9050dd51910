"""Unit tests need no checkout; those marked `full` run NeMo RL's own functions from one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra gym-adapters[nemo-rl]")
pytest.importorskip("torch", reason="needs the extra gym-adapters[nemo-rl]")

sys.path.insert(0, str(Path(__file__).parent))

from chat_server import ChatServer

from gym_adapters import Task, load_environment
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def sums() -> list[Task]:
    environment = load_environment("arithmetic_tools").environment
    return list(environment.generate_tasks(3, seed=5, difficulty=0.0))


@pytest.fixture
def server(tokenizer: Any) -> Iterator[ChatServer]:
    with ChatServer(tokenizer) as running:
        yield running


@pytest.fixture(scope="session")
def nemo_rl() -> Any:
    """The shim, with NeMo RL importable."""
    import nemo_checkout

    reason = nemo_checkout.install()
    if reason is not None:
        pytest.skip(reason)
    return nemo_checkout
