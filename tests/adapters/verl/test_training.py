"""verl's real trainer, in processes of its own, on a CPU: GRPO on our environments."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gym_adapters import Task
from gym_adapters.adapters.verl import verl_overrides, verl_rows, write_verl_rows
from gym_adapters.adapters.verl.overrides import write_overrides
from gym_adapters.rollouts.training_ledger import TrainingLedger
from gym_adapters.testing import Conversation, TinyPolicy, WarmUp, tiny_policy
from gym_adapters.testing.verl_cpu import OVERRIDES, environment_variables
from gym_adapters.verifiers.answers import integer_answer

STEPS = 4


@dataclass(frozen=True)
class Training:
    """What a finished run left behind.

    Attributes:
        code: Exit code.
        log: Everything it printed.
        metrics: verl's metrics, one entry a step.
        samples: What was trained on, by step.
    """

    code: int
    log: str
    metrics: list[dict[str, float]]
    samples: dict[int, list[dict[str, Any]]]


Train = Callable[..., Training]


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Train]:
    """Trains; whatever Ray started is ended afterwards."""
    # Ray's sockets lie under it, and their names may have 107 characters.
    ray_folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    started: list[subprocess.Popen[bytes]] = []

    def run(
        environment: str,
        tasks: list[Task],
        policy: TinyPolicy,
        *extra: str,
        killed_when: Callable[[], bool] = lambda: False,
    ) -> Training:
        data, samples = tmp_path / "train.parquet", tmp_path / "samples"
        write_verl_rows(verl_rows(environment, tasks), data)
        overrides = tmp_path / "run.overrides"
        write_overrides(
            [
                *verl_overrides(
                    environment,
                    model=policy.model_path,
                    train_files=data,
                    group_size=8,
                    batch_size=4,
                    max_prompt_length=96,
                    max_response_length=160,
                ),
                *OVERRIDES,
                "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
                "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
                "actor_rollout_ref.actor.optim.lr=1e-3",
                "trainer.save_freq=-1",
                "trainer.resume_mode=disable",
                "trainer.logger=[console,file]",
                f"trainer.total_training_steps={STEPS}",
                "trainer.total_epochs=1",
                f"trainer.rollout_data_dir={samples}",
                f"trainer.default_local_dir={tmp_path}/checkpoints",
                f"hydra.run.dir={tmp_path}",
                "hydra.output_subdir=null",
                f"+ray_kwargs.ray_init._temp_dir={ray_folder}/{len(started)}",
                *extra,
            ],
            overrides,
        )
        metrics, log = tmp_path / "metrics.jsonl", tmp_path / "log.txt"
        command = [sys.executable, "-m", "gym_adapters.adapters.verl.launch"]
        variables = {**os.environ, **environment_variables(), "VERL_FILE_LOGGER_PATH": str(metrics)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--overrides", str(overrides)],
                cwd=tmp_path,
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            started.append(process)
            until = time.monotonic() + 900
            while process.poll() is None and time.monotonic() < until:
                if killed_when():
                    process.kill()
                    _end_processes_of(ray_folder)
                time.sleep(0.05)
            code = process.wait(timeout=10)
        told = metrics.read_text().splitlines() if metrics.exists() else []
        return Training(
            code,
            log.read_text(errors="replace"),
            [entry["data"] for line in told if (entry := json.loads(line))["step"] > 0],
            {int(file.stem): _samples(file) for file in samples.glob("*.jsonl")},
        )

    yield run
    for process in started:
        process.kill()
        process.wait()
    _end_processes_of(ray_folder)
    shutil.rmtree(ray_folder, ignore_errors=True)


def _samples(file: Path) -> list[dict[str, Any]]:
    """What verl dumped of a step, without the rows it pads a batch with."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if not row["uid"].startswith("pad")]


def _end_processes_of(ray_folder: str) -> None:
    """End those that name the folder of this very run on their command line."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            if f"{ray_folder}/" in command:
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


@pytest.fixture(scope="module")
def able_policy(gold: list[Conversation]) -> TinyPolicy:
    """Calls the calculator nearly always, and is right at times: groups are of both kinds."""
    return tiny_policy(
        warmup=WarmUp(gold, copy_steps=200, mistake_steps=40, batch_size=8, learning_rate=8e-3)
    )


def verdict(text: str, task: Any) -> float:
    """The environment's reward, read off the text that verl keeps of a rollout."""
    turns = text.split("assistant\n")
    used = any("<tool_response>" in turn and '"error"' not in turn for turn in turns)
    final = turns[-1]
    if "<tool_call>" in final or "<tool_response>" in final:
        return 0.0
    return float(used and integer_answer(final) == task.expected_answer)


@pytest.mark.timeout(600)
def test_grpo_trains_on_what_was_sampled(
    train: Train, sums: list[Task], able_policy: TinyPolicy
) -> None:
    by_id = {task.task_id: task for task in sums}
    training = train("arithmetic_tools", sums, able_policy)
    assert training.code == 0, training.log[-5000:]
    assert len(training.metrics) == STEPS
    for number, step in enumerate(training.metrics, start=1):
        # Sampled and trained probabilities agree: tokens, masks and weights line up.
        assert step["training/rollout_probs_diff_max"] < 1e-3
        samples = training.samples[number]
        ours = [verdict(sample["output"], by_id[sample["gts"]]) for sample in samples]
        assert [sample["score"] for sample in samples] == ours
        assert step["critic/score/mean"] == pytest.approx(sum(ours) / len(ours))
    assert training.metrics[0]["training/num_turns/max"] >= 4
    assert max(step["actor/grad_norm"] for step in training.metrics[:-1]) > 0


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_killed_training_that_is_resumed_keeps_each_attempt_once(
    train: Train, sums: list[Task], able_policy: TinyPolicy, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    tracker = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    given = (
        "trainer.save_freq=2",
        "trainer.resume_mode=auto",
        f"+gym_adapters.ledger={ledger}",
    )

    def by_step() -> dict[int, list[tuple[str, int]]]:
        found: dict[int, list[tuple[str, int]]] = {}
        for line in (ledger / "rollouts.jsonl").read_bytes().splitlines():
            # A process that is killed may leave half a line.
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                index = row["_ng_rollout_index"]
                # A step's attempts are numbered from step x group size on.
                found.setdefault(index // 8, []).append((row["gym_adapters"]["task_id"], index))
        return found

    def is_past_its_checkpoint() -> bool:
        following = TrainingLedger(ledger).next_indices().values()
        saved = tracker.is_file() and tracker.read_text() == "2"
        return saved and max(following, default=0) > 3 * 8

    killed = train(
        *("arithmetic_tools", sums, able_policy),
        *given,
        killed_when=is_past_its_checkpoint,
    )
    assert killed.code == -signal.SIGKILL, killed.log[-5000:]
    before = by_step()
    assert {1, 2, 3} <= set(before)

    resumed = train("arithmetic_tools", sums, able_policy, *given)
    assert resumed.code == 0, resumed.log[-5000:]
    assert [int(step["training/global_step"]) for step in resumed.metrics[-2:]] == [3, 4]
    after = by_step()
    assert set(after) == {1, 2, 3, 4}
    assert (after[1], after[2]) == (before[1], before[2])
    kept = [key for keys in after.values() for key in keys]
    assert len(set(kept)) == len(kept)
    # Four prompts a step, and the dataset is gone through once: verl goes on where it was in it.
    tasks = [{task_id for task_id, _ in keys} for keys in after.values()]
    assert [len(each) for each in tasks] == [4] * 4
    assert len(set().union(*tasks)) == 16


FLAKY = """
from gym_adapters import Environment, JudgeError, Task


class Flaky(Environment[Task]):
    name = "flaky"

    async def verify(self, transcript):
        if self.rng.random() < 0.4:
            raise JudgeError("the judge is down")
        return 1.0
"""


@pytest.mark.full
@pytest.mark.timeout(900)
def test_failed_rollouts_are_outside_of_the_baseline(
    train: Train, sums: list[Task], able_policy: TinyPolicy, environment_folder: Any
) -> None:
    tasks = [Task.from_row(task.to_row()) for task in sums]
    small_groups = "actor_rollout_ref.rollout.n=4"
    training = train(environment_folder(FLAKY), tasks, able_policy, small_groups)
    assert training.code == 0, training.log[-5000:]
    assert len(training.metrics) == STEPS
    rows = [len(training.samples[number]) for number in range(1, STEPS + 1)]
    assert sum(rows) < 16 * STEPS
    assert "train nothing; the first: judge: the judge is down" in training.log
    for step in training.metrics:
        # All survivors have the same reward. Had a failure counted as 0, they would be above it.
        assert step["critic/score/min"] == step["critic/score/max"] == 1.0
        assert step["critic/advantages/max"] == step["critic/advantages/min"] == 0.0
