"""What every test can rely on: no network, no telemetry, one thread, reproducible examples."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

QUIET_AND_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "WANDB_MODE": "disabled",
}
# Read when torch, vllm and huggingface_hub are first imported: a fixture would be too late.
for name, value in QUIET_AND_OFFLINE.items():
    os.environ.setdefault(name, value)

# What commands print does not depend on the terminal and the colours of whoever runs the tests.
os.environ["COLUMNS"] = "100"
for name in ("CLICOLOR_FORCE", "FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "PY_COLORS"):
    os.environ.pop(name, None)

# The tests' servers are on this machine: no proxy of whoever runs the tests stands between.
for name in ("NO_PROXY", "no_proxy"):
    others = os.environ.get(name, "")
    os.environ[name] = ",".join(filter(None, (others, "127.0.0.1", "localhost")))

# A busy machine must not fail a test, and two runs must try the same examples.
settings.register_profile(
    "gym_adapters",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gym_adapters")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
async def leap(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the event loop's clock ahead, so that a time limit ends when a test says so.

    A limit of a fraction of a second would end on a busy machine before what it is to interrupt
    has begun.
    """
    loop = asyncio.get_running_loop()
    clock, ahead = loop.time, 0.0

    def leap(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(loop, "time", lambda: clock() + ahead)
    return leap


@pytest.fixture
async def virtual_time(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[float], None]]:
    """Lets time pass in the event loop only while all that runs in it waits, and then at once.

    What happens first is then the same on every machine, however busy. Not for tests that wait for
    threads or processes: time does not wait for those.

    Gives what lets time pass while something blocks the loop.
    """
    loop: Any = asyncio.get_running_loop()
    selector, now = loop._selector, loop.time()
    look = selector.select

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    def select(timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0.0:
            return look(timeout)
        ready = look(0)
        if not ready:
            wait(timeout)
        return ready

    with monkeypatch.context() as patched:
        patched.setattr(loop, "time", lambda: now)
        patched.setattr(selector, "select", select)
        yield wait


@pytest.fixture(scope="session")
def nemo_gym_fixtures() -> Path:
    """Rows and tasks of NeMo Gym's own environments, where the checkout has them beside it."""
    folder = REPOSITORY.parent / "shared" / "fixtures" / "nemo_gym"
    if not folder.is_dir():
        pytest.skip("needs NeMo Gym's example rows in ../shared/fixtures/nemo_gym")
    return folder
