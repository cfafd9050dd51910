"""Unit tests need no checkout; those marked `full` run NeMo RL's own functions from one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra gym-adapters[nemo-rl]")
pytest.importorskip("torch", reason="needs the extra gym-adapters[nemo-rl]")

sys.path.insert(0, str(Path(__file__).parent))

from scripted_policy import said

from gym_adapters import Task, load_environment
from gym_adapters.testing import nemo_rl_checkout
from gym_adapters.testing.nemo_rl_server import NemoChatServer
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def sums() -> list[Task]:
    environment = load_environment("arithmetic_tools").environment
    return list(environment.generate_tasks(3, seed=5, difficulty=0.0))


@pytest.fixture
def server(tokenizer: Any) -> Iterator[NemoChatServer]:
    with NemoChatServer(tokenizer, partial(said, tokenizer)) as running:
        yield running


@pytest.fixture(scope="session")
def nemo_rl() -> Any:
    """The shim, with NeMo RL importable."""
    reason = nemo_rl_checkout.install()
    if reason is not None:
        pytest.skip(reason)
    return nemo_rl_checkout
