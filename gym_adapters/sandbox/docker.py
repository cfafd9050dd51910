"""A sandbox by docker's command line: one throw-away container a command."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

from gym_adapters.deadline import SharedSlots
from gym_adapters.errors import SandboxError
from gym_adapters.sandbox.protocol import Execution, Guarantees, SandboxLimits
from gym_adapters.sandbox.subprocesses import Announced, run_group

__all__ = ["DockerSandbox", "open_docker_sandbox"]

PROBE_TIMEOUT = 10.0


class DockerSandbox:
    """Runs each command in a fresh container without network. Make it by `open_docker_sandbox`.

    Args:
        program: Path of the ``docker`` (or ``podman``) program.
        image: The image that commands run in. It must be on the machine: nothing is pulled.
        limits: Bounds where a call names none.
        concurrency: Containers at once; the rest wait.
    """

    def __init__(
        self, program: str, image: str, *, limits: SandboxLimits, concurrency: int
    ) -> None:
        self._program, self._image = program, image
        self._limits = limits
        self._slots = SharedSlots(concurrency)

    @property
    def guarantees(self) -> Guarantees:
        """All of them."""
        return Guarantees(files=True, network=True, processes=True, memory=True)

    def with_image(self, image: str) -> DockerSandbox:
        """One for commands in `image`, with the same limits; they wait for the same slots."""
        other = copy(self)
        other._image = image
        return other

    async def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
    ) -> Execution:
        """Run `command` in `folder`, mounted at its own path; see `Sandbox.run`."""
        bounds = limits if limits is not None else self._limits
        name = f"gym-adapters-{secrets.token_hex(8)}"
        announced = Announced.of(command)
        words = self._container(name, folder, bounds, environment or {})

        async def kill() -> None:
            await self._quietly("kill", name)

        async with self._slots.taken():
            execution = await run_group(
                [*words, *announced.command],
                stdin=stdin,
                environment=_client_environment(),
                limits=bounds,
                on_timeout=kill,
            )
        return announced.read(execution, "docker")

    def _container(
        self, name: str, folder: Path, limits: SandboxLimits, environment: Mapping[str, str]
    ) -> list[str]:
        owner = folder.stat()
        words = [self._program, "run", "--rm", "--interactive", "--name", name]
        # A pull would count as the command's own time, and reach for the network unasked.
        words += ["--pull", "never"]
        words += ["--network", "none", "--cap-drop", "ALL", "--read-only", "--tmpfs", "/tmp"]
        words += ["--security-opt", "no-new-privileges", "--pids-limit", str(limits.processes)]
        words += ["--memory", str(limits.memory), "--memory-swap", str(limits.memory)]
        words += ["--ulimit", f"fsize={limits.file_size}", "--ulimit", "core=0"]
        words += ["--ulimit", f"cpu={max(1, -int(-limits.cpu_time // 1))}"]
        words += ["--user", f"{owner.st_uid}:{owner.st_gid}"]
        words += ["--volume", f"{folder}:{folder}", "--workdir", str(folder)]
        for key, value in {"HOME": str(folder), "LANG": "C.UTF-8", **environment}.items():
            words += ["--env", f"{key}={value}"]
        return [*words, self._image]

    async def _quietly(self, *words: str) -> None:
        limits = SandboxLimits(wall_time=PROBE_TIMEOUT)
        await run_group(
            [self._program, *words], stdin="", environment=_client_environment(), limits=limits
        )


async def open_docker_sandbox(
    *, image: str, limits: SandboxLimits | None = None, concurrency: int = 4
) -> DockerSandbox:
    """A `DockerSandbox`, once an engine has answered.

    Raises:
        SandboxError: If there is no ``docker`` program, or no engine answers it.
    """
    program = shutil.which("docker") or shutil.which("podman")
    if program is None:
        raise SandboxError("the docker sandbox needs docker or podman; neither is installed")
    probe = await run_group(
        [program, "version", "--format", "{{.Server.Version}}"],
        stdin="",
        environment=_client_environment(),
        limits=SandboxLimits(wall_time=PROBE_TIMEOUT),
    )
    if not probe.succeeded:
        why = probe.stderr.strip() or "it did not answer in time"
        raise SandboxError(f"no docker engine answers: {why}")
    bounds = limits if limits is not None else SandboxLimits()
    return DockerSandbox(program, image, limits=bounds, concurrency=concurrency)


def _client_environment() -> dict[str, str]:
    """What docker's own client needs to find its engine; containers see none of it."""
    kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "XDG_RUNTIME_DIR")
    return {name: os.environ[name] for name in kept if name in os.environ}
