from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-P", "-c", command, "--no-logo", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=110,
    )


def contract_names(repository: Path) -> list[str]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    return [contract["name"] for contract in project["tool"]["importlinter"]["contracts"]]


def test_every_import_keeps_to_the_layers(repository: Path) -> None:
    run = lint_imports(repository)

    assert run.returncode == 0, run.stdout + run.stderr
    names = contract_names(repository)
    assert f"Contracts: {len(names)} kept, 0 broken." in run.stdout


def test_each_contract_catches_what_it_forbids(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((repository / "pyproject.toml").read_text())
    for package in ("gym_adapters", "environments"):
        for source in (repository / package).rglob("*.py"):
            copy = tmp_path / source.relative_to(repository)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(source.read_text())
    for file, line in {
        "gym_adapters/tokens/__init__.py": "import gym_adapters.adapters",
        "gym_adapters/reward.py": "def late():\n    import torch, trl",
        "gym_adapters/registry.py": "import environments",
        "gym_adapters/nowhere.py": "",
        "environments/__init__.py": "import gym_adapters.tokens.protocol",
    }.items():
        with (tmp_path / file).open("a") as target:
            target.write(f"\n{line}\n")

    run = lint_imports(tmp_path)

    assert run.returncode == 1, run.stdout + run.stderr
    broken = {line.split(" BROKEN")[0] for line in run.stdout.splitlines() if " BROKEN" in line}
    assert broken == set(contract_names(repository))
