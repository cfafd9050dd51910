"""Every block of docs/bridges.md runs as written."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gymnasium", reason="needs the extra gymnasium")
pytest.importorskip("websockets", reason="needs the extra openenv")

from gym_adapters import Environment, EnvironmentEntry, Task, Transcript
from gym_adapters.serving.environment_app import environment_app
from gym_adapters.serving.http_server import serving
from gym_adapters.serving.openenv_server import openenv_app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bridges.md"
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [text.replace("\\\n", " ").strip() for kind, text in BLOCKS if kind == "bash"]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


class Echo(Environment[Task]):
    async def verify(self, transcript: Transcript) -> float:
        return 0.5


CHILD = "# environment.py"


@pytest.mark.parametrize("program", [each for each in PROGRAMS if not each.startswith(CHILD)])
async def test_each_program_runs(program: str) -> None:
    if "env.reset" in program:
        # It has an event loop of its own.
        await asyncio.to_thread(exec, compile(program, "docs/bridges.md", "exec"), {})
    else:
        exec(compile(program, "docs/bridges.md", "exec"), {})


@asynccontextmanager
async def peers() -> AsyncIterator[dict[str, str]]:
    """Servers for the addresses in the page."""
    entry = EnvironmentEntry("echo", Echo, None)
    rows = [{"responses_create_params": {"input": "x"}}]
    async with AsyncExitStack() as stack:
        app, _ = await stack.enter_async_context(environment_app([entry]))
        nemo = await stack.enter_async_context(serving(app))
        other, _ = await stack.enter_async_context(openenv_app(entry, rows=rows))
        openenv = await stack.enter_async_context(serving(other, websockets=True))
        yield {"http://127.0.0.1:8000": nemo, "http://127.0.0.1:8001": openenv}


def test_the_page_has_these_commands() -> None:
    assert [command.split()[1] for command in COMMANDS] == [
        "collect",
        "collect",
        "serve",
        "collect",
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", [each for each in COMMANDS if " collect " in each])
async def test_each_collection_runs(command: str, tmp_path: Path) -> None:
    (child,) = [program for program in PROGRAMS if program.startswith(CHILD)]
    (tmp_path / "environment.py").write_text(child, encoding="utf-8")
    row = {"responses_create_params": {"input": "x"}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    async with peers() as addresses:
        for written, real in addresses.items():
            command = command.replace(written, real)
        program, *arguments = shlex.split(command)
        assert program == "gym-adapters"
        output = tmp_path / "rollouts.jsonl"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gym_adapters.cli", *arguments, "-o", str(output)),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, said.decode()
    (rollout,) = collected(tmp_path)
    assert rollout["reward"] is not None, rollout["gym_adapters"]


def collected(folder: Path) -> list[Any]:
    files = [each for each in folder.rglob("rollouts*.jsonl") if each.is_file()]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
