"""Several environments on one command line, run as users run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

pytest.importorskip("typer", reason="needs the extra cli")

NAMES = ["mcqa=3", "calendar", "example_single_tool_call"]


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gym_adapters.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_environments_share_tasks_by_weight_in_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cli("collect", *NAMES, "-m", "scripted:gold", "-n", 25, "-k", 2, "-o", run, "--json")
    assert done.returncode == 0, done.stderr
    metrics = orjson.loads(done.stdout)
    assert {name: each["tasks"] for name, each in metrics["environments"].items()} == {
        "mcqa": 15,
        "calendar": 5,
        "example_single_tool_call": 5,
    }
    assert metrics["reward_mean"] == 1.0
    report = cli("report", run, "--json")
    assert orjson.loads(report.stdout) == metrics
    again = tmp_path / "again"
    reverified = cli("reverify", run, "-e", "calendar", "-o", again)
    assert "10 verdicts are as they were, 0 changed" in reverified.stdout, reverified.stderr


def test_files_and_settings_say_which_environment_they_are_for(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    example = Path(str(load_example("mcqa")))
    rows.write_bytes(b"".join(example.read_bytes().splitlines(keepends=True)[:2]))
    options = ["-m", "scripted:gold", "--json", "-i", f"mcqa={rows}"]
    done = cli("collect", "mcqa", "calendar", *options)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout)["environments"]["mcqa"]["tasks"] == 2
    lacking = cli("collect", "mcqa", "calendar", "-m", "scripted:gold", "-i", rows)
    assert lacking.returncode == 2
    assert "which environment" in lacking.stderr


def load_example(name: str) -> Path | None:
    from gym_adapters.registry import load_environment

    return load_environment(name).example_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mcqa=much"], "not a weight"),
        (["mcqa=0", "calendar"], "weight"),
        (["mcqa", "mcqa"], "once"),
        (["mcqa", "calendar", "--set", "grading_mode=x"], "which environment"),
        (["mcqa", "calendar", "-n", "1"], "too few"),
    ],
)
def test_what_is_wrong_is_one_clear_line(arguments: list[str], said: str) -> None:
    done = cli("collect", *arguments, "-m", "scripted:gold")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
