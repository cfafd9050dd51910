"""Choosing a sandbox by configuration."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gym_adapters.sandbox.bubblewrap import BubblewrapSandbox
from gym_adapters.sandbox.docker import open_docker_sandbox
from gym_adapters.sandbox.process import open_process_sandbox
from gym_adapters.sandbox.protocol import MEBIBYTE, Sandbox, SandboxLimits

__all__ = ["SandboxConfig", "open_sandbox"]


class SandboxConfig(BaseModel):
    """Which sandbox, and its bounds.

    Attributes:
        provider: ``process`` (Linux), ``bubblewrap`` or ``docker``.
        image: The image of the docker provider.
        concurrency: Executions at once; by default as many as there are processors.
        wall_time: Seconds until everything is killed.
        cpu_time: Seconds of CPU of each process.
        memory_mib: MiB of memory of each process.
        processes: Processes and threads at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Literal["process", "bubblewrap", "docker"] = "process"
    image: str = "python:3.11-slim"
    concurrency: int | None = Field(default=None, ge=1)
    wall_time: float = Field(default=10.0, gt=0)
    cpu_time: float = Field(default=10.0, gt=0)
    memory_mib: int = Field(default=1024, ge=64)
    processes: int = Field(default=64, ge=1)

    @property
    def limits(self) -> SandboxLimits:
        """The bounds as the sandbox takes them."""
        return SandboxLimits(
            wall_time=self.wall_time,
            cpu_time=self.cpu_time,
            memory=self.memory_mib * MEBIBYTE,
            processes=self.processes,
        )


@asynccontextmanager
async def open_sandbox(
    config: SandboxConfig, *, readable: Sequence[Path] = ()
) -> AsyncIterator[Sandbox]:
    """The sandbox that `config` asks for, for the length of the block.

    Raises:
        SandboxError: If it can't be had on this machine.
        Unsupported: If it needs another system.
    """
    concurrency = config.concurrency or os.cpu_count() or 1
    if config.provider == "process":
        async with open_process_sandbox(
            limits=config.limits, concurrency=concurrency, readable=readable
        ) as sandbox:
            yield sandbox
    elif config.provider == "bubblewrap":
        yield BubblewrapSandbox(limits=config.limits, concurrency=concurrency, readable=readable)
    else:
        yield await open_docker_sandbox(
            image=config.image, limits=config.limits, concurrency=concurrency
        )
