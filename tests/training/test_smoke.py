"""`gym-adapters train RECIPE --smoke` really trains, with each trainer that runs on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("trl", reason="needs the extra trl")
pytest.importorskip("typer", reason="needs the extra cli")

from gym_adapters import Rollout
from gym_adapters.rollouts.recorded import final_rollouts
from gym_adapters.training.trainer_metrics import Trend, read_metrics, trend

# Of a run on two quiet cores each takes about a minute and a half; a busy machine takes longer.
TIMEOUT = 1_500


def train(recipe: str, output: Path, *words: str) -> str:
    """Run the command as a user does; what it printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gym_adapters.cli", "train", recipe, "--smoke", *words),
            *("--output", str(output)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    names = ("model.safetensors", "adapter_model.safetensors")
    return dict(load_file(next(folder / n for n in names if (folder / n).is_file())))


def checked(output: Path, metric: str) -> Trend:
    """What every run leaves, and how its metric went."""
    result = orjson.loads((output / "run.json").read_bytes())
    assert result["status"] == "finished"
    learnt, start = weights(Path(result["checkpoint"])), weights(output / "start")
    if all(name in start for name in learnt):
        assert any(not learnt[name].equal(start[name]) for name in learnt)
    else:  # adapters: their second halves begin at nothing
        assert all(tensor.abs().sum() > 0 for name, tensor in learnt.items() if "lora_B" in name)
    for name in ("recipe.yaml", "commands.sh", "log.txt"):
        assert (output / name).stat().st_size > 0
    found = trend(read_metrics(output / "metrics.jsonl"), [metric])
    assert found is not None
    return found


def rollouts_of(output: Path) -> list[Rollout]:
    kept = list(final_rollouts(output / "rollouts"))
    keys = {(rollout.task_id, rollout.rollout_index) for rollout in kept}
    assert len(keys) == len(kept)
    assert all(segment.sampled_ids for each in kept for segment in each.segments)
    return kept


def reported(folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "gym_adapters.cli", "report", str(folder), "--json"],
        capture_output=True,
        check=True,
    )
    data: dict[str, Any] = orjson.loads(done.stdout)
    return data


@pytest.mark.timeout(TIMEOUT)
def test_sft_learns_from_the_rollouts_it_collected(tmp_path: Path) -> None:
    output = tmp_path / "run"
    printed = train("trl/sft", output)
    loss = checked(output, "loss")
    assert loss.last < 0.8 * loss.first
    assert "assistant_only_loss true" in printed
    assert f"policy:   {output / 'policy'}" in printed
    collected = rollouts_of(output)
    passed = [each for each in collected if each.reward == 1.0]
    rows = (output / "data" / "sft.jsonl").read_bytes().splitlines()
    assert 0 < len(rows) <= len(passed) < len(collected)


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT)
def test_dpo_learns_from_exported_pairs(tmp_path: Path) -> None:
    train("trl/dpo", tmp_path / "run")
    loss = checked(tmp_path / "run", "loss")
    assert loss.last < 0.8 * loss.first
    margins = trend(read_metrics(tmp_path / "run" / "metrics.jsonl"), ["rewards/margins"])
    assert margins is not None
    assert margins.last > margins.first


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT)
def test_kto_learns_from_attempts_called_good_or_bad(tmp_path: Path) -> None:
    train("trl/kto", tmp_path / "run")
    loss = checked(tmp_path / "run", "loss")
    assert loss.last < loss.first


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT)
def test_grpo_learns_keeps_its_rollouts_evaluates_and_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = ("held_out=0.1", "evaluate_every=10", "save_every=10")
    train("trl/grpo", output, *words, "steps=20")
    reward = checked(output, "reward")
    assert reward.last > reward.first + 0.1
    kept = rollouts_of(output)
    assert len(kept) == 20 * 64
    assert reported(output / "rollouts")["rollouts"] == len(kept)
    trained = {each.task_id for each in kept}
    held_out = {each.task_id for each in final_rollouts(output / "evaluation")}
    assert held_out
    assert not trained & held_out
    entries = read_metrics(output / "metrics.jsonl")
    assert [each["step"] for each in entries if "eval_reward" in each] == [10, 20]
    printed = train("trl/grpo", output, *words, "steps=30", "--resume")
    assert f"--resume_from_checkpoint {output / 'policy' / 'checkpoint-20'}" in printed
    steps = [each["step"] for each in read_metrics(output / "metrics.jsonl") if "reward" in each]
    assert steps == list(range(1, 31))
    assert len(rollouts_of(output)) == 30 * 64


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT)
def test_grpo_goes_on_from_where_sft_ended(tmp_path: Path) -> None:
    output = tmp_path / "run"
    train("trl/sft_grpo", output)
    reward = checked(output, "reward")
    assert reward.last > reward.first
    first, last = weights(output / "warm_start"), weights(output / "policy")
    assert any(not first[name].equal(last[name]) for name in first)
    loss = trend(read_metrics(output / "warm_start_metrics.jsonl"), ["loss"])
    assert loss is not None
    assert loss.last < loss.first


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT)
def test_verls_own_trainer_learns_and_keeps_its_rollouts(tmp_path: Path) -> None:
    pytest.importorskip("verl", reason="needs the extra verl")
    output = tmp_path / "run"
    train("verl/grpo", output)
    reward = checked(output, "critic/score/mean")
    assert reward.last > reward.first + 0.1
    assert reported(output / "rollouts")["rollouts"] == len(rollouts_of(output)) >= 10 * 64


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT)
def test_unsloths_path_without_a_gpu_learns(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    train("unsloth/sft", tmp_path / "sft")
    loss = checked(tmp_path / "sft", "loss")
    assert loss.last < loss.first
    train("unsloth/grpo", tmp_path / "grpo")
    reward = checked(tmp_path / "grpo", "reward")
    assert reward.last > reward.first
