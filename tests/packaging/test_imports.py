from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "aiohttp",
    "fastapi",
    "numpy",
    "openai",
    "ray",
    "torch",
    "transformers",
    "trl",
    "verl",
    "vllm",
)


def modules_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter that ran `statement`."""
    script = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    return set(run.stdout.split())


@pytest.mark.parametrize("statement", ["import gym_adapters", "from gym_adapters import *"])
def test_the_library_imports_no_framework(statement: str) -> None:
    loaded = modules_after(statement)

    assert "gym_adapters" in loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))


def test_the_command_line_imports_no_framework_before_a_command_asks_for_one() -> None:
    loaded = modules_after("import gym_adapters.cli")

    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))


@pytest.mark.parametrize("name", ["gym_adapters.environments", "gym_adapters.recipes"])
def test_what_lives_at_the_top_of_the_repository_is_imported_below_the_library(name: str) -> None:
    script = f"import {name}, gym_adapters; print({name}.__doc__.splitlines()[0])"

    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=110, cwd="/"
    )

    assert run.returncode == 0, run.stderr
    assert "ship with the library" in run.stdout
