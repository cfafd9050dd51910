"""Other libraries, each in a virtual environment of its own that the test makes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Where to keep them between runs; by default they are made anew.
KEEP = "GYM_ADAPTERS_TEST_VENVS"

MakeVenv = Callable[..., Path]


@pytest.fixture(scope="session")
def make_venv(tmp_path_factory: pytest.TempPathFactory) -> MakeVenv:
    """Makes one with the given requirements; gives its Python."""

    def make(*requirements: str, python: str = sys.executable) -> Path:
        kept = os.environ.get(KEEP)
        name = requirements[0].split("=")[0]
        folder = Path(kept) / name if kept else tmp_path_factory.mktemp("venvs") / name
        own = folder / "bin" / "python"
        if (folder / "complete").exists():
            return own
        interpreter = _interpreter(python)
        if interpreter is None:
            pytest.skip(f"needs {python}")
        subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
        install = [str(own), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        done = subprocess.run([*install, *requirements], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        (folder / "complete").touch()
        return own

    return make


def _interpreter(python: str) -> str | None:
    """One of that name that runs: from PATH, or installed beside our own."""
    beside = Path(sys.base_prefix).parent.glob(f"*/bin/{Path(python).name}")
    for found in (shutil.which(python), *map(str, sorted(beside))):
        if found and not subprocess.run([found, "-V"], capture_output=True).returncode:
            return found
    return None


@contextmanager
def serving_process(
    command: list[str], folder: Path, port: int, *, timeout: float = 90, **environ: str
) -> Iterator[str]:
    """A server of another library, until the block ends; gives its address."""
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=out, env={**os.environ, **environ}
        )
    try:
        deadline = time.monotonic() + timeout
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def run_server() -> Callable[..., object]:
    return serving_process
