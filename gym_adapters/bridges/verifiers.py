r"""Tasksets of verifiers as environments, in an interpreter that has verifiers.

::

    gym-adapters collect gym_adapters.bridges.verifiers:VerifiersTaskset \
        --set python=./verifiers/bin/python --set taskset=my-taskset -i rows.jsonl -m ...

Prompts, tools and scoring are the taskset's; rows come from `taskset_rows`. What needs a container,
a workspace or a simulated user is refused when the attempt starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from gym_adapters.bridges.child_process import ChildAttempt, ChildConfig, ChildProcess
from gym_adapters.environment import EnvironmentConfig
from gym_adapters.errors import EnvironmentFailure, InvalidConfig, RolloutTimeout

__all__ = ["VerifiersConfig", "VerifiersTaskset", "taskset_rows"]

WORKER = Path(__file__).with_name("verifiers_worker.py")
SHOWN = 2000


class VerifiersConfig(EnvironmentConfig):
    """Which taskset, and where.

    Attributes:
        python: An interpreter that has verifiers and the taskset.
        taskset: The taskset's id.
        settings: The taskset's own settings.
        max_restarts: How often a child that died is started again.
        timeout: Seconds for one request.
    """

    python: str = "python3"
    taskset: str = ""
    settings: Mapping[str, Any] = Field(default_factory=dict)
    max_restarts: int = Field(default=3, ge=0)
    timeout: float = Field(default=120.0, gt=0)

    def command(self, *more: str) -> tuple[str, ...]:
        """The child's command line."""
        settings = orjson.dumps(dict(self.settings)).decode()
        # -P: the modules beside the program must not be taken for those of the library.
        return (self.python, "-P", str(WORKER), self.taskset, "--config", settings, *more)


class VerifiersTaskset(ChildAttempt):
    """A taskset of verifiers; one child has all attempts of a run."""

    Config = VerifiersConfig
    config: VerifiersConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Any]:
        """The child; started with the first attempt."""
        settings = _checked(config)
        child = ChildConfig(
            command=settings.command(), max_restarts=settings.max_restarts, timeout=settings.timeout
        )
        async with ChildProcess(child) as process:
            yield process


async def taskset_rows(config: VerifiersConfig, count: int | None = None) -> list[dict[str, Any]]:
    """Rows of the first `count` tasks of a taskset; ``None`` for all, where they end.

    Raises:
        EnvironmentFailure: If the taskset can't be loaded.
        RolloutTimeout: If that takes longer than the configured time.
    """
    settings = _checked(config)
    command = settings.command("--rows", str(-1 if count is None else count))
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise EnvironmentFailure(f"{settings.python!r} can't be started: {error}") from error
    try:
        async with asyncio.timeout(settings.timeout):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise RolloutTimeout(
            f"the rows of {settings.taskset!r} took longer than {settings.timeout:g} s"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise EnvironmentFailure(
            f"{settings.taskset!r} can't be loaded: {_end_of(err.decode(errors='replace'))}"
        )
    return [orjson.loads(line) for line in out.splitlines()]


def _checked(config: EnvironmentConfig) -> VerifiersConfig:
    if not isinstance(config, VerifiersConfig) or not config.taskset:
        raise InvalidConfig(
            "name the taskset, and an interpreter that has it: --set taskset=... --set python=..."
        )
    return config


def _end_of(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines()
    return "\n".join(lines)[-SHOWN:]
