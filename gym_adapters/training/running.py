"""Running the commands of a plan, and what they leave in the run's folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import orjson
import yaml

from gym_adapters.errors import UsageError
from gym_adapters.rollouts.manifest import without_secrets
from gym_adapters.rollouts.run_folder import OnExisting
from gym_adapters.training.recipe import LAUNCH
from gym_adapters.training.steps import Plan, RunPaths, Step
from gym_adapters.training.trainer_metrics import write_flat

__all__ = ["RunResult", "StepResult", "end_groups", "recipe_text", "run_plan"]

# Seconds that a command has to end by itself once it is asked to.
PATIENCE = 30.0
BLOCK = 65_536
# Seconds to go on reading what a command's children print once it has ended.
AFTERWORD = 2.0
# Seconds between looks at whether a command has ended.
POLL = 0.05
# What decides what is learnt from what: a run can't go on with another.
LASTING = ("trainer", "method", "model", "environments", "held_out", "seed", "rollouts")
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
    groups: set[int] | None = None,
) -> RunResult:
    """Run the commands one after the other, up to the first that fails.

    A resumed run skips the commands before the last that have succeeded.

    Args:
        plan: What to run.
        on_existing: What to do with a folder that holds a run.
        show: Given all that the commands print, as it comes.
        began: Told of each command.
        groups: Holds the process groups of the commands that run, for `end_groups`.

    Raises:
        UsageError: If the folder is in use, or `on_existing` does not allow for what it holds, or a
            program isn't there.
        OSError: If files can't be written.
    """
    paths = plan.paths
    groups = groups if groups is not None else set()
    _check_programs(plan.steps)
    with _held(plan, on_existing) as earlier:
        if on_existing is OnExisting.RESUME:
            plan.rewind()
        _write_beginning(plan)
        result = RunResult(steps=list(earlier))
        _write_result(paths, result)
        result.steps.clear()
        servers: dict[str, asyncio.subprocess.Process] = {}
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
                        servers[step.name] = await _start(step, log, groups)
                        continue
                    result.steps.append(await _run(step, log, show, servers, groups))
                    _write_result(paths, result)
                    if result.failed is not None:
                        break
            result.status = "finished" if result.failed is None else "failed"
        except asyncio.CancelledError:
            result.status = "stopped"
            raise
        except OSError:
            result.status = "failed"
            raise
        finally:
            for server in servers.values():
                await _end(server, groups)
            if plan.trainer_metrics is not None:
                write_flat(plan.trainer_metrics, paths.metrics)
            # A run that is stopped has its checkpoints too; what is there is told.
            checkpoint = plan.checkpoint()
            result.checkpoint = None if checkpoint is None else str(checkpoint)
            _write_result(paths, result)
    return result


def end_groups(groups: set[int]) -> None:
    """End at once what runs in some process groups."""
    for group in tuple(groups):
        _signal(group, signal.SIGKILL)


def recipe_text(plan: Plan) -> str:
    """The recipe as YAML, with all that was merged, free of secrets and of other trainers' keys."""
    recipe = plan.recipe
    others = {key for key in type(recipe.launch).model_fields if key not in LAUNCH[recipe.trainer]}
    data = recipe.model_dump(
        mode="json", exclude={"smoke": True, "launch": others}, exclude_none=True
    )
    return str(yaml.safe_dump(without_secrets(data), sort_keys=False, width=100))


def commands_text(plan: Plan) -> str:
    """The commands as a shell script."""
    parts = [f"# {step.name}\n{step.shell()}\n" for step in plan.steps]
    return "\n".join(["#!/bin/sh\nset -e\n", *parts])


@contextmanager
def _held(plan: Plan, on_existing: OnExisting) -> Iterator[Sequence[StepResult]]:
    """The folder, ours alone; gives the commands that were run in it before."""
    paths = plan.paths
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
        yield _earlier(plan, on_existing)


def _earlier(plan: Plan, on_existing: OnExisting) -> Sequence[StepResult]:
    paths = plan.paths
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
    _check_lasting(plan)
    try:
        steps = orjson.loads(paths.result.read_bytes())["steps"]
        return [StepResult(**step) for step in steps]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{paths.result} can't be read: {error}. Fix: --overwrite") from error


def _check_lasting(plan: Plan) -> None:
    """Refuse to go on from the checkpoints of another recipe."""
    try:
        earlier = yaml.safe_load(plan.paths.recipe.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError):
        return
    now = yaml.safe_load(recipe_text(plan))
    for key in LASTING:
        if isinstance(earlier, dict) and earlier.get(key) != now.get(key):
            raise UsageError(
                f"{plan.paths.folder} holds a training with {_shown(key, earlier)}, not "
                f"{_shown(key, now)}. Fix: resume it with the recipe and the changes it began with "
                "(recipe.yaml there), or give another folder with --output"
            )


def _shown(key: str, recipe: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(recipe.get(key), default_flow_style=True, width=10**6)
    return f"{key} {text.split(chr(10))[0]}"


def _check_programs(steps: Sequence[Step]) -> None:
    """Before anything is written."""
    for step in steps:
        folder = _folder_of(step)
        if folder is not None and not os.path.isdir(folder):
            name = str(step.folder).removeprefix("$")
            what = f"{name} names no folder" if name != step.folder else f"there is no {folder}"
            raise UsageError(f"{what}, where the {step.name} must run. Fix: export {name}=FOLDER")
        if shutil.which(step.command[0]) is None:
            raise UsageError(
                f"the {step.name} runs {step.command[0]!r}, and no such program is on the PATH. "
                "Fix: install it, or activate the environment that has it"
            )


def _folder_of(step: Step) -> str | None:
    return None if step.folder is None else os.path.expandvars(step.folder)


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


async def _start(
    step: Step, output: IO[bytes] | int, groups: set[int]
) -> asyncio.subprocess.Process:
    if not isinstance(output, int):
        output.flush()
    process = await asyncio.create_subprocess_exec(
        *step.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **step.variables},
        cwd=_folder_of(step),
        # A group of its own: what it starts in turn is ended with it.
        start_new_session=True,
    )
    groups.add(process.pid)
    return process


async def _run(
    step: Step,
    log: IO[bytes],
    show: Callable[[bytes], None],
    servers: Mapping[str, asyncio.subprocess.Process],
    groups: set[int],
) -> StepResult:
    """Run a command to its end, or to that of a server that it needs."""
    started = time.perf_counter()
    log.write(f"\n$ {step.shell()}\n".encode())
    begins = log.tell()
    process = await _start(step, asyncio.subprocess.PIPE, groups)
    if process.stdout is None:
        raise RuntimeError("a process was started without its output")
    reading = asyncio.create_task(_copy(process.stdout, log, show))
    waits = {
        asyncio.create_task(_ended(each)): name
        for name, each in {**servers, step.name: process}.items()
    }
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        name, code = next((waits[each], each.result()) for each in waits if each.done())
        if name == step.name:
            # A child may hold the pipe open for good.
            await asyncio.wait([reading], timeout=AFTERWORD)
    finally:
        for each in waits:
            each.cancel()
        await _end(process, groups)
        # With the last child the pipe ends, and only then is it closed.
        await asyncio.wait([reading], timeout=AFTERWORD)
        reading.cancel()
        await asyncio.wait([reading])
    if not reading.cancelled() and (problem := reading.exception()) is not None:
        raise problem
    # A server that has ended fails the run, whatever its code.
    code = code if name == step.name else code or 1
    seconds = round(time.perf_counter() - started, 2)
    cause = _cause(log, begins) if code else None
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


async def _end(process: asyncio.subprocess.Process, groups: set[int]) -> None:
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
