"""Unsloth's model and TRL's trainers, on our environments and files.

::

    python -m gym_adapters.adapters.unsloth.train grpo --model Qwen/Qwen3-4B --load_in_4bit true \
        --environment arithmetic_tools --output_dir out --num_generations 8
    python -m gym_adapters.adapters.unsloth.train sft --model Qwen/Qwen3-4B \
        --fast_inference false --train_file sft.jsonl --output_dir out

Options are those of `UnslothConfig`, of ``gym_adapters.adapters.trl.train``, and all of
``GRPOConfig`` (``SFTConfig``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gym_adapters.adapters.unsloth.config import UnslothConfig
from gym_adapters.errors import GymAdaptersError, InvalidConfig
from gym_adapters.registry import load_environment

__all__ = ["METHODS", "argument_names", "main", "policy_parser"]

METHODS = {"grpo": "GRPOConfig", "sft": "SFTConfig"}
"""Methods, and TRL's names of their configuration."""

# TRL may be imported only when Unsloth was, so what is ours is read without TRL's parser.
_TEXTS = {
    "grpo": (
        *("environment", "tasks", "eval_tasks", "way", "ledger", "eval_ledger", "metrics_file"),
        "max_tokens_per_turn",
    ),
    "sft": ("train_file", "eval_file", "metrics_file"),
}
_NEEDED = ("model", "environment", "train_file")


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says.

    Attributes:
        policy: How the model is loaded.
        own: What is ours besides.
        rest: TRL's.
    """

    policy: UnslothConfig
    own: argparse.Namespace
    rest: list[str]


def policy_parser(method: str) -> argparse.ArgumentParser:
    """The parser of what is not TRL's."""
    reader = argparse.ArgumentParser(
        prog=f"python -m gym_adapters.adapters.unsloth.train {method}", allow_abbrev=False
    )
    for each in fields(UnslothConfig):
        if each.name == "seed":  # TRL's own, and the adapters' too
            continue
        if each.name == "target_modules":
            reader.add_argument("--target_modules", nargs="+")
            continue
        reader.add_argument(
            f"--{each.name}", type=_reader(str(each.type)), required=each.name in _NEEDED
        )
    for name in _TEXTS[method]:
        kind = int if name == "max_tokens_per_turn" else str
        reader.add_argument(f"--{name}", type=kind, required=name in _NEEDED)
    if method == "grpo":
        reader.add_argument("--settings", nargs="+", default=[])
    return reader


def argument_names(method: str) -> frozenset[str]:
    """The names of all arguments that a method takes, TRL's included.

    Raises:
        MissingExtra: Without TRL.
    """
    from gym_adapters.extras import require

    trl = require("trl", "unsloth", "training with Unsloth")
    theirs = {each.name for each in fields(getattr(trl, METHODS[method]))}
    ours = {action.dest for action in policy_parser(method)._actions}
    return frozenset(theirs | ours) - {"help"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 where it is wrongly asked."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in METHODS:
        print(f"name a method: {', '.join(METHODS)}", file=sys.stderr)  # noqa: T201 - a command
        return 2
    try:
        given = _read(words[0], words[1:])
        if words[0] == "grpo":
            _train_grpo(given)
        else:
            _train_sft(given)
    except GymAdaptersError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 2
    return 0


def _read(method: str, words: Sequence[str]) -> Given:
    own, rest = policy_parser(method).parse_known_args(words)
    names = {each.name for each in fields(UnslothConfig)}
    asked = {k: v for k, v in vars(own).items() if k in names and v is not None}
    if "--seed" in rest:
        asked["seed"] = int(rest[rest.index("--seed") + 1])
    return Given(UnslothConfig(**asked), own, rest)


def _train_grpo(given: Given) -> None:
    from gym_adapters.adapters.unsloth.policy import load_policy
    from gym_adapters.adapters.unsloth.trainers import grpo_trainer, unsloth_spec

    own = given.own
    policy = load_policy(given.policy)
    entry = load_environment(own.environment)
    options: dict[str, Any] = {"config": entry.config(own.settings), "way": own.way or "rollout"}
    if options["way"] == "rollout":
        options |= {
            "ledger": own.ledger,
            "eval_ledger": own.eval_ledger,
            "max_tokens_per_turn": own.max_tokens_per_turn,
        }
    spec = unsloth_spec(entry, tasks=own.tasks, eval_tasks=own.eval_tasks, **options)
    settings = _settings("grpo", given.rest)
    trainer = grpo_trainer(policy, spec, settings, callbacks=_callbacks(own.metrics_file))
    _run(trainer, settings)


def _train_sft(given: Given) -> None:
    from gym_adapters.adapters.unsloth.policy import load_policy
    from gym_adapters.adapters.unsloth.trainers import sft_trainer

    own = given.own
    policy = load_policy(given.policy)
    settings = _settings("sft", given.rest)
    evaluated = {} if own.eval_file is None else {"eval_dataset": _rows(own.eval_file)}
    callbacks = _callbacks(own.metrics_file)
    rows = _rows(own.train_file)
    trainer = sft_trainer(policy, rows, settings, callbacks=callbacks, **evaluated)
    _run(trainer, settings)


def _settings(method: str, words: Sequence[str]) -> dict[str, Any]:
    """TRL's arguments that were given, by TRL's own parser; Unsloth is imported by now."""
    import trl

    reader = trl.TrlParser(dataclass_types=(getattr(trl, METHODS[method]),), allow_abbrev=False)
    # Types come from the parser; the configuration itself is made where the trainer is.
    parsed = vars(reader.parse_args(list(words)))
    asked = {word.removeprefix("--") for word in words if word.startswith("--")}
    return {name: value for name, value in parsed.items() if name in asked}


def _run(trainer: Any, settings: dict[str, Any]) -> None:
    trainer.train(resume_from_checkpoint=settings.get("resume_from_checkpoint"))
    trainer.save_model(settings["output_dir"])


def _callbacks(path: str | None) -> list[Any]:
    from gym_adapters.adapters.trl.metrics_file import metrics_callback

    return [] if path is None else [metrics_callback(Path(path))]


def _rows(path: str) -> Any:
    import datasets

    if not Path(path).is_file():
        raise InvalidConfig(f"there is no file {path}")
    return datasets.load_dataset("json", data_files=path, split="train")


def _reader(annotation: str) -> Callable[[str], Any]:
    if annotation == "bool":
        return _truth
    if "Mapping" in annotation:
        return _mapping
    return {"int": int, "float": float}.get(annotation, str)


def _truth(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return known[text.lower()]


def _mapping(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise argparse.ArgumentTypeError("a JSON object is wanted")
    return data


if __name__ == "__main__":
    sys.exit(main())
