from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# Each imports verl and torch in a fresh interpreter.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[3]


def python(code: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=280,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": "/tmp", **variables},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_the_distribution_declares_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["verl.plugins"] == {
        "gym_adapters": "gym_adapters.adapters.verl.plugin"
    }


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, gym_adapters.adapters.verl.plugin\n"
        "heavy = {'torch', 'transformers', 'ray', 'verl', 'datasets', 'hydra'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    assert python(code) == "[]"


def test_the_loop_is_registered_when_verl_imports_its_loops_and_not_before() -> None:
    code = (
        "import sys\n"
        "import gym_adapters.adapters.verl.plugin\n"
        "import verl\n"
        "early = 'verl.experimental.agent_loop.agent_loop' in sys.modules\n"
        "from verl.experimental.agent_loop.agent_loop import _agent_loop_registry as known\n"
        "ours = 'gym_adapters.adapters.verl.agent_loop' in sys.modules\n"
        "finders = [type(f).__name__ for f in sys.meta_path]\n"
        "print(early, ours, known['gym_adapters']['_target_'], 'single_turn_agent' in known or "
        "'tool_agent' in known or len(known), 'RegistryFinder' in finders)"
    )
    told = python(code, VERL_USE_EXTERNAL_PLUGINS="none")
    target = "gym_adapters.adapters.verl.agent_loop.GymAgentLoop"
    assert told.startswith(f"False False {target} ")
    assert told.endswith("False")


def test_installed_after_the_fact_it_registers_at_once() -> None:
    code = (
        "from verl.experimental.agent_loop.agent_loop import _agent_loop_registry as known\n"
        "before = 'gym_adapters' in known\n"
        "import gym_adapters.adapters.verl.plugin\n"
        "print(before, 'gym_adapters' in known)"
    )
    assert python(code, VERL_USE_EXTERNAL_PLUGINS="none") == "False True"
