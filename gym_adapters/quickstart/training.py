"""The quickstart's training: TRL's GRPOTrainer over our rollout function."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from gym_adapters.extras import require
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.task import Task
from gym_adapters.testing.tiny_model import TinyPolicy

if TYPE_CHECKING:
    from gym_adapters.quickstart.lesson import QuickstartObserver, QuickstartSettings, TrainingStep

__all__ = ["train"]


def train(
    entry: EnvironmentEntry,
    tasks: Sequence[Task],
    policy: TinyPolicy,
    settings: QuickstartSettings,
    observer: QuickstartObserver,
) -> list[TrainingStep]:
    """Train a copy of `policy`, save it under ``policy/``, and tell each step to `observer`."""
    trl = require("trl", "trl", "training with TRL")
    from gym_adapters.adapters.trl import trl_spec

    spec = trl_spec(entry, tasks=tasks)
    if settings.shuffle_rewards:
        spec.reward_funcs = [_with_shuffled_rewards(spec.reward_funcs[0], settings.seed)]
    callback = _steps_callback(observer, settings.output / "training.jsonl")
    arguments = spec.trainer_arguments()
    arguments["callbacks"] = [*arguments["callbacks"], callback]
    with warnings.catch_warnings():
        # docs/trl.md says which TRL its rollout functions were tested with.
        warnings.filterwarnings("ignore", message=".*'rollout_func'.* experimental")
        trainer = trl.GRPOTrainer(
            model=policy.load_model(),
            processing_class=policy.tokenizer,
            args=trl.GRPOConfig(
                output_dir=str(settings.output / "policy"),
                seed=settings.seed,
                max_steps=settings.steps,
                per_device_train_batch_size=settings.batch_size,
                num_generations=settings.group_size,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="constant",
                loss_type="dr_grpo",
                max_completion_length=160,
                temperature=1.0,
                gradient_checkpointing=False,
                use_cpu=True,
                bf16=False,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            **arguments,
        )
    # Its default callback prints every log line, which the progress bar says already.
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(settings.output / "policy"))
    policy.tokenizer.save_pretrained(settings.output / "policy")
    steps: list[TrainingStep] = callback.steps
    return steps


def _steps_callback(observer: QuickstartObserver, path: Path) -> Any:
    from transformers import TrainerCallback

    from gym_adapters.quickstart.lesson import TrainingStep

    class StepsCallback(TrainerCallback):  # type: ignore[misc]
        """Turns the trainer's logs into training steps, a line of `path` each."""

        def __init__(self) -> None:
            self.steps: list[TrainingStep] = []
            self._began = time.perf_counter()
            path.unlink(missing_ok=True)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs = kwargs.get("logs") or {}
            if "reward" not in logs:
                return
            step = TrainingStep(
                step=int(state.global_step),
                reward=float(logs["reward"]),
                failed=float(logs.get("gym/failed", 0.0)),
                seconds=time.perf_counter() - self._began,
            )
            self.steps.append(step)
            with path.open("ab") as lines:
                lines.write(orjson.dumps(step, option=orjson.OPT_APPEND_NEWLINE))
            observer.trained(step)

    return StepsCallback()


def _with_shuffled_rewards(
    reward: Callable[..., Sequence[float | None]], seed: int
) -> Callable[..., list[float | None]]:
    from gym_adapters.quickstart.lesson import shuffled

    rng = random.Random(seed)

    def shuffled_reward(**columns: Any) -> list[float | None]:
        return shuffled(reward(**columns), rng)

    return shuffled_reward
