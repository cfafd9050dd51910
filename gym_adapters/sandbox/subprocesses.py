"""Running one program as a process group with bounded output and time: what wrappers stand on."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from gym_adapters.errors import SandboxError
from gym_adapters.sandbox.protocol import Execution, SandboxLimits

__all__ = ["Announced", "run_group"]

CHUNK = 65536
# Writes its first argument to standard error, then becomes the rest.
ANNOUNCE = 'printf "%s" "$1" >&2; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Announced:
    """A command that tells by a word nobody can guess that the wrapper around it did its part.

    Whether a wrapper failed, or the command did, can't be told from exit status and messages: the
    command chooses both. What it can't do is take the word back.
    """

    command: Sequence[str]
    word: str

    @classmethod
    def of(cls, command: Sequence[str]) -> Announced:
        """`command`, announced by a fresh word."""
        word = secrets.token_hex(16)
        return cls(["sh", "-c", ANNOUNCE, "sh", word, *command], word)

    def read(self, execution: Execution, wrapper: str) -> Execution:
        """`execution` without the word.

        Raises:
            SandboxError: If the word is not there, so `wrapper` failed.
        """
        if execution.stderr.startswith(self.word):
            return replace(execution, stderr=execution.stderr[len(self.word) :])
        if execution.timed_out:
            raise SandboxError(f"{wrapper} did not start the command in time")
        raise SandboxError(f"{wrapper} could not start the command: {execution.stderr.strip()}")


async def run_group(
    command: Sequence[str],
    *,
    stdin: str,
    environment: Mapping[str, str],
    limits: SandboxLimits,
    on_timeout: Callable[[], Awaitable[None]] | None = None,
    uid: int | None = None,
) -> Execution:
    """Run `command` in a session of its own, and kill the whole session at its end.

    Args:
        command: The program and its arguments.
        stdin: What it reads.
        environment: All of its environment.
        limits: `wall_time` and `output` are held here; the rest is the wrapper's business.
        uid: User and group to run as; by default the caller's.
        on_timeout: Called when the wall time is up or the wait is cancelled, before the kill.

    Raises:
        SandboxError: If the program could not be started.
    """
    began = time.monotonic()
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
    except OSError as error:
        raise SandboxError(f"{command[0]} can't be started: {error}") from error
    except asyncio.CancelledError:
        # The program is gone by now; what it may have had another process do is not.
        if on_timeout is not None:
            await on_timeout()
        raise
    timed_out = False
    stdout, stderr = bytearray(), bytearray()
    # The pipes end when the last process of the group has closed them, or with the kill below.
    reading = asyncio.gather(
        _write(process, stdin),
        _drain(process.stdout, stdout, limits.output),
        _drain(process.stderr, stderr, limits.output),
        process.wait(),
    )
    try:
        async with asyncio.timeout(limits.wall_time):
            await asyncio.shield(reading)
    except TimeoutError:
        timed_out = True
    finally:
        if not reading.done() and on_timeout is not None:
            await on_timeout()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await reading
    most = limits.output
    return Execution(
        exit_code=process.returncode if process.returncode is not None else -signal.SIGKILL,
        stdout=bytes(stdout[:most]).decode(errors="replace"),
        stderr=bytes(stderr[:most]).decode(errors="replace"),
        timed_out=timed_out,
        truncated=len(stdout) > most or len(stderr) > most,
        seconds=time.monotonic() - began,
    )


async def _write(process: asyncio.subprocess.Process, text: str) -> None:
    if process.stdin is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(text.encode("utf-8", errors="surrogateescape"))
        await process.stdin.drain()
    process.stdin.close()


async def _drain(stream: asyncio.StreamReader | None, kept: bytearray, most: int) -> None:
    while stream is not None and (chunk := await stream.read(CHUNK)):
        # One byte past the limit tells that there was more.
        kept += chunk[: max(0, most + 1 - len(kept))]
