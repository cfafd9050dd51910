"""Programs judged by test cases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gym_adapters import Environment, EnvironmentConfig, Reward, Task, Transcript
from gym_adapters.errors import SandboxError
from gym_adapters.items import Item, assistant_message, item_text
from gym_adapters.sandbox import ProcessSandbox, SandboxConfig, open_process_sandbox
from gym_adapters.verifiers.code_tests import CodeTests, last_code_block, run_code_tests

from .problems import generated_problems, solution_of

__all__ = ["CodeGen", "CodeGenConfig", "CodeGenTask", "UnitTests", "VerifierMetadata"]


class UnitTests(BaseModel):
    """Test cases; with `fn_name` an input is one JSON value a line, and an output is JSON."""

    model_config = ConfigDict(extra="allow", frozen=True)

    inputs: list[str] = Field(min_length=1)
    outputs: list[str]
    fn_name: str | None = None

    @model_validator(mode="after")
    def _as_many_outputs(self) -> UnitTests:
        if len(self.inputs) != len(self.outputs):
            raise ValueError(f"{len(self.inputs)} inputs, but {len(self.outputs)} outputs")
        return self


class VerifierMetadata(BaseModel):
    """What the verdict needs."""

    model_config = ConfigDict(extra="allow", frozen=True)

    unit_tests: UnitTests
    difficulty: str | None = None


class CodeGenTask(Task):
    """A problem statement, and the test cases of its solutions."""

    verifier_metadata: VerifierMetadata


class LocalSandboxConfig(SandboxConfig):
    """Bounds of one test case. Test cases run in forked interpreters, which only `process` has."""

    provider: Literal["process"] = "process"


class CodeGenConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        sandbox: Bounds of one test case.
        reasoning_format_penalty: The reward where think tags stand in the answer, or more than one
            pair in the reasoning, whatever the tests say.
    """

    sandbox: LocalSandboxConfig = LocalSandboxConfig()
    reasoning_format_penalty: float = 0.0


class CodeGen(Environment[CodeGenTask]):
    """Write a program that passes all test cases of a problem.

    The program is what stands between the last two lines with a code fence. The reward is 1 if it
    passes every case, else 0. Cases run one after the other until one fails, each in a process of
    its own. An attempt that was cut short scores 0.
    """

    name = "code_gen"
    Config = CodeGenConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[ProcessSandbox]:
        """The sandbox, shared by all rollouts."""
        settings = config if isinstance(config, CodeGenConfig) else CodeGenConfig()
        bounds = settings.sandbox
        async with open_process_sandbox(
            limits=bounds.limits, concurrency=bounds.concurrency
        ) as sandbox:
            yield sandbox

    async def verify(self, transcript: Transcript) -> Reward:
        """Run the test cases."""
        if not isinstance(self.resources, ProcessSandbox):
            raise SandboxError("code_gen needs its resources: open them with open_resources()")
        if transcript.truncated:
            return Reward(0.0, info={"reason": "cut short"})
        text = transcript.final_text
        program = last_code_block(text)
        if program is None or not program.strip():
            return Reward(0.0, info={"reason": "no code block"})
        given = self.task.verifier_metadata.unit_tests
        tests = CodeTests(given.inputs, given.outputs, given.fn_name)
        results = await run_code_tests(self.resources, program, tests)
        passed = sum(result.passed for result in results)
        solved = passed == len(given.inputs)
        info: dict[str, object] = {"passed": passed, "cases": len(given.inputs)}
        if not solved:
            last = results[-1]
            info |= {"reason": last.problem, "stderr": last.execution.stderr[-500:]}
        reward = Reward(float(solved), components={"solved": float(solved)}, info=info)
        if _misplaces_thinking(text, transcript.output) and isinstance(self.config, CodeGenConfig):
            return replace(
                reward,
                value=self.config.reasoning_format_penalty,
                info={**info, "reason": "think tags in the answer"},
            )
        return reward

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[CodeGenTask]:
        """Problems from templates; half read and print, half define a function.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From one step of arithmetic at 0 to problems that need an algorithm at 1.
        """
        for row in generated_problems(count, seed, difficulty):
            yield CodeGenTask.from_row(row)

    @classmethod
    def gold_turns(cls, task: CodeGenTask) -> Sequence[Sequence[Item]]:
        """The solution of a generated problem.

        Raises:
            Unsupported: If the row was not generated here.
        """
        return [[assistant_message(f"```python\n{solution_of(task.to_row())}```")]]


def _misplaces_thinking(text: str, output: Sequence[Item]) -> bool:
    if "<think>" in text or "</think>" in text:
        return True
    thinking = "".join(
        part.get("text", "")
        for item in output
        if item["type"] == "reasoning"
        for part in item["summary"]
    ) + "".join(item_text(item) for item in output if item["type"] == "reasoning")
    return thinking.count("<think>") > 1 or thinking.count("</think>") > 1
