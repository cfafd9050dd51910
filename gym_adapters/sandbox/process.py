"""A sandbox made of ordinary processes: forked, confined by the kernel, killed as a group.

What holds where (`ProcessSandbox.guarantees` tells for the machine at hand):

===================  ==============================================================================
no network           Linux on x86-64 and arm64: a seccomp filter refuses every socket.
no foreign files     Linux 5.13 or later with Landlock. Without it, only file modes protect, and
                     only where the caller is root (sandboxes then run as users of their own).
no foreign process   As root anywhere; as another user with Landlock of Linux 6.12 or later.
memory               `memory` bounds each process, and `processes` how many there may be.
===================  ==============================================================================

Inside, ``/proc``, ``/dev/shm`` and ``/dev/stdout`` can't be opened, a process can't leave its
group, and `multiprocessing` has no locks. Other systems than Linux: use docker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gym_adapters.deadline import SharedSlots
from gym_adapters.errors import SandboxError, Unsupported
from gym_adapters.sandbox import confinement
from gym_adapters.sandbox.fork_client import ForkClient
from gym_adapters.sandbox.protocol import Execution, Guarantees, SandboxLimits
from gym_adapters.sandbox.workspace import sandbox_user

__all__ = ["ProcessSandbox", "open_process_sandbox"]

log = logging.getLogger(__name__)

SYSTEM_PATHS = (
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/sbin",
    "/usr",
    "/etc/alternatives",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/passwd",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
)
DEVICES = ("/dev/null", "/dev/full")
RECURSION_LIMIT = 50_000
DEFAULT_PRELOAD = ("array", "cmath", "decimal", "fractions", "queue", "time")


class ProcessSandbox:
    """Runs commands and Python programs in confined processes. Make it by `open_process_sandbox`.

    Args:
        client: The fork server.
        limits: Bounds where a call names none.
        concurrency: Executions at once; the rest wait.
        readable: Files and folders that commands may read, beside the system's.
        guarantees: What holds on this machine.
        scratch: An empty folder for programs that need none.
    """

    def __init__(
        self,
        client: ForkClient,
        *,
        limits: SandboxLimits,
        concurrency: int,
        readable: Sequence[Path],
        guarantees: Guarantees,
        scratch: Path,
    ) -> None:
        self._client = client
        self._limits = limits
        self._slots = SharedSlots(concurrency)
        self._readable = [*SYSTEM_PATHS, *_interpreter_paths(), *map(str, readable)]
        self._guarantees = guarantees
        self._scratch = scratch

    @property
    def guarantees(self) -> Guarantees:
        """What it holds its commands to on this machine."""
        return self._guarantees

    @property
    def limits(self) -> SandboxLimits:
        """Bounds where a call names none."""
        return self._limits

    async def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
    ) -> Execution:
        """Run `command` in `folder`; see `Sandbox.run`. As root it runs as the folder's owner."""
        bounds = limits if limits is not None else self._limits
        try:
            owner = os.stat(folder).st_uid if confinement.may_change_users() else None
        except OSError as error:
            raise SandboxError(f"the folder of a command: {error}") from error
        spec = {
            **self._spec(folder, bounds, owner or sandbox_user(), writable=[str(folder)]),
            "command": list(command),
        }
        spec["environment"].update(environment or {})
        async with self._slots.taken():
            return await self._client.run(spec, stdin, bounds)

    async def run_python(
        self,
        program: str,
        *,
        stdin: str = "",
        function: str | None = None,
        arguments: Sequence[str] = (),
        with_names: bool = False,
        limits: SandboxLimits | None = None,
    ) -> Execution:
        """Run a Python program in a forked interpreter, without a folder of its own.

        Args:
            program: Its source; it runs as ``__main__``.
            stdin: What it reads.
            function: A function of it, or a method of its class ``Solution``, to call afterwards;
                `Execution.result` is what it returned.
            arguments: The function's arguments, each as JSON.
            with_names: Let it use common modules and their names without importing them.
            limits: Bounds; by default the sandbox's own.

        Raises:
            SandboxError: If the sandbox itself failed.
        """
        bounds = limits if limits is not None else self._limits
        spec = {
            **self._spec(self._scratch, bounds, sandbox_user(), writable=[]),
            "program": program,
            "function": function,
            "arguments": list(arguments),
            "with_names": with_names,
            "recursion_limit": RECURSION_LIMIT,
        }
        async with self._slots.taken():
            return await self._client.run(spec, stdin, bounds)

    def _spec(
        self, folder: Path, limits: SandboxLimits, uid: int | None, *, writable: list[str]
    ) -> dict[str, Any]:
        own = confinement.Confinement(
            readable=self._readable,
            writable=[*writable, *DEVICES],
            cpu_time=limits.cpu_time,
            memory=limits.memory,
            file_size=limits.file_size,
            processes=limits.processes,
            uid=uid,
        )
        programs = Path(sys.executable).parent
        environment = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return {"confinement": asdict(own), "folder": str(folder), "environment": environment}


@asynccontextmanager
async def open_process_sandbox(
    *,
    limits: SandboxLimits | None = None,
    concurrency: int | None = None,
    readable: Sequence[Path] = (),
    preload: Sequence[str] = DEFAULT_PRELOAD,
    restrict_files: bool = True,
    restrict_calls: bool = True,
) -> AsyncIterator[ProcessSandbox]:
    """A `ProcessSandbox` for the length of the block.

    Args:
        limits: Bounds where a call names none.
        concurrency: Executions at once; by default as many as there are processors.
        readable: Files and folders that commands may read, beside the system's.
        preload: Modules that are imported once for all Python programs.
        restrict_files: Whether to use Landlock where the kernel has it.
        restrict_calls: Whether to filter system calls where the machine's numbers are known.

    Raises:
        Unsupported: On another system than Linux.
        SandboxError: If it can't be started.
    """
    if not sys.platform.startswith("linux"):
        raise Unsupported(
            f"the process sandbox needs Linux, and this is {sys.platform}; use sandbox=docker"
        )
    client = ForkClient(
        preload=preload, restrict_files=restrict_files, restrict_calls=restrict_calls
    )
    scratch = await asyncio.to_thread(_scratch_folder)
    try:
        ready = await client.start()
        guarantees = _guarantees(ready["landlock"], restrict_calls)
        if guarantees.missing:
            log.warning(
                "on this machine the process sandbox gives no protection of: %s",
                ", ".join(guarantees.missing),
            )
        yield ProcessSandbox(
            client,
            limits=limits if limits is not None else SandboxLimits(),
            concurrency=concurrency or os.cpu_count() or 1,
            readable=readable,
            guarantees=guarantees,
            scratch=scratch,
        )
    finally:
        await client.close()
        scratch.rmdir()


def _scratch_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sandbox-")).resolve()
    # Programs of any user may stand in it; none may write to it.
    folder.chmod(0o755)
    return folder


def _interpreter_paths() -> list[str]:
    """Where this interpreter's programs and libraries are; its scripts are in its prefix."""
    places = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent)}
    return sorted(places)


def _guarantees(landlock: int, filters_calls: bool) -> Guarantees:
    calls = filters_calls and confinement.system_call_numbers() is not None
    return Guarantees(
        files=landlock > 0,
        network=calls,
        processes=confinement.may_change_users() or landlock >= 6,
        memory=True,
    )
