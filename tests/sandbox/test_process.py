"""The process sandbox: whatever a program does, it comes to an end and reaches nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gym_adapters.errors import SandboxError
from gym_adapters.sandbox import (
    ProcessSandbox,
    Sandbox,
    SandboxLimits,
    Workspace,
    open_process_sandbox,
)

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the process sandbox needs Linux"
)
SHORT = SandboxLimits(wall_time=1.0, cpu_time=1.0)


@pytest.fixture
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    async with open_process_sandbox() as opened:
        yield opened


async def test_a_program_reads_prints_and_exits(sandbox: ProcessSandbox) -> None:
    done = await sandbox.run_python("print(int(input()) + 1)", stdin="41\n")
    assert (done.stdout, done.stderr, done.exit_code, done.timed_out) == ("42\n", "", 0, False)
    assert done.succeeded
    left = await sandbox.run_python("import sys; sys.exit(3)")
    assert (left.exit_code, left.succeeded) == (3, False)


async def test_an_exception_gives_a_traceback_that_shows_the_programs_own_lines(
    sandbox: ProcessSandbox,
) -> None:
    done = await sandbox.run_python("x = 0\nprint(1 / x)")
    assert done.exit_code == 1
    assert 'File "solution.py", line 2' in done.stderr
    assert "print(1 / x)" in done.stderr
    assert "fork_server" not in done.stderr


async def test_a_function_or_a_method_of_solution_is_called_and_its_value_comes_back_as_json(
    sandbox: ProcessSandbox,
) -> None:
    method = "class Solution:\n    def f(self, a: List[int], b):\n        return (sum(a), b)"
    done = await sandbox.run_python(
        method, function="f", arguments=["[1, 2]", '"x"'], with_names=True
    )
    assert done.result == '[3, "x"]'
    done = await sandbox.run_python("def f(n): return n * 2", function="f", arguments=["21"])
    assert done.result == "42"
    missing = await sandbox.run_python("x = 1", function="f")
    assert (missing.result, missing.exit_code) == (None, 1)


async def test_output_written_on_the_way_out_is_kept(sandbox: ProcessSandbox) -> None:
    done = await sandbox.run_python("import atexit\natexit.register(print, 'late')\nprint('soon')")
    assert done.stdout == "soon\nlate\n"


async def test_names_are_there_without_imports_only_where_asked(sandbox: ProcessSandbox) -> None:
    program = "print(gcd(4, 6), datetime.date(2020, 1, 2), pow(2, 3, 5))"
    assert (await sandbox.run_python(program, with_names=True)).stdout == "2 2020-01-02 3\n"
    assert "NameError" in (await sandbox.run_python(program)).stderr


async def test_a_program_that_never_ends_is_stopped(sandbox: ProcessSandbox) -> None:
    spinning = await sandbox.run_python(
        "while True: pass", limits=SandboxLimits(wall_time=100, cpu_time=1)
    )
    assert spinning.exit_code == -signal.SIGXCPU
    sleeping = await sandbox.run_python("import time; time.sleep(60)", limits=SHORT)
    assert (sleeping.timed_out, sleeping.exit_code) == (True, -signal.SIGKILL)


async def test_memory_output_and_processes_are_bounded(sandbox: ProcessSandbox) -> None:
    greedy = await sandbox.run_python("x = bytearray(4 << 30)")
    assert "MemoryError" in greedy.stderr
    loud = await sandbox.run_python(
        "print('x' * 5000)", limits=SandboxLimits(output=1000, file_size=100_000)
    )
    assert (loud.truncated, loud.stdout) == (True, "x" * 1000)
    flooding = await sandbox.run_python(
        "while True: print('x' * 10000)", limits=SandboxLimits(file_size=100_000)
    )
    assert flooding.exit_code == 1
    assert len(flooding.stdout) <= 100_000
    forking = "import os\nwhile True:\n    if os.fork() == 0:\n        while True: pass"
    forked = await sandbox.run_python(forking, limits=SHORT)
    assert not forked.succeeded


async def test_there_is_no_network(sandbox: ProcessSandbox) -> None:
    if not sandbox.guarantees.network:
        pytest.skip("this machine's system call numbers are not known")
    for kind in ("AF_INET", "AF_INET6", "AF_UNIX"):
        done = await sandbox.run_python(f"import socket; socket.socket(socket.{kind})")
        assert "PermissionError" in done.stderr


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that file modes alone would not protect."""
    path = tmp_path / "secret"
    path.write_text("s3cret")
    tmp_path.chmod(0o755)
    path.chmod(0o666)
    return path


async def test_files_outside_can_be_neither_read_nor_written(
    sandbox: ProcessSandbox, secret: Path
) -> None:
    if not sandbox.guarantees.files:
        pytest.skip("this kernel has no Landlock")
    for attempt in (f"open({str(secret)!r})", f"open({str(secret)!r}, 'w')", "open('x', 'w')"):
        assert "PermissionError" in (await sandbox.run_python(attempt)).stderr
    async with await Workspace.create() as workspace:
        done = await sandbox.run(["cat", str(secret)], folder=workspace.path)
        assert (done.stdout, done.exit_code) == ("", 1)


async def test_processes_outside_can_be_neither_seen_nor_signalled(
    sandbox: ProcessSandbox,
) -> None:
    if not sandbox.guarantees.processes:
        pytest.skip("this kernel can't keep signals in")
    done = await sandbox.run_python(f"import os; os.kill({os.getpid()}, 0)")
    assert "PermissionError" in done.stderr


async def test_what_a_command_leaves_running_is_killed(
    sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    async with await Workspace.create() as workspace:
        script = "(while true; do echo x >> alive; sleep 0.05; done) & echo started"
        done = await sandbox.run(["bash", "-c", script], folder=workspace.path)
        assert done.stdout == "started\n"
        await asyncio.sleep(0.2)
        written = await sandbox.run(["cat", "alive"], folder=workspace.path)
        await asyncio.sleep(0.3)
        again = await sandbox.run(["cat", "alive"], folder=workspace.path)
        assert written.stdout == again.stdout


async def test_a_command_runs_in_its_folder_with_no_inherited_variable(
    sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "s3cret")
    async with await Workspace.create() as workspace:
        await workspace.write("a/b.py", "open('out.txt', 'w').write(input())")
        done = await sandbox.run(["python", "a/b.py"], folder=workspace.path, stdin="hello\n")
        assert done.succeeded, done.stderr
        assert await workspace.read("out.txt") == "hello"
        shown = await sandbox.run(["env"], folder=workspace.path, environment={"LEVEL": "2"})
        assert "LEVEL=2" in shown.stdout
        assert "s3cret" not in shown.stdout


async def test_a_command_that_does_not_exist_is_the_commands_fault(
    sandbox: ProcessSandbox,
) -> None:
    async with await Workspace.create() as workspace:
        done = await sandbox.run(["no-such-program"], folder=workspace.path)
    assert (done.exit_code, done.stderr) == (127, "no-such-program: No such file or directory\n")


async def test_a_folder_that_is_gone_is_the_sandboxs_fault(sandbox: ProcessSandbox) -> None:
    async with await Workspace.create() as workspace:
        path = workspace.path
    with pytest.raises(SandboxError, match="No such file or directory"):
        await sandbox.run(["true"], folder=path)


async def test_a_cancelled_run_kills_its_program_and_frees_its_place() -> None:
    async with open_process_sandbox(concurrency=1) as sandbox:
        waiting = asyncio.create_task(sandbox.run_python("import time; time.sleep(60)"))
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await sandbox.run_python("print(1)")).stdout == "1\n"


async def test_a_dead_server_fails_what_ran_on_it_and_is_started_again(
    sandbox: ProcessSandbox,
) -> None:
    running = asyncio.create_task(sandbox.run_python("import time; time.sleep(60)"))
    while not sandbox._client._waiting:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    process = sandbox._client._process
    assert process is not None
    process.kill()
    with pytest.raises(SandboxError, match="died"):
        await running
    assert (await sandbox.run_python("print(1)")).stdout == "1\n"


async def test_many_programs_at_once_get_their_own_answers(sandbox: ProcessSandbox) -> None:
    runs = [sandbox.run_python(f"print(input(), {n})", stdin=f"{n}\n") for n in range(40)]
    assert [done.stdout for done in await asyncio.gather(*runs)] == [
        f"{n} {n}\n" for n in range(40)
    ]


def test_it_is_a_sandbox(sandbox: ProcessSandbox) -> None:
    as_protocol: Sandbox = sandbox
    assert as_protocol.guarantees.memory
