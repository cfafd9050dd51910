"""The commands of a plan as processes: run to their end, or ended with all that they started."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, NamedTuple

from gym_adapters.training.steps import Step

__all__ = [
    "RunningStep",
    "StepResult",
    "end_groups",
    "end_process",
    "folder_of",
    "run_step",
    "start_step",
]

# Seconds that a command has to end by itself once it is asked to.
PATIENCE = 30.0
BLOCK = 65_536
# Seconds to go on reading what a command's children print once it has ended.
AFTERWORD = 2.0
# Seconds between looks at whether a command has ended.
POLL = 0.05
# What ends a traceback, or what our own commands say; launchers' words for it tell nothing.
_CAUSE = re.compile(
    rb"^(?:error: .+|(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Failure)(?:: .+)?)$", re.MULTILINE
)
_NO_CAUSE = (b"CalledProcessError", b"ChildFailedError")


@dataclass(frozen=True, slots=True)
class StepResult:
    """One command that has ended.

    Attributes:
        name: Of the step.
        exit_code: Of its command; below 0 for the signal that ended it.
        seconds: Wall time.
        command: For a shell.
        cause: What it said of its failure last; ``None`` where it did not fail, or said nothing.
    """

    name: str
    exit_code: int
    seconds: float
    command: str
    cause: str | None = None


def end_groups(groups: set[int]) -> None:
    """End at once what runs in some process groups."""
    for group in tuple(groups):
        _signal(group, signal.SIGKILL)


def folder_of(step: Step) -> str | None:
    """The folder in which a command runs, its variables filled in; ``None`` for this one."""
    return None if step.folder is None else os.path.expandvars(step.folder)


class RunningStep(NamedTuple):
    """A command that runs, and where in the log it begins."""

    process: asyncio.subprocess.Process
    begins: int


async def start_step(
    step: Step, output: IO[bytes] | int, groups: set[int]
) -> asyncio.subprocess.Process:
    """Start a command, in a process group of its own that joins `groups`.

    Args:
        step: The command.
        output: Where it prints to.
        groups: Process groups of the commands that run.
    """
    if not isinstance(output, int):
        output.flush()
    process = await asyncio.create_subprocess_exec(
        *step.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **step.variables},
        cwd=folder_of(step),
        # A group of its own: what it starts in turn is ended with it.
        start_new_session=True,
    )
    groups.add(process.pid)
    return process


async def run_step(
    step: Step,
    log: IO[bytes],
    show: Callable[[bytes], None],
    servers: Mapping[str, RunningStep],
    groups: set[int],
) -> StepResult:
    """Run a command to its end, or to that of a server that it needs.

    Args:
        step: The command.
        log: Given all that it prints.
        show: Given the same.
        servers: By name, commands that must not end before it does.
        groups: Process groups of the commands that run.
    """
    started = time.perf_counter()
    log.write(f"\n$ {step.shell()}\n".encode())
    begins = log.tell()
    process = await start_step(step, asyncio.subprocess.PIPE, groups)
    if process.stdout is None:
        raise RuntimeError("a process was started without its output")
    reading = asyncio.create_task(_copy(process.stdout, log, show))
    needed = {**servers, step.name: RunningStep(process, begins)}
    waits = {asyncio.create_task(_ended(each.process)): name for name, each in needed.items()}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        name, code = next((waits[each], each.result()) for each in waits if each.done())
        if name == step.name:
            # A child may hold the pipe open for good.
            await asyncio.wait([reading], timeout=AFTERWORD)
    finally:
        for each in waits:
            each.cancel()
        await end_process(process, groups)
        # With the last child the pipe ends, and only then is it closed.
        await asyncio.wait([reading], timeout=AFTERWORD)
        reading.cancel()
        await asyncio.wait([reading])
    if not reading.cancelled() and (problem := reading.exception()) is not None:
        raise problem
    # A server that has ended fails the run, whatever its code.
    code = code if name == step.name else code or 1
    seconds = round(time.perf_counter() - started, 2)
    cause = _cause(log, needed[name].begins) if code else None
    return StepResult(name, code, seconds, step.shell(), cause)


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Its exit code. ``process.wait`` waits for children that hold its output open, too."""
    while process.returncode is None:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(POLL)
    return process.returncode


async def _copy(
    output: asyncio.StreamReader, log: IO[bytes], show: Callable[[bytes], None]
) -> None:
    while block := await output.read(BLOCK):
        log.write(block)
        log.flush()
        show(block)


def _cause(log: IO[bytes], begins: int) -> str | None:
    """The last that a failed command has said of why."""
    with open(log.name, "rb") as said:
        said.seek(max(begins, said.seek(0, os.SEEK_END) - BLOCK))
        found = [
            line
            for line in _CAUSE.findall(said.read())
            if not any(launcher in line for launcher in _NO_CAUSE)
        ]
    return found[-1].decode(errors="replace")[:400].removeprefix("error: ") if found else None


async def end_process(process: asyncio.subprocess.Process, groups: set[int]) -> None:
    """End a command and whatever it started, by its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        _signal(process.pid, number)
        try:
            async with asyncio.timeout(PATIENCE):
                await _ended(process)
        except TimeoutError:
            continue
    # Children that outlived it.
    _signal(process.pid, signal.SIGKILL)
    groups.discard(process.pid)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # The group has ended.
        return
