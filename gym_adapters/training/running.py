"""Running the commands of a plan, and what they leave in the run's folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import orjson
import yaml

from gym_adapters.errors import UsageError
from gym_adapters.rollouts.manifest import without_secrets
from gym_adapters.rollouts.run_folder import OnExisting
from gym_adapters.training.steps import Plan, RunPaths, Step
from gym_adapters.training.trainer_metrics import write_flat

__all__ = ["RunResult", "StepResult", "recipe_text", "run_plan"]

# Seconds that a command has to end by itself once it is asked to.
PATIENCE = 30.0
BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class StepResult:
    """One command that has ended.

    Attributes:
        name: Of the step.
        exit_code: Of its command; below 0 for the signal that ended it.
        seconds: Wall time.
        command: For a shell.
    """

    name: str
    exit_code: int
    seconds: float
    command: str


@dataclass(slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        status: ``running``, ``finished``, ``failed`` or ``stopped``.
        checkpoint: The trained policy; ``None`` where there is none yet.
        steps: Commands that have ended, those of earlier sessions included.
    """

    status: str = "running"
    checkpoint: str | None = None
    steps: list[StepResult] = field(default_factory=list)

    @property
    def failed(self) -> StepResult | None:
        """The command that failed; ``None`` where none did."""
        return next((step for step in self.steps if step.exit_code), None)


async def run_plan(
    plan: Plan,
    *,
    on_existing: OnExisting = OnExisting.REFUSE,
    show: Callable[[bytes], None],
    began: Callable[[Step], None] | None = None,
) -> RunResult:
    """Run the commands one after the other, up to the first that fails.

    A resumed run skips the commands before the last that have succeeded.

    Args:
        plan: What to run.
        on_existing: What to do with a folder that holds a run.
        show: Given all that the commands print, as it comes.
        began: Told of each command.

    Raises:
        UsageError: If the folder is in use, or `on_existing` does not allow for what it holds.
        OSError: If files can't be written, or a program isn't there.
    """
    paths = plan.paths
    with _held(paths, on_existing) as earlier:
        _write_beginning(plan)
        result = RunResult(steps=list(earlier))
        _write_result(paths, result)
        result.steps.clear()
        servers: list[asyncio.subprocess.Process] = []
        try:
            with paths.log.open("ab") as log:
                for index, step in enumerate(plan.steps):
                    done = _done_before(earlier, step) if index + 1 < len(plan.steps) else None
                    if done is not None:
                        result.steps.append(done)
                        continue
                    if began is not None:
                        began(step)
                    if step.background:
                        servers.append(await _start(step, log))
                        continue
                    result.steps.append(await _run(step, log, show))
                    _write_result(paths, result)
                    if result.failed is not None:
                        break
            result.status = "finished" if result.failed is None else "failed"
        except asyncio.CancelledError:
            result.status = "stopped"
            raise
        finally:
            for server in servers:
                await _end(server)
            if plan.trainer_metrics is not None:
                write_flat(plan.trainer_metrics, paths.metrics)
            # A run that is stopped has its checkpoints too; what is there is told.
            checkpoint = plan.checkpoint()
            result.checkpoint = None if checkpoint is None else str(checkpoint)
            _write_result(paths, result)
    return result


def recipe_text(plan: Plan) -> str:
    """The recipe as YAML, with all that was merged, free of secrets."""
    data = plan.recipe.model_dump(mode="json", exclude={"smoke"}, exclude_none=True)
    return str(yaml.safe_dump(without_secrets(data), sort_keys=False, width=100))


def commands_text(plan: Plan) -> str:
    """The commands as a shell script."""
    parts = [f"# {step.name}\n{step.shell()}\n" for step in plan.steps]
    return "\n".join(["#!/bin/sh\nset -e\n", *parts])


@contextmanager
def _held(paths: RunPaths, on_existing: OnExisting) -> Iterator[Sequence[StepResult]]:
    """The folder, ours alone; gives the commands that were run in it before."""
    paths.folder.mkdir(parents=True, exist_ok=True)
    with (paths.folder / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another training writes to {paths.folder}. Fix: wait for it, or give another "
                "--output"
            ) from None
        except OSError:
            # Some network file systems have no locks; then there is nothing to ask.
            pass
        yield _earlier(paths, on_existing)


def _earlier(paths: RunPaths, on_existing: OnExisting) -> Sequence[StepResult]:
    there = sorted(entry.name for entry in paths.folder.iterdir() if entry.name != ".lock")
    if not there:
        return ()
    if not paths.result.is_file():
        raise UsageError(
            f"{paths.folder} is not empty and holds no training, but {', '.join(there[:3])}. "
            "Fix: give a new folder with --output"
        )
    if on_existing is OnExisting.REFUSE:
        raise UsageError(
            f"{paths.folder} holds a training already. Fix: go on with it with --resume, throw "
            "it away with --overwrite, or give another folder with --output"
        )
    if on_existing is OnExisting.OVERWRITE:
        for name in there:
            entry = paths.folder / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return ()
    try:
        steps = orjson.loads(paths.result.read_bytes())["steps"]
        return [StepResult(**step) for step in steps]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{paths.result} can't be read: {error}. Fix: --overwrite") from error


def _done_before(earlier: Sequence[StepResult], step: Step) -> StepResult | None:
    for done in earlier:
        if done.name == step.name and done.command == step.shell() and done.exit_code == 0:
            return done
    return None


def _write_beginning(plan: Plan) -> None:
    paths = plan.paths
    paths.recipe.write_text(recipe_text(plan), encoding="utf-8")
    paths.commands.write_text(commands_text(plan), encoding="utf-8")
    paths.commands.chmod(0o755)


def _write_result(paths: RunPaths, result: RunResult) -> None:
    data: dict[str, Any] = asdict(result)
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    draft = paths.result.with_name(f"{paths.result.name}.draft")
    draft.write_bytes(orjson.dumps(data, option=options))
    draft.replace(paths.result)


async def _start(step: Step, output: IO[bytes] | int) -> asyncio.subprocess.Process:
    folder = None if step.folder is None else os.path.expandvars(step.folder)
    if not isinstance(output, int):
        output.flush()
    return await asyncio.create_subprocess_exec(
        *step.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **step.variables},
        cwd=folder,
        # A group of its own: what it starts in turn is ended with it.
        start_new_session=True,
    )


async def _run(step: Step, log: IO[bytes], show: Callable[[bytes], None]) -> StepResult:
    started = time.perf_counter()
    log.write(f"\n$ {step.shell()}\n".encode())
    process = await _start(step, asyncio.subprocess.PIPE)
    if process.stdout is None:
        raise RuntimeError("a process was started without its output")
    try:
        while block := await process.stdout.read(BLOCK):
            log.write(block)
            log.flush()
            show(block)
        code = await process.wait()
    finally:
        await _end(process)
    return StepResult(step.name, code, round(time.perf_counter() - started, 2), step.shell())


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command and whatever it started, by its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        _signal(process, number)
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except TimeoutError:
            continue
    # Children that outlived it.
    _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        # The group has ended.
        return
