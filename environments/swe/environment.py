"""Issues in small repositories, solved with a shell and judged by hidden tests."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import tarfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    InvalidRow,
    Reward,
    Task,
    ToolError,
    Transcript,
    VerifierError,
    tool,
)
from gym_adapters.errors import SandboxError
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.sandbox import Execution, Sandbox, SandboxConfig, Workspace, open_sandbox
from gym_adapters.sandbox.docker import DockerSandbox

from .unified_diff import PatchError, check_diff, patched

__all__ = ["Swe", "SweConfig", "SweTask"]

log = logging.getLogger(__name__)

LONGEST_OUTPUT = 8000
SHIPPED = Path(__file__).parent / "data" / "repos"
# The tests run in the same process as code that the policy wrote. What it would have to print for
# tests that did not run is a word that is read only once they have, and is no name of a module.
START = """
import os, sys
def main(run):
    kept = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    names = sys.argv[1:]
    sys.path.insert(0, ".")
    passed = [name for name in names if run(name)]
    word = os.read(kept, 100).decode().strip()
    if passed == names:
        print(word, end="")
    elif word == "":
        print("\\n".join(["", *(f"passed {name}" for name in passed)]))
"""
UNITTEST = """
import unittest
def run(name):
    suite = unittest.defaultTestLoader.loadTestsFromName(name)
    result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
    return result.testsRun and result.wasSuccessful() and not result.skipped
main(run)
"""
PYTEST_CONFIGS = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
PYTEST = f"""
import pytest
# Named, so that pytest does not look for one in folders above the repository.
settings = [name for name in {PYTEST_CONFIGS!r} if os.path.exists(name)] or [os.devnull]
options = ["-q", "-p", "no:cacheprovider", "--rootdir=.", "--confcutdir=.", "-c", settings[0]]
main(lambda name: pytest.main([*options, name]) == 0)
"""
RUNNERS: Mapping[str, str] = {"unittest": START + UNITTEST, "pytest": START + PYTEST}


def _listed(value: object) -> object:
    """A list that stands in the row as JSON text, as SWE-Gym's files have it, as a list."""
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise ValueError("a list, or a JSON text of one, is needed") from error
    return value


def _diff(value: str) -> str:
    if value.strip():
        try:
            check_diff(value)
        except PatchError as error:
            raise ValueError(f"not a unified diff: {error}") from error
    return value


Diff = Annotated[str, AfterValidator(_diff)]
TestNames = Annotated[list[str], BeforeValidator(_listed)]
# It stands on docker's command line: it must not read as an option there.
ImageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$", max_length=500)]


class SweTask(Task):
    """An issue, with SWE-Gym's field names.

    Attributes:
        instance_id: Names the issue, and its archive.
        problem_statement: The issue.
        patch: A diff that solves it; only gold transcripts use it.
        test_patch: A diff that adds the tests which decide.
        FAIL_TO_PASS: Tests that fail before and must pass.
        PASS_TO_PASS: Tests that pass before and must go on passing.
        image_name: The container image to run commands in, where the sandbox is ``docker``'s; the
            sandbox's own by default. Rows of mini-swe-agent and SWE-smith have it.
        docker_image: The same, as some rows call it; `image_name` wins.
    """

    instance_id: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    repo: str
    base_commit: str
    problem_statement: str
    patch: Diff = ""
    test_patch: Diff = ""
    FAIL_TO_PASS: TestNames = Field(min_length=1)
    PASS_TO_PASS: TestNames = Field(default_factory=list)
    image_name: ImageName | None = None
    docker_image: ImageName | None = None

    @property
    def image(self) -> str | None:
        """The image that the row names."""
        return self.image_name or self.docker_image


class SweConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        archives: Folder of repositories, each ``<instance_id>.tar.gz`` with its root at the top; by
            default those that ship.
        runner: What runs tests: unittest, with names such as ``tests.test_a.ATest.test_b``, or
            pytest, with names such as ``tests/test_a.py::test_b``, which must be installed there.
        sandbox: Where commands run, and their bounds.
    """

    archives: Path | None = None
    runner: Literal["unittest", "pytest"] = "unittest"
    sandbox: SandboxConfig = SandboxConfig(wall_time=60.0, cpu_time=60.0)


class Swe(Environment[SweTask]):
    """Solve an issue.

    The reward is 1 if every test of `FAIL_TO_PASS` and `PASS_TO_PASS` passes after the test patch,
    else 0.
    """

    name = "swe"
    Config = SweConfig
    parallel_tool_calls = False
    workspace: Workspace | None = None
    verdict: Reward | None = None

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Sandbox]:
        """The sandbox, shared by all rollouts."""
        settings = config if isinstance(config, SweConfig) else SweConfig()
        async with open_sandbox(settings.sandbox) as sandbox:
            yield sandbox

    async def start(self) -> None:
        """Unpack the repository."""
        archive = _archive(self._settings(), self.task)
        self.workspace = await Workspace.create()
        await self.workspace.extract(archive)

    @tool
    async def shell(self, command: str) -> dict[str, object]:
        """Run a command with bash in the repository's folder. Each call is a shell of its own.

        Args:
            command: What to run.
        """
        if "\0" in command:
            raise ToolError("a command can't hold a zero character")
        workspace = self._workspace()
        done = await self._sandbox().run(["bash", "-c", command], folder=workspace.path)
        # The folder's name differs from run to run; the model should see the same text each time.
        output = (done.stdout + done.stderr).replace(str(workspace.path), "/repo")
        return {
            "exit_code": done.exit_code,
            "timed_out": done.timed_out,
            "output": _shortened(output),
        }

    async def verify(self, transcript: Transcript) -> Reward:
        """Put the tests in place and run them. The verdict stays when the folder is gone."""
        if self.verdict is None:
            self.verdict = await self._judged()
        return self.verdict

    async def close(self) -> None:
        """Remove the workspace."""
        if self.workspace is not None:
            await self.workspace.remove()

    @classmethod
    def gold_turns(cls, task: SweTask) -> Sequence[Sequence[Item]]:
        """Write the files that the patch changes, and say so. For the repositories that ship."""
        files = patched(task.patch, partial(_file_in, _archive(SweConfig(), task)))
        commands = [
            f"rm {shlex.quote(name)}"
            if text is None
            else f"cat > {shlex.quote(name)} <<'END_OF_FILE'\n{text}END_OF_FILE"
            for name, text in files.items()
        ]
        arguments = orjson.dumps({"command": "\n".join(commands)}).decode()
        return [
            [function_call("shell", arguments, "call_0")],
            [assistant_message("The issue is solved.")],
        ]

    async def _judged(self) -> Reward:
        try:
            await self._put_tests_in_place()
        except ToolError as error:
            # The policy put something in the tests' way, such as a link that leads outside.
            return Reward(0.0, info={"reason": f"the tests can't be put in place: {error}"})
        names = [*self.task.FAIL_TO_PASS, *self.task.PASS_TO_PASS]
        word = secrets.token_hex(16)
        done = await self._run_tests(names, f"{word}\n")
        if done.succeeded and word in done.stdout:
            return Reward(1.0, components={"fail_to_pass": 1.0, "pass_to_pass": 1.0})
        # Which tests passed is told by the code under test, so it is told for people to read, and
        # has no part in the reward.
        told = (await self._run_tests(names, "")).stdout.splitlines()
        passed = {line.removeprefix("passed ") for line in told if line.startswith("passed ")}
        return Reward(
            0.0,
            components={
                "fail_to_pass": _share(self.task.FAIL_TO_PASS, passed),
                "pass_to_pass": _share(self.task.PASS_TO_PASS, passed),
            },
            info={"failing": [name for name in names if name not in passed]},
        )

    async def _run_tests(self, names: Sequence[str], stdin: str) -> Execution:
        command = ["python", "-I", "-c", RUNNERS[self._settings().runner], *names]
        return await self._sandbox().run(command, folder=self._workspace().path, stdin=stdin)

    async def _put_tests_in_place(self) -> None:
        """The test patch on the files as the archive has them: whatever the policy did to them."""
        archive = _archive(self._settings(), self.task)
        try:
            files = await asyncio.to_thread(
                patched, self.task.test_patch, partial(_file_in, archive)
            )
        except PatchError as error:
            raise VerifierError(f"test_patch of {self.task.instance_id}: {error}") from error
        workspace = self._workspace()
        for name, text in files.items():
            if text is not None:
                await workspace.write(name, text)
            else:
                await self._remove(name)

    async def _remove(self, name: str) -> None:
        command = ["rm", "-rf", "--", name]
        done = await self._sandbox().run(command, folder=self._workspace().path)
        if not done.succeeded:
            raise ToolError(f"{name} can't be removed")

    def _settings(self) -> SweConfig:
        return self.config if isinstance(self.config, SweConfig) else SweConfig()

    def _sandbox(self) -> Sandbox:
        if self.resources is None:
            raise SandboxError("swe needs its resources: open them with open_resources()")
        sandbox: Sandbox = self.resources
        if self.task.image is None:
            return sandbox
        if isinstance(sandbox, DockerSandbox):
            return sandbox.with_image(self.task.image)
        _tell_that_images_are_not_used()
        return sandbox

    def _workspace(self) -> Workspace:
        if self.workspace is None:
            raise SandboxError("the repository was never unpacked")
        return self.workspace


@cache
def _tell_that_images_are_not_used() -> None:
    """Once a process: rows of one file are alike in this."""
    log.warning(
        "rows of swe name container images, and commands run in the local sandbox instead: tests "
        "that need what is installed there fail. Fix: sandbox.provider=docker."
    )


def _archive(config: SweConfig, task: SweTask) -> Path:
    folder = config.archives if config.archives is not None else SHIPPED
    path = folder / f"{task.instance_id}.tar.gz"
    if not path.is_file():
        raise InvalidRow(
            f"there is no repository {path.name} in {folder}.",
            field="instance_id",
            fix="set archives to the folder that holds the repositories of these rows.",
        )
    return path


def _file_in(archive: Path, name: str) -> str:
    with tarfile.open(archive) as tar:
        names = {member.name.removeprefix("./"): member for member in tar.getmembers()}
        file = tar.extractfile(names[name]) if name in names else None
        if file is None:
            raise PatchError(f"{archive.name} holds no file {name}")
        return file.read().decode()


def _share(names: Sequence[str], passed: Collection[str]) -> float:
    return sum(name in passed for name in names) / len(names) if names else 1.0


def _shortened(text: str) -> str:
    """`text`, without its middle where it is long."""
    if len(text) <= LONGEST_OUTPUT:
        return text
    half = LONGEST_OUTPUT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
