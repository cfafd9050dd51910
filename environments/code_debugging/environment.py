"""Finding and mending faults in a program, with tests to run."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    Reward,
    Task,
    ToolError,
    Transcript,
    Unsupported,
    tool,
)
from gym_adapters.errors import SandboxError
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.sandbox import ProcessSandbox, SandboxConfig, Workspace, open_process_sandbox
from gym_adapters.verifiers.code_tests import CodeTests, run_code_tests

from .programs import PROGRAMS, Program

__all__ = ["CodeDebugging", "CodeDebuggingConfig", "CodeDebuggingTask", "HiddenTests"]

FILE, TESTS = "program.py", "test_program.py"
LARGEST_PROGRAM = 100_000
LONGEST_OUTPUT = 4000
CASES, VISIBLE_CASES = 12, 3
RULES = (
    "A program has faults. Find and mend them with the tools: run its tests, read what they say, "
    "write the program anew, and run them again until they pass. Then say that you are done. The "
    "program will be checked by more tests than those you can run."
)


class HiddenTests(BaseModel):
    """Calls of a function and what they should return, as JSON; one argument a line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    function: str
    inputs: list[str] = Field(min_length=1)
    outputs: list[str]


class CodeDebuggingTask(Task):
    """A program with faults.

    Attributes:
        program: The program as the policy finds it.
        tests: The test script it can run; it imports `program`.
        hidden_tests: What decides.
        original: Name of the program that was broken; only gold transcripts use it.
    """

    program: str
    tests: str
    hidden_tests: HiddenTests
    original: str = ""


class LocalSandboxConfig(SandboxConfig):
    """Bounds of one run. Hidden tests run in forked interpreters, which only `process` has."""

    provider: Literal["process"] = "process"


class CodeDebuggingConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        sandbox: Bounds of one run.
    """

    sandbox: LocalSandboxConfig = LocalSandboxConfig(wall_time=5.0, cpu_time=5.0)


class CodeDebugging(Environment[CodeDebuggingTask]):
    """Mend a program.

    The reward is 1 if the program, as the policy left it, passes every hidden test, else 0.
    """

    name = "code_debugging"
    Config = CodeDebuggingConfig
    parallel_tool_calls = False
    program: str
    workspace: Workspace | None = None

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[ProcessSandbox]:
        """The sandbox, shared by all rollouts."""
        settings = config if isinstance(config, CodeDebuggingConfig) else CodeDebuggingConfig()
        bounds = settings.sandbox
        async with open_process_sandbox(
            limits=bounds.limits, concurrency=bounds.concurrency
        ) as sandbox:
            yield sandbox

    async def start(self) -> None:
        """Take the program as the row has it."""
        self.program = self.task.program

    @tool
    async def read_program(self) -> str:
        """Return the program as it is now."""
        return self.program

    @tool
    async def write_program(self, text: str) -> dict[str, object]:
        """Replace the whole program.

        Args:
            text: The new program.
        """
        if len(text) > LARGEST_PROGRAM:
            raise ToolError(f"a program has at most {LARGEST_PROGRAM} characters")
        self.program = text
        return {"written": len(text)}

    @tool
    async def run_tests(self) -> dict[str, object]:
        """Run the visible tests and return what they print."""
        return await self._run(self.task.tests, TESTS)

    @tool
    async def run_code(self, code: str) -> dict[str, object]:
        """Run a piece of Python beside the program, which it may import as `program`.

        Args:
            code: What to run; print what you want to see.
        """
        return await self._run(code, "scratch.py")

    async def verify(self, transcript: Transcript) -> Reward:
        """Run the hidden tests on the program as it was left."""
        hidden = self.task.hidden_tests
        tests = CodeTests(hidden.inputs, hidden.outputs, hidden.function)
        results = await run_code_tests(self._sandbox(), self.program, tests)
        solved = len(results) == len(hidden.inputs) and results[-1].passed
        return Reward(
            float(solved),
            components={"solved": float(solved)},
            info={} if solved else {"reason": results[-1].problem},
        )

    async def close(self) -> None:
        """Remove the workspace."""
        if self.workspace is not None:
            await self.workspace.remove()

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[CodeDebuggingTask]:
        """Small programs with 1 fault at difficulty 0, up to 3 at 1.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From 0, the easiest, to 1.
        """
        rng = random.Random(f"code_debugging:{seed}")
        for _ in range(count):
            program = PROGRAMS[rng.choice(list(PROGRAMS))]
            faults = rng.sample(range(len(program.faults)), 1 + round(2 * difficulty))
            yield _task(rng, program, faults)

    @classmethod
    def gold_turns(cls, task: CodeDebuggingTask) -> Sequence[Sequence[Item]]:
        """Run the tests, write the right program, run them again.

        Raises:
            Unsupported: If the row was not generated here.
        """
        program = PROGRAMS.get(task.original)
        if program is None:
            raise Unsupported("code_debugging knows how to mend the programs it broke alone")
        text = orjson.dumps({"text": program.source}).decode()
        return [
            [function_call("run_tests", "{}", "call_0")],
            [function_call("write_program", text, "call_1")],
            [function_call("run_tests", "{}", "call_2")],
            [assistant_message("The program passes its tests now.")],
        ]

    async def _run(self, script: str, name: str) -> dict[str, object]:
        sandbox = self._sandbox()
        if self.workspace is None:
            self.workspace = await Workspace.create()
        await self.workspace.write(FILE, self.program)
        await self.workspace.write(name, script)
        done = await sandbox.run(["python", name], folder=self.workspace.path)
        # The folder's name differs from run to run; the model should see the same text each time.
        here = f"{self.workspace.path}/"
        return {
            "exit_code": done.exit_code,
            "timed_out": done.timed_out,
            "stdout": _shortened(done.stdout.replace(here, "")),
            "stderr": _shortened(done.stderr.replace(here, "")),
        }

    def _sandbox(self) -> ProcessSandbox:
        if not isinstance(self.resources, ProcessSandbox):
            raise SandboxError(
                "code_debugging needs its resources: open them with open_resources()"
            )
        return self.resources


def _shortened(text: str) -> str:
    """`text`, without its middle where it is long."""
    if len(text) <= LONGEST_OUTPUT:
        return text
    half = LONGEST_OUTPUT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _task(rng: random.Random, program: Program, faults: Sequence[int]) -> CodeDebuggingTask:
    broken = program.broken(faults)
    cases = [program.draw(rng) for _ in range(CASES)]
    cases.sort(key=lambda arguments: -len(str(arguments)))
    shown = [(arguments, program.answer(arguments)) for arguments in cases[:VISIBLE_CASES]]
    lines = [f"from program import {program.function}", ""]
    for arguments, answer in shown:
        called = f"{program.function}({', '.join(map(repr, arguments))})"
        lines += [f"answer = {called}", f"assert answer == {answer!r}, answer", ""]
    tests = "\n".join([*lines, "print('all tests pass')", ""])
    prompt = (
        f"The function `{program.function}` should {program.purpose}. The program:\n\n"
        f"```python\n{broken}```\n\nIts tests:\n\n```python\n{tests}```"
    )
    row: dict[str, Any] = {
        "responses_create_params": {
            "input": [
                {"role": "system", "content": RULES},
                {"role": "user", "content": prompt},
            ]
        },
        "program": broken,
        "tests": tests,
        "hidden_tests": {
            "function": program.function,
            "inputs": ["\n".join(orjson.dumps(a).decode() for a in case) for case in cases],
            "outputs": [orjson.dumps(program.answer(case)).decode() for case in cases],
        },
        "original": program.function,
    }
    return CodeDebuggingTask.from_row(row)
