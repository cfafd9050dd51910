"""A sandbox by bubblewrap (https://github.com/containers/bubblewrap): namespaces of its own.

It needs a kernel that lets ordinary users make user namespaces. Where the caller is root, commands
run as the owner of their folder, who can't reach an interpreter that lies below ``/root``.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gym_adapters.deadline import SharedSlots
from gym_adapters.errors import SandboxError
from gym_adapters.sandbox.confinement import is_public, may_change_users
from gym_adapters.sandbox.protocol import Execution, Guarantees, SandboxLimits
from gym_adapters.sandbox.subprocesses import Announced, run_group

__all__ = ["BubblewrapSandbox"]

READ_ONLY = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/sbin")
READ_ONLY_FILES = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/etc/passwd")


class BubblewrapSandbox:
    """Runs each command in fresh mount, process, network, user, IPC and UTS namespaces.

    Args:
        limits: Bounds where a call names none.
        concurrency: Executions at once; the rest wait.
        readable: Folders that commands may read, beside the system's and the interpreter's.

    Raises:
        SandboxError: If ``bwrap`` or ``prlimit`` is not installed.
    """

    def __init__(
        self,
        *,
        limits: SandboxLimits | None = None,
        concurrency: int = 4,
        readable: Sequence[Path] = (),
    ) -> None:
        self._bwrap, self._prlimit = _installed("bwrap"), _installed("prlimit")
        self._limits = limits if limits is not None else SandboxLimits()
        self._slots = SharedSlots(concurrency)
        places = [Path(sys.prefix), Path(sys.base_prefix), *readable]
        self._readable = [
            str(path) for path in places if not may_change_users() or is_public(str(path))
        ]

    @property
    def guarantees(self) -> Guarantees:
        """All of them."""
        return Guarantees(files=True, network=True, processes=True, memory=True)

    async def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
    ) -> Execution:
        """Run `command` in `folder`; see `Sandbox.run`."""
        bounds = limits if limits is not None else self._limits
        announced = Announced.of(command)
        wrapped = [*self._wrapper(folder, bounds, environment or {}), *announced.command]
        try:
            owner = os.stat(folder).st_uid if may_change_users() else None
        except OSError as error:
            raise SandboxError(f"the folder of a command: {error}") from error
        async with self._slots.taken():
            execution = await run_group(
                wrapped, stdin=stdin, environment={}, limits=bounds, uid=owner
            )
        return announced.read(execution, "bubblewrap")

    def _wrapper(
        self, folder: Path, limits: SandboxLimits, environment: Mapping[str, str]
    ) -> list[str]:
        words = [self._bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
        for path in (*READ_ONLY, *READ_ONLY_FILES, *self._readable):
            words += ["--ro-bind-try", path, path]
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        words += ["--bind", str(folder), str(folder), "--chdir", str(folder)]
        variables = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            **environment,
        }
        for name, value in variables.items():
            words += ["--setenv", name, value]
        seconds = max(1, -int(-limits.cpu_time // 1))
        return [
            *words,
            "--",
            self._prlimit,
            f"--cpu={seconds}",
            f"--as={limits.memory}",
            f"--fsize={limits.file_size}",
            f"--nproc={limits.processes}",
            "--core=0",
            "--",
        ]


def _installed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise SandboxError(f"the bubblewrap sandbox needs {program}, which is not installed")
    return found
