"""The trainer's end of the fork server: starts it, sends it jobs, and notices when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from gym_adapters.errors import SandboxError
from gym_adapters.sandbox.protocol import Execution, SandboxLimits

__all__ = ["ForkClient"]

SCRIPT = Path(__file__).with_name("fork_server.py")
START_TIMEOUT = 30.0
# How long past a job's own wall time its answer may take before the server counts as dead.
GRACE = 10.0


@dataclass(frozen=True, slots=True)
class _Files:
    """The five files of a job, in memory."""

    job: int
    stdin: int
    stdout: int
    stderr: int
    result: int

    def all(self) -> list[int]:
        return [self.job, self.stdin, self.stdout, self.stderr, self.result]


class ForkClient:
    """One fork server, started when first needed and again when it has died.

    Args:
        preload: Modules the server imports before it forks.
        restrict_files: Whether to use Landlock where the kernel has it.
        restrict_calls: Whether to filter system calls where the machine's numbers are known.
    """

    def __init__(
        self, *, preload: Sequence[str], restrict_files: bool, restrict_calls: bool
    ) -> None:
        self._settings = {
            "preload": list(preload),
            "restrict_files": restrict_files,
            "restrict_calls": restrict_calls,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = count()
        self._starting = asyncio.Lock()
        self._ready: asyncio.Future[dict[str, Any]] | None = None

    async def start(self) -> Mapping[str, Any]:
        """Start the server unless it runs; gives what it said when it was ready."""
        async with self._starting:
            if self._ready is not None and self._ready.done() and self._control is not None:
                return self._ready.result()
            return await self._start()

    async def close(self) -> None:
        """End the server, and every job with it."""
        self._lost("the sandbox was closed")
        await self._reap()

    async def run(self, spec: Mapping[str, Any], stdin: str, limits: SandboxLimits) -> Execution:
        """Run the job `spec` (see ``fork_server.py``).

        Raises:
            SandboxError: If it could not be started, or the server died.
        """
        await self.start()
        number = next(self._numbers)
        with ExitStack() as stack:
            files = _open_files(stack)
            _fill(files.job, json.dumps({**spec, "wall_time": limits.wall_time}).encode())
            _fill(files.stdin, stdin.encode("utf-8", errors="surrogateescape"))
            answer = asyncio.get_running_loop().create_future()
            self._waiting[number] = answer
            try:
                await self._send({"job": number}, files.all())
                async with asyncio.timeout(limits.wall_time + GRACE):
                    said = await answer
            except TimeoutError as error:
                self._lost("the fork server does not answer")
                raise SandboxError("the fork server does not answer") from error
            except asyncio.CancelledError:
                await self._kill(number)
                raise
            finally:
                self._waiting.pop(number, None)
            return _execution(said, files, limits)

    async def _reap(self) -> None:
        """Wait for a server that was told to end, or has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def _start(self) -> dict[str, Any]:
        await self._reap()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._process = await asyncio.to_thread(_spawn, theirs, json.dumps(self._settings))
        loop = asyncio.get_running_loop()
        self._control, self._ready = ours, loop.create_future()
        loop.add_reader(ours.fileno(), self._receive)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                return await asyncio.shield(self._ready)
        except TimeoutError as error:
            self._lost("the fork server does not start")
            self._process.kill()
            raise SandboxError("the fork server does not start") from error

    def _receive(self) -> None:
        if self._control is None:
            return
        try:
            message = self._control.recv(65536 * 2)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._lost("the fork server died")
            return
        said = json.loads(message)
        future = self._ready if "ready" in said else self._waiting.get(said["job"])
        if future is not None and not future.done():
            future.set_result(said)

    def _lost(self, why: str) -> None:
        """Forget the server; every job that waits for it fails."""
        control, self._control = self._control, None
        if control is not None:
            asyncio.get_running_loop().remove_reader(control.fileno())
            control.close()
        for future in (*self._waiting.values(), self._ready):
            if future is not None and not future.done():
                future.set_exception(SandboxError(why))
                # Nobody may be waiting any more, which is no reason for a warning.
                future.exception()

    async def _send(self, header: Mapping[str, Any], fds: Sequence[int]) -> None:
        message = json.dumps(header).encode()
        for _ in range(1000):
            if self._control is None:
                raise SandboxError("the fork server died")
            try:
                socket.send_fds(self._control, [message], list(fds))
            except BlockingIOError:
                await asyncio.sleep(0.01)
                continue
            except OSError as error:
                self._lost("the fork server died")
                raise SandboxError(f"the fork server takes no job: {error}") from error
            return
        raise SandboxError("the fork server takes no job: its queue stays full")

    async def _kill(self, number: int) -> None:
        try:
            await self._send({"kill": number}, [])
        except SandboxError:
            # A server that is gone has taken its jobs with it.
            return


def _spawn(theirs: socket.socket, settings: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-B", str(SCRIPT), str(theirs.fileno()), settings]
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    try:
        return subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxError(f"the fork server can't be started: {error}") from error


def _open_files(stack: ExitStack) -> _Files:
    fds: list[int] = []
    for name in ("job", "stdin", "stdout", "stderr", "result"):
        try:
            fd = os.memfd_create(name)
        except OSError as error:
            raise SandboxError(f"no file could be opened for a job: {error}") from error
        stack.callback(os.close, fd)
        fds.append(fd)
    return _Files(*fds)


def _fill(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)


def _execution(said: Mapping[str, Any], files: _Files, limits: SandboxLimits) -> Execution:
    if said["setup"]:
        raise SandboxError(f"a sandbox could not be set up: {said['setup']}")
    stdout, more_out = _kept(files.stdout, limits.output)
    stderr, more_err = _kept(files.stderr, limits.output)
    result, _ = _kept(files.result, limits.output)
    return Execution(
        exit_code=os.waitstatus_to_exitcode(said["status"]),
        stdout=stdout,
        stderr=stderr,
        timed_out=said["timed_out"],
        truncated=more_out or more_err,
        seconds=said["seconds"],
        result=result or None,
    )


def _kept(fd: int, most: int) -> tuple[str, bool]:
    data = os.pread(fd, most + 1, 0)
    return data[:most].decode(errors="replace"), len(data) > most
