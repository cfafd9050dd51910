"""Commands run where streams are closed, and where their encoding lacks what rows have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

MAIN = "import sys; from gym_adapters.cli import main; sys.argv[0] = 'gym-adapters'; main()"
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
COLLECT = ("collect", "arithmetic_tools", "--model", "scripted:gold", "--limit", "1")


def ran(
    words: Sequence[str], *, closed: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    # The shell closes them as a user's does: `subprocess` itself would need the numbers.
    script = f'exec "$@" {closed}'
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-c", MAIN, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
        env={**os.environ, **(environment or {})},
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_needs_no_stream(closed: str, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    done = ran([*COLLECT, "--output", str(folder)], closed=closed)
    assert (done.returncode, done.stderr.count(b"Traceback")) == (0, 0)
    line = (folder / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(line)["reward"] == 1.0


def test_a_failure_without_stderr_has_its_exit_code(tmp_path: Path) -> None:
    assert ran(["report", str(tmp_path)], closed="<&- >&- 2>&-").returncode == 2


def test_what_an_encoding_lacks_is_escaped() -> None:
    done = ran(["envs"], environment={**ASCII, "COLUMNS": "60"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"\\u2026" in done.stdout


def test_json_stays_json_in_any_encoding() -> None:
    wide = "\N{LATIN SMALL LETTER E WITH ACUTE}\N{GRINNING FACE}"
    code = (
        "from gym_adapters.cli.streams import standard_streams as ready; ready(); "
        f"print('\"' + {wide!a} + '\"')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, **ASCII},
    )
    assert done.stdout.isascii()
    assert json.loads(done.stdout) == wide
