"""Every block of docs/serving.md runs as written."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("websockets", reason="needs the extra openenv")
pytest.importorskip("torch", reason="needs the extra transformers")

from gym_adapters import Environment, Task, Transcript
from gym_adapters.agents import remote_agent
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.testing import ScriptedGenerator
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [text.strip() for kind, text in BLOCKS if kind == "bash"]
AGENT = """
import json, sys, urllib.request
task = json.load(sys.stdin)
body = json.dumps({"model": "m", "input": task["input"]}).encode()
request = urllib.request.Request(task["base_url"] + "/responses", body)
urllib.request.urlopen(request, timeout=60).read()
"""


def test_each_block_has_a_test() -> None:
    """LangGraph's agent and its training run in tests/adapters/trl/test_foreign_agent.py."""
    programs = [text for kind, text in BLOCKS if kind == "python"]
    assert [any(mark in text for mark in MARKS) for text in programs] == [True] * 3
    assert len(COMMANDS) == 4


MARKS = ("async def rollouts", "create_react_agent", "GatewayAgent(url")


@contextmanager
def started(command: str, folder: Path) -> Iterator[str]:
    # A port that is free when it is taken, whatever else runs here.
    program, *arguments = shlex.split(re.sub(r"--port \d+|$", " --port 0 ", command, count=1))
    assert program == "gym-adapters"
    environ = {k: v for k, v in os.environ.items() if k != "GYM_ADAPTERS_SERVE_TOKEN"}
    with subprocess.Popen(
        [sys.executable, "-m", "gym_adapters.cli", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "command",
    [
        # The tiny policy is trained when it is asked for.
        pytest.param(each, marks=[pytest.mark.full] if "tiny" in each else [])
        for each in COMMANDS
    ],
)
def test_each_command_serves(command: str, tmp_path: Path) -> None:
    with started(command, tmp_path) as said:
        assert re.match(r"serving .* at http://127\.0\.0\.1:\d+ ", said)


class Hello(Environment[Task]):
    async def verify(self, transcript: Transcript) -> float:
        return float(transcript.final_text == "hello")


async def test_a_foreign_agent_is_run_by_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = [text for kind, text in BLOCKS if kind == "python" and MARKS[0] in text]
    names: dict[str, Any] = {}
    exec(compile(program, "docs/serving.md", "exec"), names)

    def own(gateway: Any, *, command: list[str]) -> remote_agent.RemoteAgent:
        assert command == ["my-agent", "--headless"]
        return remote_agent.RemoteAgent(gateway, command=[sys.executable, "-c", AGENT])

    monkeypatch.setitem(names, "RemoteAgent", own)
    tokenizer = tiny_tokenizer()
    said = tokenizer("hello<|im_end|>", add_special_tokens=False)["input_ids"]
    generator = ScriptedGenerator(lambda *_: said)
    model = TokenChatModel(
        generator, TemplateRenderer(tokenizer), output_parser(tokenizer), name="scripted"
    )
    task = Task.from_row({"responses_create_params": {"input": "say it"}})
    (rollout,) = [each async for each in names["rollouts"](Hello, [task], model)]
    assert rollout.reward == 1.0
