"""Make a policy, measure it on held-out tasks, train it with TRL, measure it again.

What is left in the output folder::

    before/, after/      rollouts on held-out tasks, as `gym-adapters collect` writes them
    training.jsonl       one line a training step: mean reward, failures, seconds
    policy/              the trained policy, for ``from_pretrained`` or ``--model transformers:``
    metrics.json         settings, pass rates before and after, the curve
    reward_curve.png     the same to look at
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import orjson

from gym_adapters.errors import ModelError, UsageError
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.rollouts.metrics import Metrics
from gym_adapters.rollouts.row_sampling import RowSampling
from gym_adapters.rollouts.run import Observer, RunSettings, run
from gym_adapters.rollouts.run_folder import OnExisting
from gym_adapters.task import Task

__all__ = ["QuickstartObserver", "QuickstartResult", "QuickstartSettings", "TrainingStep"]

ENVIRONMENT = "arithmetic_tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartSettings:
    """What the quickstart does.

    Attributes:
        output: Folder to write.
        overwrite: Whether a folder that is there already may be replaced.
        seed: Seeds the policy, the tasks and the training.
        steps: Steps of the optimiser.
        batch_size: Rollouts a step.
        group_size: Rollouts a task; their mean is the baseline.
        learning_rate: Of AdamW, constant.
        held_out: Tasks kept out of warm-up and training.
        attempts: Attempts at each held-out task.
        difficulty: Of the tasks.
        shuffle_rewards: A control: give each rollout of a batch the reward of another one. Nothing
            can be learnt from that, and nothing should be.
    """

    output: Path = Path("run")
    overwrite: bool = False
    seed: int = 0
    steps: int = 40
    batch_size: int = 64
    group_size: int = 8
    learning_rate: float = 5e-4
    held_out: int = 30
    attempts: int = 8
    difficulty: float = 0.0
    shuffle_rewards: bool = False


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One step of training.

    Attributes:
        step: 1-based.
        reward: Mean reward of the step's rollouts that have one.
        failed: Share of the step's rollouts that have none.
        seconds: Wall time since training began.
    """

    step: int
    reward: float
    failed: float
    seconds: float


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """What came of it.

    Attributes:
        before: Metrics on held-out tasks before training.
        after: The same after it.
        curve: One entry a training step.
        seconds: Wall time by stage.
    """

    before: Metrics
    after: Metrics
    curve: Sequence[TrainingStep]
    seconds: dict[str, float]

    @property
    def gain(self) -> float:
        """Rise of the held-out pass rate, absolute."""
        return pass_rate(self.after) - pass_rate(self.before)


class QuickstartObserver(Observer, Protocol):
    """Told how the quickstart goes; must not block."""

    def stage(self, name: str, total: int) -> None:
        """A stage of `total` steps begins: ``policy``, ``before``, ``training`` or ``after``."""
        ...

    def warmed_up(self, step: int, total: int, loss: float) -> None:
        """A step of the policy's warm-up was done, with its loss in nats per token."""
        ...

    def trained(self, step: TrainingStep) -> None:
        """A training step was done."""
        ...


def pass_rate(metrics: Metrics) -> float:
    """Share of scored attempts that pass, averaged over tasks: pass@1."""
    rate = metrics.pass_at_k[0].pass_at_k if metrics.pass_at_k else None
    if rate is None:
        raise ModelError(f"no attempt was scored; failures by boundary: {dict(metrics.failures)}")
    return rate


def quickstart(settings: QuickstartSettings, observer: QuickstartObserver) -> QuickstartResult:
    """Run it; see the module for what it leaves behind.

    Raises:
        UsageError: If the output folder is in use or can't be written, or the settings don't go
            together.
        MissingExtra: Without torch, transformers, TRL or matplotlib.
    """
    from gym_adapters.quickstart.policy import warmed_up_policy
    from gym_adapters.quickstart.reward_curve import plot_reward_curve
    from gym_adapters.quickstart.training import train

    _check(settings)
    entry = load_environment(ENVIRONMENT)
    training, held_out = split_tasks(entry, settings)
    clock = _Clock()
    policy = warmed_up_policy(entry, training, settings, observer)
    clock.lap("policy")
    before = _measure("before", str(policy.model_path), entry, held_out, settings, observer)
    clock.lap("before")
    observer.stage("training", settings.steps)
    curve = train(entry, training, policy, settings, observer)
    clock.lap("training")
    trained = str(settings.output / "policy")
    after = _measure("after", trained, entry, held_out, settings, observer)
    clock.lap("after")
    result = QuickstartResult(before, after, curve, clock.laps)
    _write(settings, result)
    plot_reward_curve(settings.output / "reward_curve.png", result)
    return result


def split_tasks(
    entry: EnvironmentEntry, settings: QuickstartSettings
) -> tuple[list[Task], list[Task]]:
    """Tasks to train on and tasks to measure on, without a task in both."""
    wanted = settings.held_out + TRAINING_TASKS
    made = entry.environment.generate_tasks(
        wanted, seed=settings.seed, difficulty=settings.difficulty
    )
    distinct = list({task.task_id: task for task in islice(made, wanted)}.values())
    if len(distinct) <= settings.held_out:
        raise UsageError(
            f"there are only {len(distinct)} tasks of difficulty {settings.difficulty}: hold out "
            f"fewer than {settings.held_out}, or raise the difficulty"
        )
    return distinct[settings.held_out :], distinct[: settings.held_out]


TRAINING_TASKS = 200


class _Clock:
    """Wall time by stage, in seconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 2)
        self._last = now


def _check(settings: QuickstartSettings) -> None:
    if settings.batch_size % settings.group_size:
        raise UsageError(
            f"the batch of {settings.batch_size} rollouts must be a multiple of the group of "
            f"{settings.group_size}"
        )
    written = settings.output / "metrics.json"
    if written.exists() and not settings.overwrite:
        raise UsageError(
            f"{settings.output} holds a run already. Fix: --overwrite, or another --output"
        )
    try:
        # Before a minute of work, and as all that comes after it writes.
        settings.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.output):
            pass
    except OSError as error:
        raise UsageError(
            f"can't write to {settings.output}: {error.strerror}. "
            "Fix: give a folder to write with --output"
        ) from error


def _measure(
    name: str,
    model_path: str,
    entry: EnvironmentEntry,
    tasks: Sequence[Task],
    settings: QuickstartSettings,
    observer: QuickstartObserver,
) -> Metrics:
    observer.stage(name, len(tasks) * settings.attempts)
    return asyncio.run(
        run(
            RunSettings(
                entry=entry,
                config=entry.config(),
                model=f"transformers:{model_path}",
                tasks=lambda: tasks,
                input=f"held-out tasks of difficulty {settings.difficulty}",
                output=settings.output / name,
                on_existing=OnExisting.OVERWRITE if settings.overwrite else OnExisting.REFUSE,
                num_repeats=settings.attempts,
                concurrency=64,
                seed=settings.seed,
                sampling=RowSampling(temperature=1.0, max_tokens=64),
            ),
            observer,
        )
    )


def _write(settings: QuickstartSettings, result: QuickstartResult) -> None:
    data: dict[str, Any] = {
        "environment": ENVIRONMENT,
        "settings": {**asdict(settings), "output": str(settings.output)},
        "pass_rate_before": pass_rate(result.before),
        "pass_rate_after": pass_rate(result.after),
        "gain": result.gain,
        "seconds": result.seconds,
        "before": result.before.to_json(),
        "after": result.after.to_json(),
        "curve": [asdict(step) for step in result.curve],
    }
    packed = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    (settings.output / "metrics.json").write_bytes(packed)


def shuffled(rewards: Sequence[float | None], rng: random.Random) -> list[float | None]:
    """The rewards dealt out anew among the rollouts that have one."""
    known = [reward for reward in rewards if reward is not None]
    rng.shuffle(known)
    dealt = iter(known)
    return [None if reward is None else next(dealt) for reward in rewards]
