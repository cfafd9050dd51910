"""Running the commands of a plan, and what they leave in the run's folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import yaml

from gym_adapters.errors import UsageError
from gym_adapters.rollouts.manifest import without_secrets
from gym_adapters.rollouts.run_folder import OnExisting
from gym_adapters.training.recipe import LAUNCH
from gym_adapters.training.step_processes import (
    RunningStep,
    StepResult,
    end_process,
    folder_of,
    run_step,
    start_step,
)
from gym_adapters.training.steps import Plan, RunPaths, Step
from gym_adapters.training.trainer_metrics import write_flat

__all__ = ["RunResult", "recipe_text", "run_plan"]

# What decides what is learnt from what: a run can't go on with another.
LASTING = ("trainer", "method", "model", "environments", "held_out", "seed", "rollouts")


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
        servers: dict[str, RunningStep] = {}
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
                        begins = log.seek(0, os.SEEK_END)
                        servers[step.name] = RunningStep(
                            await start_step(step, log, groups), begins
                        )
                        continue
                    result.steps.append(await run_step(step, log, show, servers, groups))
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
                await end_process(server.process, groups)
            if plan.trainer_metrics is not None:
                write_flat(plan.trainer_metrics, paths.metrics)
            # A run that is stopped has its checkpoints too; what is there is told.
            checkpoint = plan.checkpoint()
            result.checkpoint = None if checkpoint is None else str(checkpoint)
            _write_result(paths, result)
    return result


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
        folder = folder_of(step)
        if folder is not None and not os.path.isdir(folder):
            name = str(step.folder).removeprefix("$")
            what = f"{name} names no folder" if name != step.folder else f"there is no {folder}"
            raise UsageError(f"{what}, where the {step.name} must run. Fix: export {name}=FOLDER")
        if shutil.which(step.command[0]) is None:
            raise UsageError(
                f"the {step.name} runs {step.command[0]!r}, and no such program is on the PATH. "
                "Fix: install it, or activate the environment that has it"
            )


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
