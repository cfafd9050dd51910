"""What is built from the checkout, and what installing it brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

INSTALLED_AS = {
    "gym_adapters": "gym_adapters",
    "environments": "gym_adapters/environments",
    "recipes": "gym_adapters/recipes",
}
MOST_DISTRIBUTIONS = 16


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """The standard output of `command`; fails with all it said."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shipped_files(root: Path) -> Iterator[Path]:
    """Every file below `root` that belongs to the library, relative to it."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            yield path.relative_to(root)


@pytest.fixture(scope="module")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is needed to build, so that nothing is written into the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        if (repository / name).exists():
            (copy / name).write_bytes((repository / name).read_bytes())
    for folder in (*INSTALLED_AS, "tests", "benchmarks", "docs", "constraints"):
        for file in shipped_files(repository / folder):
            target = copy / folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((repository / folder / file).read_bytes())
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without isolation and so without the network."""
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", out, checkout, cwd=out)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_file_of_the_library_and_nothing_else(
    wheel: zipfile.ZipFile, checkout: Path
) -> None:
    expected = {
        f"{target}/{file.as_posix()}"
        for source, target in INSTALLED_AS.items()
        for file in shipped_files(checkout / source)
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert held == expected


def test_the_wheel_holds_the_data_of_every_environment(
    wheel: zipfile.ZipFile, checkout: Path
) -> None:
    held = set(wheel.namelist())
    configs = sorted((checkout / "environments").glob("*/config.yaml"))

    assert configs, "no environment ships with the library"
    for config in configs:
        folder = f"gym_adapters/environments/{config.parent.name}"
        assert f"{folder}/config.yaml" in held
        assert f"{folder}/environment.py" in held
        assert f"{folder}/data/example.jsonl" in held


def test_the_wheel_is_typed_licensed_and_has_the_command(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())

    assert "gym_adapters/py.typed" in wheel.namelist()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "gym-adapters = gym_adapters.cli:main" in entry_points


def test_no_extra_installs_the_placeholder_of_nemo_rl(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    required = metadata.get_all("Requires-Dist") or []

    assert [line for line in required if line.startswith(("nemo-rl", "nemo_rl"))] == []


def test_extra_cpu_leaves_out_the_engine_that_breaks_transformers(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    of_cpu = [line for line in metadata.get_all("Requires-Dist") or [] if 'extra == "cpu"' in line]

    assert of_cpu
    assert [line for line in of_cpu if "vllm" in line or "torchvision" in line] == []


def test_the_library_has_one_version(wheel: zipfile.ZipFile) -> None:
    import gym_adapters

    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))

    assert Parser().parsestr(wheel.read(name).decode())["Version"] == gym_adapters.__version__


def test_the_source_distribution_builds_the_same_wheel(
    wheel: zipfile.ZipFile, checkout: Path, tmp_path: Path
) -> None:
    sdist = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path)
    run(*sdist, checkout, cwd=tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    pip = (sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", tmp_path, unpacked, cwd=tmp_path)
    (rebuilt,) = tmp_path.glob("*.whl")

    assert set(zipfile.ZipFile(rebuilt).namelist()) == set(wheel.namelist())


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_core_installs_few_distributions_and_works_alone(
    empty_venv: Path, checkout: Path, tmp_path: Path
) -> None:
    run(empty_venv, "-m", "pip", "-q", "install", checkout, cwd=tmp_path)

    listed = json.loads(run(empty_venv, "-m", "pip", "list", "--format=json", cwd=tmp_path))
    names = sorted(entry["name"] for entry in listed)
    assert len(names) <= MOST_DISTRIBUTIONS, names
    run(
        *(empty_venv, "-W", "error", "-c"),
        "import gym_adapters, gym_adapters.environments, gym_adapters.recipes",
        cwd=tmp_path,
    )


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_command_without_its_extra_says_how_to_install_it(
    empty_venv: Path, checkout: Path, tmp_path: Path
) -> None:
    run(empty_venv, "-m", "pip", "-q", "install", checkout, cwd=tmp_path)

    command = subprocess.run(
        [empty_venv.with_name("gym-adapters"), "--help"], capture_output=True, text=True
    )

    assert command.returncode != 0
    assert "pip install 'gym-adapters[cli]'" in command.stderr
    assert "Traceback" not in command.stderr


@pytest.mark.full
@pytest.mark.timeout(600)
def test_an_editable_installation_finds_environments_from_anywhere(
    empty_venv: Path, checkout: Path, tmp_path: Path
) -> None:
    run(empty_venv, "-m", "pip", "-q", "install", "-e", checkout, cwd=tmp_path)

    show = "import gym_adapters.environments as e, gym_adapters.recipes as r; print(e.__file__)"
    for folder in (tmp_path, checkout):
        found = run(empty_venv, "-c", show, cwd=folder).strip()
        assert Path(found) == checkout / "environments" / "__init__.py"
    added = checkout / "environments" / "added_later"
    added.mkdir()
    (added / "__init__.py").write_text("WHERE = __name__\n")
    late = "import gym_adapters.environments.added_later as late; print(late.WHERE)"
    assert run(empty_venv, "-c", late, cwd=tmp_path).strip() == (
        "gym_adapters.environments.added_later"
    )
