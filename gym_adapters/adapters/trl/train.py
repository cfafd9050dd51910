"""TRL's trainers on our environments and files, with TRL's own command line.

::

    python -m gym_adapters.adapters.trl.train grpo --model_name_or_path Qwen/Qwen3-0.6B \
        --environment arithmetic_tools --output_dir out --num_generations 8
    accelerate launch --num_processes 4 -m gym_adapters.adapters.trl.train sft \
        --model_name_or_path Qwen/Qwen3-0.6B --train_file sft.jsonl --output_dir out

All options of ``GRPOConfig`` (``SFTConfig``, ``DPOConfig``, ``KTOConfig``) and ``ModelConfig`` are
taken, and ``--config FILE.yaml``, as TRL's own scripts do.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gym_adapters.adapters.trl.metrics_file import metrics_callback
from gym_adapters.errors import GymAdaptersError, InvalidConfig
from gym_adapters.extras import require
from gym_adapters.registry import load_environment

if TYPE_CHECKING:
    from gym_adapters.adapters.trl.spec import TrlSpec

__all__ = ["METHODS", "GymArguments", "OfflineArguments", "argument_names", "main", "parser"]


@dataclass
class GymArguments:
    """What is trained on, besides TRL's own arguments."""

    environment: list[str] = field(
        metadata={"help": "Name, folder or module:Class; several are trained on together."}
    )
    tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "JSONL file of rows for each environment; by default its examples."},
    )
    eval_tasks: list[str] = field(
        default_factory=list, metadata={"help": "The same, to evaluate on."}
    )
    settings: list[str] = field(
        default_factory=list,
        metadata={"help": "key=value of the environment; of several ENVIRONMENT.key=value."},
    )
    way: str = field(
        default="rollout",
        metadata={
            "help": "Whose loop runs the episodes.",
            "choices": ["rollout", "environment_factory", "reward"],
        },
    )
    ledger: str | None = field(
        default=None, metadata={"help": "Folder to keep the rollouts of training in."}
    )
    eval_ledger: str | None = field(
        default=None, metadata={"help": "Folder to keep the rollouts of evaluation in."}
    )
    max_tokens_per_turn: int | None = field(
        default=None, metadata={"help": "Most tokens of one turn."}
    )
    metrics_file: str | None = field(
        default=None, metadata={"help": "JSONL file that gets what TRL logs."}
    )


@dataclass
class OfflineArguments:
    """The files to train on, besides TRL's own arguments."""

    train_file: str = field(
        metadata={"help": "JSONL file of gym-adapters export, or of TRL's own format."}
    )
    eval_file: str | None = field(default=None, metadata={"help": "The same to evaluate on."})
    metrics_file: str | None = field(
        default=None, metadata={"help": "JSONL file that gets what TRL logs."}
    )


METHODS: Mapping[str, tuple[str, str]] = {
    "grpo": ("GRPOTrainer", "GRPOConfig"),
    "sft": ("SFTTrainer", "SFTConfig"),
    "dpo": ("DPOTrainer", "DPOConfig"),
    "kto": ("KTOTrainer", "KTOConfig"),
}
"""Methods, and TRL's names of their trainer and configuration."""


def parser(method: str) -> Any:
    """TRL's own parser of a method's arguments.

    Raises:
        InvalidConfig: If there is no such method.
        MissingExtra: Without TRL.
    """
    trl = require("trl", "trl", "training with TRL")
    return trl.TrlParser(
        dataclass_types=_dataclasses(method),
        prog=f"python -m gym_adapters.adapters.trl.train {method}",
        allow_abbrev=False,
    )


def argument_names(method: str) -> frozenset[str]:
    """The names of all arguments that a method takes.

    Raises:
        InvalidConfig: If there is no such method.
        MissingExtra: Without TRL.
    """
    return frozenset(each.name for kind in _dataclasses(method) for each in fields(kind))


def _dataclasses(method: str) -> tuple[Any, ...]:
    trl = require("trl", "trl", "training with TRL")
    if method not in METHODS:
        raise InvalidConfig(f"there is no method {method!r}: use one of {', '.join(METHODS)}")
    own = GymArguments if method == "grpo" else OfflineArguments
    return own, getattr(trl, METHODS[method][1]), trl.ModelConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 where it is wrongly asked."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in METHODS:
        print(f"name a method: {', '.join(METHODS)}", file=sys.stderr)  # noqa: T201 - a command
        return 2
    method, *rest = given
    try:
        own, config, model = parser(method).parse_args_and_config(args=rest)
        _with_model_settings(config, model)
        if method == "grpo":
            _train_grpo(own, config, model)
        else:
            _train_offline(method, own, config, model)
    except GymAdaptersError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 2
    return 0


def _with_model_settings(config: Any, model: Any) -> None:
    """Hand on what the model is loaded with, as TRL's scripts do."""
    settings = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    config.model_init_kwargs = {**settings, **(config.model_init_kwargs or {})}


def _train_grpo(own: GymArguments, config: Any, model: Any) -> None:
    trl = require("trl", "trl", "training with TRL")
    given = _spec(own).trainer_arguments()
    trainer = trl.GRPOTrainer(
        model=model.model_name_or_path,
        args=config,
        peft_config=trl.get_peft_config(model),
        quantization_config=trl.get_quantization_config(model),
        **{**given, "callbacks": [*given["callbacks"], *_callbacks(own.metrics_file)]},
    )
    _run(trainer, config)


def _spec(own: GymArguments) -> TrlSpec:
    """The environments as TRL takes them."""
    from gym_adapters.adapters.trl.blended_spec import blended_spec
    from gym_adapters.adapters.trl.spec import trl_spec

    options: dict[str, Any] = {"way": own.way}
    if own.way == "rollout":
        options |= {
            "ledger": own.ledger,
            "eval_ledger": own.eval_ledger,
            "max_tokens_per_turn": own.max_tokens_per_turn,
        }
    elif own.ledger or own.eval_ledger or own.max_tokens_per_turn:
        raise InvalidConfig("ledger, eval_ledger and max_tokens_per_turn need the way rollout.")
    specs = []
    for index, name in enumerate(own.environment):
        entry = load_environment(name)
        config = entry.config(_settings_for(name, own))
        tasks, eval_tasks = _file(own, "tasks", index), _file(own, "eval_tasks", index)
        specs.append(trl_spec(entry, tasks=tasks, eval_tasks=eval_tasks, config=config, **options))
    return specs[0] if len(specs) == 1 else blended_spec(*specs)


def _settings_for(name: str, own: GymArguments) -> list[str]:
    if len(own.environment) == 1:
        return own.settings
    for setting in own.settings:
        if not any(setting.startswith(f"{each}.") for each in own.environment):
            raise InvalidConfig(
                f"settings: {setting!r} names none of {', '.join(own.environment)}. Fix: write "
                "ENVIRONMENT.key=value"
            )
    mine = f"{name}."
    return [each.removeprefix(mine) for each in own.settings if each.startswith(mine)]


def _file(own: GymArguments, side: str, index: int) -> str | None:
    files: list[str] = getattr(own, side)
    if not files:
        return None
    if len(files) != len(own.environment):
        raise InvalidConfig(
            f"{side}: {len(files)} files are given for {len(own.environment)} environments. "
            "Fix: one for each, in the same order"
        )
    return files[index]


def _train_offline(method: str, own: OfflineArguments, config: Any, model: Any) -> None:
    trl = require("trl", "trl", "training with TRL")
    trainer = getattr(trl, METHODS[method][0])(
        model=model.model_name_or_path,
        args=config,
        train_dataset=_rows(own.train_file),
        eval_dataset=_rows(own.eval_file) if own.eval_file is not None else None,
        peft_config=trl.get_peft_config(model),
        quantization_config=trl.get_quantization_config(model),
        callbacks=_callbacks(own.metrics_file),
    )
    _run(trainer, config)


def _run(trainer: Any, config: Any) -> None:
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model(config.output_dir)


def _callbacks(path: str | None) -> list[Any]:
    return [] if path is None else [metrics_callback(Path(path))]


def _rows(path: str) -> Any:
    datasets = require("datasets", "trl", "training with TRL")
    if not Path(path).is_file():
        raise InvalidConfig(f"there is no file {path}")
    return datasets.load_dataset("json", data_files=path, split="train")


if __name__ == "__main__":
    sys.exit(main())
