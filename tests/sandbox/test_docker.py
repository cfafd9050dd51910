"""The docker sandbox over a program that plays docker's part: no real engine runs here.

The program writes down what it was called with, and does to the command what a container would, as
far as a test needs: it runs it, in the folder that it was given. What the options mean to a real
engine (that there is no network, say) these tests can't show; they show that it is told.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters.errors import SandboxError
from gym_adapters.sandbox import Guarantees, SandboxConfig, SandboxLimits, open_sandbox
from gym_adapters.sandbox.docker import DockerSandbox

FAKE = """#!{python} -IS
import json, os, subprocess, sys, time
words = sys.argv[1:]
with open({calls!r}, "a") as calls:
    calls.write(json.dumps([words, dict(os.environ)]) + "\\n")
if words[0] == "version":
    print("27.0")
elif words[0] == "kill":
    while not os.path.exists({started!r} + "." + words[1]):
        time.sleep(0.01)
    os.kill(int(open({started!r} + "." + words[1]).read()), 9)
elif words[0] == "run":
    image = next(place for place, word in enumerate(words) if word.startswith("img"))
    named = words[words.index("--name") + 1]
    inside = dict(w.split("=", 1) for o, w in zip(words, words[1:]) if o == "--env")
    inside["PATH"] = os.environ["PATH"]
    # A session of its own: what runs in a container is no child of docker's client.
    child = subprocess.Popen(words[image + 1 :], env=inside, start_new_session=True,
                             cwd=words[words.index("--workdir") + 1])
    with open({started!r} + ".new." + named, "w") as started:
        started.write(str(child.pid))
    os.rename({started!r} + ".new." + named, {started!r} + "." + named)
    sys.exit(child.wait() % 256)
"""


class FakeDocker:
    """The program, and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.path, self._calls = folder / "docker", folder / "calls.jsonl"
        self._started = folder / "started"
        source = FAKE.format(
            python=sys.executable, calls=str(self._calls), started=str(self._started)
        )
        self.path.write_text(source, encoding="utf-8")
        self.path.chmod(0o755)

    @property
    def calls(self) -> list[tuple[list[str], dict[str, str]]]:
        lines = self._calls.read_bytes().splitlines()
        return [(words, environment) for words, environment in map(orjson.loads, lines)]

    def process(self, name: str) -> int:
        """What runs in a container."""
        return int(self._started.with_name(f"started.{name}").read_text())

    @property
    def can_kill(self) -> bool:
        """Whether it knows of a container what a kill needs."""
        return any(self._started.parent.glob("started.gym-adapters-*"))

    @property
    def killed(self) -> list[list[str]]:
        """What was said to end containers."""
        return [words for words, _ in self.calls if words[0] == "kill"]

    @property
    def words(self) -> list[str]:
        """Of the first container."""
        return next(words for words, _ in self.calls if words[0] == "run")

    def options(self, name: str) -> list[str]:
        """The values of an option of the first container."""
        words = self.words
        before_image = words[: next(n for n, word in enumerate(words) if word.startswith("img"))]
        return [value for option, value in pairwise(before_image) if option == name]


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    folder = tmp_path / "bin"
    folder.mkdir()
    return FakeDocker(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands run; its name is one that a shell would take apart."""
    made = tmp_path / "a b $HOME"
    made.mkdir()
    return made


def opened(docker: FakeDocker, concurrency: int = 2, **limits: float) -> DockerSandbox:
    bounds = SandboxLimits(**{"wall_time": 60.0, **limits})  # type: ignore[arg-type]
    return DockerSandbox(str(docker.path), "img", limits=bounds, concurrency=concurrency)


async def test_the_command_runs_in_its_folder_and_what_it_says_comes_back(
    docker: FakeDocker, folder: Path
) -> None:
    done = await opened(docker).run(
        ["sh", "-c", "pwd; cat; echo oh >&2; exit 3"], folder=folder, stdin="in"
    )
    assert (done.stdout, done.stderr, done.exit_code) == (f"{folder}\nin", "oh\n", 3)
    assert not done.timed_out


async def test_a_container_is_told_of_no_network_no_rights_and_every_limit(
    docker: FakeDocker, folder: Path
) -> None:
    limits: dict[str, Any] = {"processes": 7, "memory": 1 << 28, "file_size": 5000, "cpu_time": 2.5}
    await opened(docker, **limits).run(["true"], folder=folder)
    assert docker.options("--network") == ["none"]
    assert docker.options("--cap-drop") == ["ALL"]
    assert docker.options("--security-opt") == ["no-new-privileges"]
    assert docker.options("--pull") == ["never"]
    assert docker.options("--pids-limit") == ["7"]
    # The same bound for memory and memory with swap: there is no swap.
    assert docker.options("--memory") == docker.options("--memory-swap") == [str(1 << 28)]
    assert docker.options("--ulimit") == ["fsize=5000", "core=0", "cpu=3"]
    owner = os.stat(folder)
    assert docker.options("--user") == [f"{owner.st_uid}:{owner.st_gid}"]
    assert {"--rm", "--read-only"} < set(docker.words)
    assert opened(docker).guarantees == Guarantees(True, True, True, True)


async def test_the_folder_is_all_that_is_mounted_and_a_call_may_have_limits_of_its_own(
    docker: FakeDocker, folder: Path
) -> None:
    await opened(docker).run(["true"], folder=folder, limits=SandboxLimits(processes=3))
    assert docker.options("--volume") == [f"{folder}:{folder}"]
    assert docker.options("--tmpfs") == ["/tmp"]
    assert docker.options("--pids-limit") == ["3"]


async def test_no_shell_reads_the_arguments(docker: FakeDocker, folder: Path) -> None:
    nasty = ["a b", "$(echo x)", "'", '"', "--network=host", "", "*", "ü\n;"]
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    done = await opened(docker).run([sys.executable, "-c", show, *nasty], folder=folder)
    assert orjson.loads(done.stdout) == nasty


async def test_the_container_sees_only_the_variables_it_is_given(
    docker: FakeDocker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("DOCKER_HOST", "unix:///engine")
    done = await opened(docker).run(["env"], folder=folder, environment={"A": "b c=d"})
    assert "A=b c=d\n" in done.stdout
    assert f"HOME={folder}\n" in done.stdout
    assert "s3cret" not in done.stdout
    ((words, client),) = docker.calls
    assert "s3cret" not in " ".join(words)
    # Docker's own client needs its engine's address, and no more of what there is here.
    assert client["DOCKER_HOST"] == "unix:///engine"
    assert "SECRET_TOKEN" not in client


WALL = 300.0
# It tells that it runs, and sleeps until it is killed.
SLEEP = ["sh", "-c", "echo > new; mv new begun; exec sleep 600"]
# What has read something has been started, and its time limit runs.
READ_AND_SLEEP = ["sh", "-c", "read go; echo > new; mv new begun; exec sleep 600"]


async def begun(docker: FakeDocker, folder: Path) -> None:
    while not (folder / "begun").exists() or not docker.can_kill:  # noqa: ASYNC110 - nobody tells of a file
        await asyncio.sleep(0.02)


async def ended(pid: int) -> None:
    """The kernel may take a moment to bury what was killed."""
    while alive(pid):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)


async def test_a_container_past_its_time_is_killed_by_its_name(
    docker: FakeDocker, folder: Path, leap: Callable[[float], None]
) -> None:
    sandbox = opened(docker, wall_time=WALL)
    running = asyncio.create_task(sandbox.run(READ_AND_SLEEP, folder=folder, stdin="go\n"))
    await begun(docker, folder)
    leap(WALL)
    done = await running
    assert (done.timed_out, done.succeeded) == (True, False)
    (name,) = docker.options("--name")
    assert docker.killed == [["kill", name]]
    await ended(docker.process(name))


async def cancel_and_see_it_killed(docker: FakeDocker, running: asyncio.Task[Any]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (name,) = docker.options("--name")
    assert docker.killed == [["kill", name]]
    await ended(docker.process(name))


async def test_a_cancelled_call_kills_its_container(docker: FakeDocker, folder: Path) -> None:
    running = asyncio.create_task(opened(docker).run(READ_AND_SLEEP, folder=folder, stdin="go\n"))
    await begun(docker, folder)
    await cancel_and_see_it_killed(docker, running)


async def test_a_call_that_is_cancelled_while_it_starts_leaves_no_container(
    docker: FakeDocker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, is_there = asyncio.create_subprocess_exec, asyncio.Event()

    async def start_slowly(*words: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*words, **options)
        is_there.set()
        try:
            if "run" in words:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As asyncio does to what it was starting.
            process._transport.close()  # type: ignore[attr-defined]
            raise
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_slowly)
    running = asyncio.create_task(opened(docker).run(SLEEP, folder=folder))
    await is_there.wait()
    await begun(docker, folder)
    await cancel_and_see_it_killed(docker, running)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_each_command_has_a_container_of_its_own_name(
    docker: FakeDocker, folder: Path
) -> None:
    sandbox = opened(docker)
    await asyncio.gather(*(sandbox.run(["true"], folder=folder) for _ in range(4)))
    names = {words[words.index("--name") + 1] for words, _ in docker.calls}
    assert len(names) == 4


async def test_another_image_has_the_same_limits(docker: FakeDocker, folder: Path) -> None:
    sandbox = opened(docker, concurrency=1, processes=9)
    other = sandbox.with_image("img/other:1")
    await other.run(["true"], folder=folder)
    await sandbox.run(["true"], folder=folder)
    images = [next(w for w in words if w.startswith("img")) for words, _ in docker.calls]
    assert images == ["img/other:1", "img"]
    assert docker.options("--pids-limit") == ["9"]


async def test_what_docker_can_not_start_is_the_sandboxs_failure_and_no_exit_status(
    docker: FakeDocker, folder: Path
) -> None:
    docker.path.write_text("#!/bin/sh\necho 'No such image: img' >&2\nexit 125\n")
    with pytest.raises(SandboxError, match="No such image: img"):
        await opened(docker).run(["true"], folder=folder)


async def test_a_command_that_ends_as_docker_would_is_taken_at_its_word(
    docker: FakeDocker, folder: Path
) -> None:
    done = await opened(docker).run(["sh", "-c", "exit 125"], folder=folder)
    assert (done.exit_code, done.stderr) == (125, "")


async def test_the_provider_asks_the_engine_before_the_first_command(
    docker: FakeDocker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{docker.path.parent}:{os.environ['PATH']}")
    config = SandboxConfig(provider="docker", image="img:2", wall_time=60.0)
    async with open_sandbox(config) as sandbox:
        assert isinstance(sandbox, DockerSandbox)
        done = await sandbox.run(["echo", "hi"], folder=folder)
    assert done.stdout == "hi\n"
    assert [words[0] for words, _ in docker.calls] == ["version", "run"]
