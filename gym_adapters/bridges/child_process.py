"""Environments in another interpreter: a child process that speaks JSON lines.

For each request the child reads one line ``{"id": 1, "method": "start", "params": {...}}`` on
stdin, and writes one line ``{"id": 1, "result": ...}``, or
``{"id": 1, "error": {"type": "verifier", "message": "..."}}``, on stdout, in any order. The
methods, each with ``session`` among its parameters:

========== ============================== =====================================================
method     further parameters             result
========== ============================== =====================================================
start      row, seed                      {"prompt": items or null, "tools": declarations or null}
call_tool  name, arguments (an object)    text that the model reads
reply      message                        text, or null to end
verify     prompt, output, stop_reason    {"reward": 1.0, "components": {}, "info": {}}
close                                     null
========== ============================== =====================================================

What the child writes on stderr is in the messages of our errors. A child that dies takes the
attempts it holds with it; it is started again for the next one, a bounded number of times.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, cast

import orjson
from pydantic import Field

from gym_adapters.environment import Environment, EnvironmentConfig, Transcript
from gym_adapters.errors import (
    EnvironmentFailure,
    InvalidConfig,
    RolloutError,
    RolloutTimeout,
    ToolInfrastructureError,
    VerifierError,
)
from gym_adapters.items import FunctionTool, Item, check_items, input_items
from gym_adapters.reward import Reward
from gym_adapters.task import Task
from gym_adapters.tools import Tool

__all__ = ["ChildAttempt", "ChildConfig", "ChildEnvironment", "ChildProcess"]

LONGEST_LINE = 64 * 1024 * 1024
KEPT_OF_STDERR = 8_192
GRACE = 5.0


class ChildConfig(EnvironmentConfig):
    """How to run the child.

    Attributes:
        command: Program and arguments; no shell is involved.
        max_restarts: How often a child that died is started again.
        timeout: Seconds for one request.
    """

    command: tuple[str, ...] = Field(min_length=1)
    max_restarts: int = Field(default=3, ge=0)
    timeout: float = Field(default=120.0, gt=0)


class ChildProcess:
    """One child at a time. Use it as an async context manager: leaving ends it.

    Attributes:
        starts: How often a child was started.
    """

    def __init__(self, config: ChildConfig) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = count(1)
        self._stderr: deque[bytes] = deque()
        self._starting = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._heard = 0.0
        self.starts = 0

    async def __aenter__(self) -> ChildProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    @property
    def generation(self) -> int:
        """Which child there is, counted from 1; an attempt belongs to one."""
        return self.starts

    async def ensure_running(self) -> int:
        """Start a child where there is none; gives its generation.

        Raises:
            EnvironmentFailure: If it can't be started, or died too often.
        """
        async with self._starting:
            # Its stdout ends before its exit is noticed.
            if self._process is not None and not any(reader.done() for reader in self._readers[:1]):
                return self.starts
            await self._end()
            if self.starts > self._config.max_restarts:
                raise EnvironmentFailure(
                    f"{self._config.command[0]!r} died {self.starts} times{self._said()}"
                )
            await self._start()
            return self.starts

    async def ask(self, method: str, params: Mapping[str, Any], *, generation: int) -> Any:
        """What the child answers.

        Raises:
            RolloutError: If it answers with an error, dies, or takes too long.
        """
        process = self._process
        if generation != self.starts or process is None or process.stdin is None:
            raise EnvironmentFailure(f"the child that held this attempt is gone{self._said()}")
        name = next(self._ids)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answer
        try:
            async with asyncio.timeout(self._config.timeout):
                line = orjson.dumps({"id": name, "method": method, "params": params})
                try:
                    process.stdin.write(line + b"\n")
                    await process.stdin.drain()
                except ConnectionError as error:
                    raise self._death() from error
                if self._readers[0].done():
                    raise self._death()
                return await answer
        except TimeoutError as error:
            if self._clock() - self._heard >= self._config.timeout:
                # Nobody got an answer all that time: it hangs, and would for the next one.
                _kill(process)
            raise RolloutTimeout(
                f"{method} took longer than {self._config.timeout:g} s{self._said()}"
            ) from error
        finally:
            self._waiting.pop(name, None)

    async def _start(self) -> None:
        self._stderr.clear()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._config.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentFailure(
                f"{self._config.command[0]!r} can't be started: {error}"
            ) from error
        self.starts += 1
        self._heard = self._clock()
        self._readers = [
            asyncio.create_task(self._read_answers(self._process)),
            asyncio.create_task(self._read_stderr(self._process)),
        ]

    async def _read_answers(self, process: asyncio.subprocess.Process) -> None:
        stdout = cast("asyncio.StreamReader", process.stdout)
        try:
            while line := await stdout.readline():
                self._take(line)
        except ValueError:  # a line beyond the limit
            pass
        finally:
            await self._until_stderr_is_read()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(self._death())

    async def _until_stderr_is_read(self) -> None:
        if len(self._readers) > 1:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asyncio.wait(self._readers[1:])

    def _take(self, line: bytes) -> None:
        try:
            data = orjson.loads(line)
        except orjson.JSONDecodeError:
            data = None
        name = data.get("id") if isinstance(data, dict) else None
        answer = self._waiting.get(name) if isinstance(name, int) else None
        self._heard = self._clock()
        if answer is None or answer.done():
            # Libraries print. What is no answer is told with the next error.
            self._keep(line)
        elif "error" in data:
            answer.set_exception(_error_of(data["error"]))
        else:
            answer.set_result(data.get("result"))

    async def _read_stderr(self, process: asyncio.subprocess.Process) -> None:
        stderr = cast("asyncio.StreamReader", process.stderr)
        while piece := await stderr.read(4096):
            self._keep(piece)

    def _keep(self, piece: bytes) -> None:
        self._stderr.append(piece[-KEPT_OF_STDERR:])
        while len(self._stderr) > 1 and sum(map(len, self._stderr)) > KEPT_OF_STDERR:
            self._stderr.popleft()

    def _said(self) -> str:
        text = b"".join(self._stderr).decode("utf-8", "replace").strip()
        return f"; it said: {text}" if text else ""

    def _death(self) -> EnvironmentFailure:
        return EnvironmentFailure(f"{self._config.command[0]!r} died{self._said()}")

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            _kill(process, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await process.wait()
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


def _kill(process: asyncio.subprocess.Process, number: int = signal.SIGKILL) -> None:
    """Signal the child and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _error_of(told: object) -> RolloutError:
    kinds: dict[object, type[RolloutError]] = {
        kind.boundary.value: kind for kind in (VerifierError, ToolInfrastructureError)
    }
    kind = told.get("type") if isinstance(told, Mapping) else None
    text = told.get("message") if isinstance(told, Mapping) else told
    return kinds.get(kind, EnvironmentFailure)(f"the child says: {str(text)[:2000]}")


class ChildAttempt(Environment[Task]):
    """The hooks of an attempt that is held by a child; its resources are a `ChildProcess`."""

    async def start(self) -> None:
        """Begin an attempt in the child."""
        self._session = secrets.token_hex(8)
        self._generation: int | None = None
        self._generation = await self.resources.ensure_running()
        row, seed = self.task.to_row(), self.rng.getrandbits(31)
        told = await self._ask("start", row=row, seed=seed)
        told = told if isinstance(told, dict) else {}
        self._prompt: list[Item] = self.task.input
        if told.get("prompt"):
            check_items(told["prompt"], "prompt")
            self._prompt = input_items(told["prompt"])
        self._declared: list[FunctionTool] = told.get("tools") or self.task.tools or []

    async def prompt(self) -> Sequence[Item]:
        """The child's, or the row's."""
        return self._prompt

    def available_tools(self) -> Sequence[Tool]:
        """The child's, or the row's."""
        return [
            Tool.from_declaration(declared, partial(self._call, declared["name"]))
            for declared in self._declared
        ]

    async def verify(self, transcript: Transcript) -> Reward:
        """The child's verdict."""
        told = await self._ask(
            "verify",
            prompt=list(transcript.prompt),
            output=list(transcript.output),
            stop_reason=transcript.stop_reason.value,
        )
        if not isinstance(told, dict) or "reward" not in told:
            raise VerifierError(f"the child gave no reward: {str(told)[:200]}")
        return Reward(told["reward"], told.get("components") or {}, told.get("info") or {})

    async def close(self) -> None:
        """End the attempt; nothing to do where its child is gone."""
        if getattr(self, "_generation", None) == self.resources.generation:
            await self._ask("close")

    async def _call(self, name: str, /, **arguments: Any) -> str:
        answer = await self._ask("call_tool", name=name, arguments=arguments)
        return answer if isinstance(answer, str) else orjson.dumps(answer).decode()

    async def _ask(self, method: str, **params: Any) -> Any:
        if self._generation is None:
            raise EnvironmentFailure("the child was never started")
        params["session"] = self._session
        return await self.resources.ask(method, params, generation=self._generation)


class ChildEnvironment(ChildAttempt):
    """An environment whose hooks are in a child process. Set ``command``, or subclass it."""

    Config = ChildConfig
    config: ChildConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Any]:
        """The child; started with the first attempt."""
        if not isinstance(config, ChildConfig):
            raise InvalidConfig(f"{cls.name} needs a ChildConfig")
        async with ChildProcess(config) as child:
            yield child

    async def reply(self, message: str) -> str | None:
        """What the child replies."""
        answer = await self._ask("reply", message=message)
        return answer if isinstance(answer, str) else None
