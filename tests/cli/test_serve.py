from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gym_adapters.cli", "serve", *arguments]


def environ() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "GYM_ADAPTERS_SERVE_TOKEN"}


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Runs the command until the block ends; it must then stop cleanly."""
    with subprocess.Popen(
        command(*arguments, "--port", "0"), stdout=subprocess.PIPE, text=True, env=environ()
    ) as process:
        assert process.stdout is not None
        try:
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address is not None
            yield address[0]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
            assert "stopped" in process.stdout.read()
        finally:
            process.kill()


def post(url: str, body: object) -> object:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_environments_are_served_until_a_signal_comes() -> None:
    with serving("environments", "example_session_state_mgmt", "mcqa") as url:
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert json.load(answer) == {"status": "ok"}
        row = {
            "responses_create_params": {"input": "x"},
            "initial_count": 1,
            "expected_count": 1,
        }
        assert post(f"{url}/example_session_state_mgmt/seed_session", row) == {}


def test_an_agent_answers_a_row_with_a_verdict() -> None:
    with serving("agent", "example_session_state_mgmt", "-m", "scripted:gold") as url:
        row = {
            "responses_create_params": {"input": "add 2"},
            "initial_count": 1,
            "expected_count": 3,
        }
        verdict = post(f"{url}/run", row)
        assert isinstance(verdict, dict)
        assert verdict["reward"] == 1.0


def test_an_environment_is_served_to_openenvs_clients(tmp_path: Path) -> None:
    pytest.importorskip("websockets", reason="needs the extra openenv")
    from websockets.sync.client import connect

    row = {"responses_create_params": {"input": "x"}, "initial_count": 4, "expected_count": 4}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with (
        serving("openenv", "example_session_state_mgmt", "-i", str(rows)) as url,
        connect(f"ws{url.removeprefix('http')}/ws") as client,
    ):
        client.send('{"type": "reset", "data": {}}')
        assert json.loads(client.recv(30))["data"]["observation"]["text"] == "x"
        client.send('{"type": "step", "data": {"message": "done"}}')
        assert json.loads(client.recv(30))["data"]["reward"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["environments", "mcqa", "--host", "0.0.0.0"], "GYM_ADAPTERS_SERVE_TOKEN"),
        (["environments", "mcqa", "mcqa"], "each environment once"),
        (["environments", "no_such_environment"], "no_such_environment"),
        (["environments", "mcqa", "preference", "--set", "a=1"], "--set"),
        (["environments", "mcqa", "--host", "203.0.113.1"], "203.0.113.1"),
        (["gateway", "-m", "scripted:empty"], "keeps no tokens"),
    ],
)
def test_what_cannot_be_served_is_one_clear_error(arguments: Sequence[str], told: str) -> None:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, env=environ(), check=False
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
