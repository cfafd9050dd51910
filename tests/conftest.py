"""What every test can rely on: no network, no telemetry, one thread, reproducible examples."""

from __future__ import annotations

import os
from pathlib import Path

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


@pytest.fixture(scope="session")
def nemo_gym_fixtures() -> Path:
    """Rows and tasks of NeMo Gym's own environments, where the checkout has them beside it."""
    folder = REPOSITORY.parent / "shared" / "fixtures" / "nemo_gym"
    if not folder.is_dir():
        pytest.skip("needs NeMo Gym's example rows in ../shared/fixtures/nemo_gym")
    return folder
