"""Choosing a sandbox: what is not installed is a clear error."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gym_adapters.errors import SandboxError
from gym_adapters.sandbox import (
    Execution,
    ProcessSandbox,
    SandboxConfig,
    SandboxLimits,
    Workspace,
    open_sandbox,
)
from gym_adapters.sandbox.bubblewrap import BubblewrapSandbox
from gym_adapters.sandbox.subprocesses import run_group


async def test_the_default_is_the_process_sandbox_with_the_configured_bounds() -> None:
    async with open_sandbox(SandboxConfig(wall_time=3, memory_mib=128)) as sandbox:
        assert isinstance(sandbox, ProcessSandbox)
        assert sandbox.limits == SandboxLimits(wall_time=3, memory=128 << 20)


@pytest.mark.parametrize("provider", ["bubblewrap", "docker"])
async def test_a_provider_that_is_not_installed_says_so(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    config = SandboxConfig.model_validate({"provider": provider})
    with pytest.raises(SandboxError, match="install"):
        async with open_sandbox(config):
            pass


def no_bubblewrap() -> str | None:
    """Why it can't be tested here; many machines and containers let nobody make namespaces."""
    if shutil.which("bwrap") is None or shutil.which("prlimit") is None:
        return "bubblewrap is not installed"
    bare = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    done = subprocess.run(bare, capture_output=True, timeout=60, check=False)
    return None if done.returncode == 0 else "bubblewrap may make no namespaces here"


async def test_bubblewrap_confines_where_it_is_installed() -> None:
    if (reason := no_bubblewrap()) is not None:
        pytest.skip(reason)
    sandbox = BubblewrapSandbox(limits=SandboxLimits(wall_time=60, file_size=10_000))
    async with await Workspace.create() as workspace:

        async def run(script: str) -> Execution:
            return await sandbox.run(["sh", "-c", script], folder=workspace.path)

        done = await run("echo hi > f; cat f; echo 'bwrap: no' >&2; exit 1")
        assert (done.stdout, done.stderr, done.exit_code) == ("hi\n", "bwrap: no\n", 1)
        outside = await run(f"ls {Path(__file__).parent}; cat /etc/shadow; env")
        assert "test_opening" not in outside.stdout
        assert "root:" not in outside.stdout
        big = await run("head -c 100000 /dev/zero > big")
        assert not big.succeeded
        # Process 1 is the wrapper, and nobody else is there but the shell and ls.
        alone = await run("ls -d /proc/[0-9]*")
        assert len(alone.stdout.split()) <= 3


async def test_a_docker_engine_that_does_not_answer_is_a_sandbox_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'cannot connect' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SandboxError, match="no docker engine answers: cannot connect"):
        async with open_sandbox(SandboxConfig(provider="docker")):
            pass


async def test_a_group_is_killed_when_its_time_is_up() -> None:
    done = await run_group(
        ["sh", "-c", "sleep 60 & sleep 60"],
        stdin="",
        environment={"PATH": "/usr/bin:/bin"},
        limits=SandboxLimits(wall_time=0.3),
    )
    assert (done.timed_out, done.exit_code) == (True, -9)


async def test_a_groups_output_is_bounded() -> None:
    done = await run_group(
        ["sh", "-c", "head -c 100000 /dev/zero; cat"],
        stdin="end",
        environment={"PATH": "/usr/bin:/bin"},
        limits=SandboxLimits(output=10),
    )
    assert (done.stdout, done.truncated, done.succeeded) == ("\0" * 10, True, True)
