"""``gym-adapters export`` of stored rollouts, run as users run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("typer", reason="needs the extra cli")

from click.testing import Result
from typer.testing import CliRunner

from gym_adapters import InvalidConfig, Outcome, Reward, Rollout, StopReason, UsageError
from gym_adapters.cli.app import app
from gym_adapters.items import assistant_message, user_message
from gym_adapters.rollouts import RolloutMetrics, RunFolder
from gym_adapters.rollouts.manifest import Manifest


def cli(*arguments: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two tasks, with rewards of 2, 1 and 0; 2 is a pass."""
    manifest = Manifest("nowhere", "1", "scripted", None, 0)
    with RunFolder(tmp_path / "run", manifest, metrics=RolloutMetrics(2.0)) as folder:
        for task in ("0a", "0b"):
            for index, reward in enumerate((1.0, 2.0, 0.0)):
                folder.append(
                    Rollout(
                        row={"responses_create_params": {"input": task}},
                        task_id=task,
                        rollout_index=index,
                        prompt=[user_message(task)],
                        output=[assistant_message(f"worth {reward:g}")],
                        tools=[],
                        outcome=Outcome.scored(Reward(reward), StopReason.ANSWERED),
                    )
                )
        folder.write_metrics()
    return tmp_path / "run"


def test_sft_takes_what_the_run_counts_as_a_pass(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "sft.jsonl"
    done = cli("export", "sft", run, "-o", out)
    assert "2 rows of 6 rollouts" in done.stdout
    assert "left out: 4 (not a pass)" in done.stdout
    assert {row["completion"][0]["content"] for row in read(out)} == {"worth 2"}
    with pytest.raises(UsageError, match="--overwrite"):
        cli("export", "sft", run, "-o", out)
    cli("export", "sft", run, "-o", out, "--overwrite", "--min-reward", 1, "--format", "openai")
    assert len(read(out)) == 4
    assert set(read(out)[0]) == {"messages"}


def test_a_file_of_rollouts_will_do(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "sft.jsonl"
    cli("export", "sft", run / "rollouts.jsonl", "-o", out)
    assert len(read(out)) == 4  # there a reward of 1 is a pass


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (["dpo"], 2),
        (["dpo", "--all-pairs"], 6),
        (["dpo", "--all-pairs", "--min-margin", 2], 2),
        (["dpo", "--pairs-per-task", 2, "--format", "nemo-rl"], 4),
        (["reward-model", "--all-pairs"], 6),
        (["kto"], 6),
        (["kto", "--min-margin", 1.5], 4),
        (["grpo", "--only-mixed"], 2),
        (["grpo", "--format", "nemo-rl", "--agent", "a"], 2),
    ],
)
def test_every_target_writes_its_rows_and_a_card(
    command: list[object], count: int, run: Path, tmp_path: Path
) -> None:
    target, *options = command
    out = tmp_path / "out.jsonl"
    assert cli("export", target, run, "-o", out, *options).exit_code == 0
    assert len(read(out)) == count
    card = orjson.loads((tmp_path / "out.jsonl.card.json").read_bytes())
    assert (card["kind"], card["rows"]) == (target, count)
    assert card["counts"]["rollouts_read"] == 6


def test_shares_of_tasks_part_a_run_without_a_task_on_both_sides(run: Path, tmp_path: Path) -> None:
    prompts = []
    for name, share in (("training", (0, 0.7)), ("validation", (0.7, 1))):
        out = tmp_path / f"{name}.jsonl"
        cli("export", "kto", run, "-o", out, "--task-share", *share)
        prompts.append({row["prompt"][0]["content"] for row in read(out)})
    assert sorted(map(len, prompts)) == [1, 1]
    assert prompts[0] | prompts[1] == {"0a", "0b"}
    with pytest.raises(InvalidConfig, match="within 0 and 1"):
        cli("export", "kto", run, "-o", tmp_path / "x", "--task-share", 0.5, 2)


def test_formats_are_named_when_one_is_wrong(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="trl, nemo-customizer, openai"):
        cli("export", "sft", run, "-o", tmp_path / "x", "--format", "parquet")
    with pytest.raises(InvalidConfig, match="trl"):
        cli("export", "kto", run, "-o", tmp_path / "x", "--format", "openai")
