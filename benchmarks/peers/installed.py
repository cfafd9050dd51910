"""Peers in virtual environments of their own, made from PyPI and kept in a cache folder."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Measured", "Peer", "installed_in", "measured"]

HERE = Path(__file__).parent
# Rollouts of a peer that starts a program for each: those of one more batch than the other.
FEW, MORE = 2, 14


@dataclass(frozen=True, slots=True)
class Peer:
    """A package to measure against.

    Attributes:
        name: As the table calls it.
        requirements: What pip installs.
        pythons: Interpreters it runs on, the first that is here is taken.
        script: What measures it, run by its own interpreter.
    """

    name: str
    requirements: Sequence[str]
    pythons: Sequence[str]
    script: str


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU seconds, and the seconds of each rollout."""

    cpu: float
    seconds: list[float]


PEERS = (
    Peer(
        "verifiers 0.1",
        ("verifiers<0.2", "datasets"),
        ("python3.11", "python3.12", "python3.13"),
        "verifiers_rollouts.py",
    ),
    Peer(
        "verifiers 0.4",
        ("verifiers==0.4.0", "uv"),
        ("python3.11", "python3.12", "python3.13"),
        "bench_taskset.py",
    ),
    Peer(
        "nemo-gym 0.4", ("nemo-gym==0.4.0",), ("python3.12", "python3.13"), "nemo_gym_rollouts.py"
    ),
)


def installed_in(cache: Path, peer: Peer) -> Path | None:
    """The interpreter of `peer`'s environment, made where absent; ``None`` without a Python for it.

    Raises:
        RuntimeError: If it can't be installed.
    """
    folder = cache / peer.name.replace(" ", "-")
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    base = next((found for name in peer.pythons if (found := _usable(name))), None)
    if base is None:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [base, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *peer.requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{peer.name} can't be installed: {done.stderr[-1000:]}")
    (folder / "complete").touch()
    return python


def _usable(name: str) -> str | None:
    """The interpreter, if it is one: a version manager puts names on the path that run nothing."""
    versions = Path.home() / ".pyenv" / "versions"
    candidates = [shutil.which(name), *map(str, sorted(versions.glob(f"*/bin/{name}")))]
    for each in candidates:
        if each is None:
            continue
        done = subprocess.run([each, "-c", "import venv"], capture_output=True, check=False)
        if not done.returncode:
            return each
    return None


def measured(
    peer: Peer, python: Path, url: str, count: int, concurrency: int, what: str = "single"
) -> Measured:
    """What rollouts of `peer` take.

    Raises:
        RuntimeError: If they fail.
    """
    if peer.script == "bench_taskset.py":
        few, more = (_programs(python, url, number) for number in (FEW, MORE))
        return Measured((more - few) / (MORE - FEW), [0.0])
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(python), str(HERE / peer.script), url, str(count), str(concurrency), what],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{peer.name} failed: {done.stderr[-2000:]}")
    cpu, seconds = json.loads(done.stdout.strip().splitlines()[-1])
    return Measured(cpu / len(seconds), seconds)


def _programs(python: Path, url: str, count: int) -> float:
    """CPU seconds of a run of verifiers 0.4, those of the programs that it starts included."""
    paths = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    options = {
        "-m": "m",
        "-c": "4",
        "--client.base-url": url,
        "--client.api-key-var": "NO_SUCH_KEY",
        "--env.agent.harness.id": "null",
        "--env.agent.runtime.type": "subprocess",
        "--select.limit": str(count),
    }
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [
                *(str(python.parent / "vf-eval"), "bench_taskset", "--no-push", "-o", folder),
                *(part for option in options.items() for part in option),
            ],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(HERE), "PATH": paths},
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        traces = [
            json.loads(line)
            for path in Path(folder).rglob("traces.jsonl")
            for line in path.read_text().splitlines()
        ]
    wrong = [each for each in traces if "The answer is 3." not in json.dumps(each)]
    if done.returncode or wrong or len(traces) != count:
        raise RuntimeError(f"verifiers 0.4 failed: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
