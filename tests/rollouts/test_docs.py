"""What the page on collecting says to type works as typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest

from gym_adapters import load_environment

pytest.importorskip("typer", reason="needs the extra cli")
pytest.importorskip("aiohttp", reason="needs the extra remote")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "collect.md"
ADDRESS = re.compile(r"http://(?:localhost|host):8000/v1")
# Tested on a cluster by test_ray.py, which takes minutes.
ON_RAY = " --ray-address auto --workers 8"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


class Endpoint(BaseHTTPRequestHandler):
    """Always chooses B."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": r"\boxed{B}"}
        body = orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the page speaks of."""
    example = load_environment("mcqa").example_path
    assert example is not None
    (tmp_path / "rows.jsonl").write_bytes(example.read_bytes())
    rows = [orjson.loads(line) for line in example.read_bytes().splitlines()]
    content = [{"type": "output_text", "text": r"\boxed{B}", "annotations": []}]
    message = {"type": "message", "role": "assistant", "content": content}
    recorded = [{**row, "response": {"output": [message]}, "reward": 0.0} for row in rows]
    lines = b"".join(orjson.dumps(row) + b"\n" for row in recorded)
    (tmp_path / "rollouts.jsonl").write_bytes(lines)
    return tmp_path


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        arguments,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(300)
def test_commands_run_as_written(folder: Path, endpoint: str) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert len(lines) == 9
    for line in lines:
        command = ADDRESS.sub(endpoint, line).replace(ON_RAY, "")
        program, *arguments = shlex.split(command)
        assert program == "gym-adapters"
        run([sys.executable, "-m", "gym_adapters.cli", *arguments], folder)
    assert (folder / "report.html").stat().st_size > 10_000

    def lines_of(name: str) -> int:
        return (folder / name).read_bytes().count(b"\n")

    rows = lines_of("rows.jsonl")
    assert lines_of("run/rollouts.jsonl") == lines_of("rescored/rollouts.jsonl") == 8 * rows
    assert lines_of("ray_run/rollouts.jsonl") == lines_of("rescored.jsonl") == rows


def test_code_runs_as_written(folder: Path) -> None:
    (code,) = blocks("python")
    assert run([sys.executable, "-c", code], folder).count(" 1.0\n") == 160
