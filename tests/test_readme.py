"""Every code block of the README runs, in order, as a reader would run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("trl", reason="the README trains with TRL: install the extra trl")

BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL
)
# These install things, or are run by other tests for what they do.
ELSEWHERE = ("make quickstart", "make test", "pip install")


class Block(NamedTuple):
    """One fenced block: what it is written in, what it says, and the file it is meant to be."""

    language: str
    text: str
    file: str | None


def blocks(readme: str) -> list[Block]:
    return [Block(m["language"], m["text"], m["file"]) for m in BLOCK.finditer(readme)]


def commands(block: Block) -> list[str]:
    lines = [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(400)
def test_every_block_of_the_readme_runs_as_written(repository: Path, tmp_path: Path) -> None:
    ran: list[str] = []
    output = ""
    for block in blocks((repository / "README.md").read_text(encoding="utf-8")):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            output += run([sys.executable, "-c", block.text], tmp_path)
            ran.append("python")
        elif block.language == "console":
            for command in commands(block):
                program, *arguments = shlex.split(command)
                assert program == "gym-adapters"
                run([sys.executable, "-m", "gym_adapters.cli", *arguments], tmp_path)
                ran.append(arguments[0])

    assert ran == ["python", "validate", "collect", "python", "doctor", "train"]
    assert "invalid_arguments" in output
    assert "scored 1.0" in output
    assert (tmp_path / "rollouts" / "rollouts.jsonl").read_text().count("\n") == 8
    assert (tmp_path / "trained").is_dir()


def test_the_environment_of_the_readme_is_short(repository: Path) -> None:
    [code] = [
        block.text
        for block in blocks((repository / "README.md").read_text(encoding="utf-8"))
        if block.file == "counter.py"
    ]
    written = [line for line in code.splitlines() if line.strip()]
    assert len(written) <= 20
