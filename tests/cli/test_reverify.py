"""New verdicts on old rollouts: what can't be verified costs nothing, and work goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import Outcome, Rollout
from gym_adapters.errors import JudgeError


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gym_adapters.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected") / "run"
    done = cli("collect", "mcqa", "-m", "scripted:gold", "--limit", 3, "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def nemo_gym_line(**changes: Any) -> bytes:
    row = {
        "responses_create_params": {"input": "2 + 2? A: 4, B: 5", "instructions": "Be brief."},
        "options": [{"A": "4"}, {"B": "5"}],
        "expected_answer": "A",
        "response": {
            "model": "m",
            "output": [
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "Answer: A"}],
                }
            ],
        },
        "reward": 0.0,
    }
    kept = {key: value for key, value in {**row, **changes}.items() if value is not None}
    return orjson.dumps(kept) + b"\n"


def test_a_source_that_cannot_be_verified_leaves_the_folder_as_it_was(
    run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "again"
    wrong = cli("reverify", run, "-e", "calendar", "-o", output)
    assert wrong.returncode == 2
    assert f"{run}, attempt 0 of task" in wrong.stderr
    # Neither --overwrite nor another folder is needed to do it right.
    done = cli("reverify", run, "-o", output)
    assert done.returncode == 0, done.stderr
    # Nor does a second mistake cost what is there by now.
    assert cli("reverify", run, "-e", "calendar", "-o", output, "--overwrite").returncode == 2
    assert len(lines(output / "rollouts.jsonl")) == 3


def test_verdicts_that_are_there_are_kept_when_a_later_row_is_wrong(
    run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rollouts.jsonl"
    rows = lines(run / "rollouts.jsonl")
    wrong = orjson.loads(rows[2])
    del wrong["gym_adapters"]["row"]["expected_answer"]
    path.write_bytes(rows[0] + rows[1] + orjson.dumps(wrong) + b"\n")
    output = tmp_path / "again"
    stopped = cli("reverify", path, "-o", output, "-c", 1)
    assert stopped.returncode == 2
    assert "--resume" in stopped.stderr
    assert len(lines(output / "rollouts.jsonl")) == 2
    path.write_bytes(b"".join(rows))
    done = cli("reverify", path, "-o", output, "--resume")
    assert done.returncode == 0, done.stderr
    assert "1 verdicts are as they were, 0 changed" in done.stdout
    metrics = orjson.loads((output / "metrics.json").read_bytes())
    assert (metrics["rollouts"], metrics["reward_mean"]) == (3, 1.0)
    other = tmp_path / "other.jsonl"
    other.write_bytes(rows[0])
    refused = cli("reverify", other, "-o", output, "--resume")
    assert refused.returncode == 2
    assert "holds" in refused.stderr


def without_verdict(path: Path, number: int) -> bytes:
    """A line of `path` as it would be had its judge been down."""
    rollout = Rollout.from_json(orjson.loads(lines(path)[number]))
    failed = replace(rollout, outcome=Outcome.unscored(JudgeError("down")))
    return orjson.dumps(failed.to_json()) + b"\n"


def test_failed_verdicts_alone_are_made_up_for_in_a_run_that_is_whole(
    run: Path, tmp_path: Path
) -> None:
    broken, output = tmp_path / "broken", tmp_path / "again"
    shutil.copytree(run, broken)
    first, *others = lines(run / "rollouts.jsonl")
    failed = without_verdict(run / "rollouts.jsonl", 0)
    (broken / "rollouts.jsonl").write_bytes(b"".join(others))
    (broken / "failures.jsonl").write_bytes(failed)
    done = cli("reverify", broken, "-o", output, "--failed-only")
    assert done.returncode == 0, done.stderr
    assert "0 verdicts are as they were, 1 changed, 2 not verified again" in done.stdout
    assert sorted(lines(output / "rollouts.jsonl")) == sorted([first, *others])
    metrics = orjson.loads((output / "metrics.json").read_bytes())
    assert (metrics["rollouts"], metrics["scored"], metrics["failures"]) == (3, 3, {})


def test_a_file_is_written_where_one_is_asked_for(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "again.jsonl"
    done = cli("reverify", run, "-o", output)
    assert done.returncode == 0, done.stderr
    assert sorted(lines(output)) == sorted(lines(run / "rollouts.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    refused = cli("reverify", run, "-o", output)
    assert (refused.returncode, "is there already" in refused.stderr) == (2, True)
    # Neither is a mistake, nor what is there, lost by another try.
    wrong = cli("reverify", run, "-e", "calendar", "-o", output, "--overwrite")
    assert (wrong.returncode, len(lines(output))) == (2, 3)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert cli("reverify", output, "-o", output.with_name("2.jsonl")).returncode == 0
    for own in (run / "rollouts.jsonl", run):
        refused = cli("reverify", run, "-o", own, "--overwrite")
        assert (refused.returncode, "never changed" in refused.stderr) == (2, True)


def test_a_file_may_bear_the_name_that_a_run_gives_its_rollouts(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "rollouts.jsonl"
    done = cli("reverify", run, "-o", output)
    assert done.returncode == 0, done.stderr
    assert sorted(lines(output)) == sorted(lines(run / "rollouts.jsonl"))


def test_a_mistake_does_not_cost_the_verdicts_of_an_unfinished_file(
    run: Path, tmp_path: Path
) -> None:
    path, output = tmp_path / "rollouts.jsonl", tmp_path / "again.jsonl"
    rows = lines(run / "rollouts.jsonl")
    path.write_bytes(rows[0] + b"{broken\n")
    assert cli("reverify", path, "-o", output, "-c", 1).returncode == 2
    wrong = cli("reverify", run, "-e", "calendar", "-o", output, "--overwrite")
    assert wrong.returncode == 2
    path.write_bytes(b"".join(rows))
    done = cli("reverify", path, "-o", output, "--resume")
    assert "verifying 3 rollouts, 1 there already" in done.stderr


def test_a_file_that_was_begun_is_gone_on_with(run: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "rollouts.jsonl", tmp_path / "again.jsonl"
    rows = lines(run / "rollouts.jsonl")
    path.write_bytes(rows[0] + b"{broken\n")
    assert cli("reverify", path, "-o", output, "-c", 1).returncode == 2
    assert not output.exists()
    path.write_bytes(b"".join(rows))
    assert "--resume" in cli("reverify", path, "-o", output).stderr
    done = cli("reverify", path, "-o", output, "--resume")
    assert done.returncode == 0, done.stderr
    assert "verifying 3 rollouts, 1 there already" in done.stderr
    assert sorted(lines(output)) == sorted(rows)


def test_programs_are_told_every_change(run: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "rollouts.jsonl", tmp_path / "again"
    rows = lines(run / "rollouts.jsonl")
    path.write_bytes(b"".join([without_verdict(run / "rollouts.jsonl", 0), *rows[1:]]))
    done = cli("reverify", path, "-o", output, "--json")
    told = orjson.loads(done.stdout)
    assert (told["same"], told["changed"], told["kept"]) == (2, 1, 0)
    task_id = orjson.loads(rows[0])["gym_adapters"]["task_id"]
    change = {"task_id": task_id, "rollout_index": 0, "before": None, "after": 1.0, "reason": ""}
    assert told["changes"] == [change]
    assert told["metrics"]["reward_mean"] == 1.0


def test_one_attempt_twice_in_a_file_is_refused_by_its_line(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes((run / "rollouts.jsonl").read_bytes() * 2)
    refused = cli("reverify", path, "-o", tmp_path / "again")
    assert refused.returncode == 2
    assert f"{path}:4: attempt 0 of task" in refused.stderr
    path.write_bytes(b"")
    empty = cli("reverify", path, "-e", "mcqa", "-o", tmp_path / "again")
    assert (empty.returncode, "there are no rollouts of mcqa" in empty.stderr) == (2, True)


def test_a_nemo_gym_file_gets_verdicts_where_it_has_none_and_tells_no_figures_it_lacks(
    tmp_path: Path,
) -> None:
    path, output = tmp_path / "rollouts.jsonl", tmp_path / "again"
    path.write_bytes(nemo_gym_line(reward=None) + nemo_gym_line())
    done = cli(
        "reverify", path, "-e", "mcqa", "-o", output, "--set", "grading_mode=lenient_answer_colon"
    )
    assert done.returncode == 0, done.stderr
    assert "0 verdicts are as they were, 2 changed" in done.stdout
    metrics = orjson.loads((output / "metrics.json").read_bytes())
    assert (metrics["reward_mean"], metrics["failures"]) == (1.0, {})
    assert metrics["turns"]["mean"] == 1.0
    assert metrics["seconds"] is None
    assert "time of a rollout" not in done.stdout


def test_where_no_rollout_gets_a_verdict_the_command_fails(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(nemo_gym_line(_ng_failure_class="Timeout"))
    done = cli("reverify", path, "-e", "mcqa", "-o", tmp_path / "again")
    assert (done.returncode, "no rollout has a verdict" in done.stderr) == (1, True)


def test_a_file_of_compared_rollouts_is_compared_by_task(tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "again"
    command = ["collect", "preference", "-m", "scripted:garbage", "-k", 4, "--limit", 2, "-o", run]
    assert cli(*command).returncode == 0
    rewards = {orjson.loads(line)["reward"] for line in lines(run / "rollouts.jsonl")}
    done = cli("reverify", run / "rollouts.jsonl", "-o", output)
    assert done.returncode == 0, done.stderr
    assert "8 verdicts are as they were, 0 changed" in done.stdout, rewards
