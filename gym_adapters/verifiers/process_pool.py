"""Warm processes for verdicts that may take too long, or run what a model wrote.

A process serves one request at a time, see `gym_adapters.verifiers.process_worker`. One that
dies, or that does not answer in time, is replaced when the next request needs it. The limit is on
CPU time, so that a busy machine changes no verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gym_adapters.deadline import SharedSlots
from gym_adapters.errors import VerifierError

__all__ = ["ProcessPool"]

_WORKER = Path(__file__).with_name("process_worker.py")

# Caches of libraries grow with use.
_MOST_REQUESTS = 5000
_LONGEST_LINE = 1 << 20


class _Died(Exception):
    """A process ended before it replied; `signal_number` is what ended it, 0 for its own exit."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"signal {signal_number}")


class _Worker:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.requests = 0

    @classmethod
    async def start(cls, module: Path) -> Self:
        # -P: what lies beside the script must not stand in for Python's own modules.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            str(_WORKER),
            str(module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LONGEST_LINE,
        )
        return cls(process)

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise VerifierError("a verifier's process has no pipes")
        self.requests += 1
        with contextlib.suppress(ConnectionError):  # then it is dead, and the reply will be empty
            stdin.write(json.dumps(request).encode() + b"\n")
            await stdin.drain()
        line = await stdout.readline()
        if not line.endswith(b"\n"):
            raise _Died(-min(0, await self._process.wait()))
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()
        if self._process.stdout is not None:
            # Only at its end does the pipe let go of the process's transport.
            await self._process.stdout.read()


class ProcessPool:
    """Processes that run one module. Use it as an async context manager.

    Args:
        module: A Python file that defines ``answer(request)``, and imports nothing of this library.
        workers: Most processes; each is started when it is first needed.
        cpu_limit: Seconds of CPU time for one request.
        wall_limit: Seconds of wall time for one request, the start of a process included.
    """

    def __init__(
        self, module: Path, *, workers: int, cpu_limit: float, wall_limit: float = 100.0
    ) -> None:
        self._module = module
        self._cpu_limit, self._wall_limit = cpu_limit, wall_limit
        self._idle: list[_Worker] = []
        self._free = SharedSlots(workers)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def close(self) -> None:
        """Stop all processes; requests under way end theirs themselves."""
        self._closed = True
        while self._idle:
            await self._idle.pop().stop()

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The reply to `request`; ``None`` if it used up its CPU time.

        Where the module raised an exception, the reply has ``error``, its name, and ``message``.

        Raises:
            VerifierError: If the process dies of something else, or the wall limit passes.
        """
        async with self._free.taken():
            self._check_open()
            worker = self._idle.pop() if self._idle else await _Worker.start(self._module)
            try:
                reply = await self._reply(worker, {**request, "cpu_limit": self._cpu_limit})
            except BaseException:
                await asyncio.shield(worker.stop())
                raise
            if reply is None or self.closed or worker.requests >= _MOST_REQUESTS:
                await worker.stop()
            else:
                self._idle.append(worker)
        return reply

    def _check_open(self) -> None:
        if self._closed:
            raise VerifierError("the pool of verifier processes is closed")

    async def _reply(self, worker: _Worker, request: Mapping[str, Any]) -> dict[str, Any] | None:
        name = self._module.stem
        try:
            async with asyncio.timeout(self._wall_limit):
                return await worker.ask(request)
        except TimeoutError as error:
            raise VerifierError(f"{name} gave no verdict in {self._wall_limit} s") from error
        except _Died as error:
            if error.signal_number == signal.SIGPROF:
                return None
            raise VerifierError(f"a process of {name} died ({error})") from error
