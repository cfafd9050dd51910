"""What a sandbox is: a place where a command that nobody trusts runs and comes to an end.

Whatever the command does (crash, hang, write without end, fork without end) is an `Execution`. Only
a fault of the place itself raises: `SandboxError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Execution", "Guarantees", "Sandbox", "SandboxLimits"]

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Bounds on one execution.

    Attributes:
        wall_time: Seconds until everything is killed.
        cpu_time: Seconds of CPU of each process.
        memory: Bytes of address space of each process (of the whole container with docker).
        output: Bytes kept of standard output, and of standard error.
        file_size: Bytes of the largest file it may write; output beyond it fails, too.
        processes: Processes and threads at once.
    """

    wall_time: float = 10.0
    cpu_time: float = 10.0
    memory: int = 1024 * MEBIBYTE
    output: int = MEBIBYTE
    file_size: int = 64 * MEBIBYTE
    processes: int = 64


@dataclass(frozen=True, slots=True)
class Execution:
    """How a command or a program ended.

    Attributes:
        exit_code: Its exit status; minus the signal's number where a signal ended it.
        stdout: What it wrote, at most `SandboxLimits.output` bytes, undecodable bytes replaced.
        stderr: The same for standard error.
        timed_out: Whether the wall time was up.
        truncated: Whether there was more output than was kept.
        seconds: Wall time from start to end.
        result: What the called function returned, as JSON; ``None`` for anything else.
    """

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool
    truncated: bool
    seconds: float
    result: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it came to its own end with exit status 0."""
        return self.exit_code == 0 and not self.timed_out


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a sandbox holds its commands to, on this machine.

    Attributes:
        files: They can't read outside their folder and the system's programs and libraries.
        network: They can't open a socket to anywhere.
        processes: They can't see, signal or trace a process outside.
        memory: They can't take more memory than they are given.
    """

    files: bool
    network: bool
    processes: bool
    memory: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of those that don't hold."""
        return tuple(
            name for name in ("files", "network", "processes", "memory") if not getattr(self, name)
        )


class Sandbox(Protocol):
    """Runs commands that nobody trusts."""

    @property
    def guarantees(self) -> Guarantees:
        """What it holds its commands to."""
        ...

    async def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
    ) -> Execution:
        """Run `command` to its end, and kill whatever it left running.

        Args:
            command: The program and its arguments; no shell is involved.
            folder: Where it runs, and all it may write to; see `Workspace`.
            stdin: What it reads.
            environment: Variables beside ``PATH``, ``HOME`` and ``LANG``; nothing is inherited.
            limits: Bounds; by default the sandbox's own.

        Raises:
            SandboxError: If the sandbox itself failed.
        """
        ...
