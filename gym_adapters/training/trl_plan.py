"""TRL's commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gym_adapters.errors import InvalidConfig, MissingExtra
from gym_adapters.rollouts.training_ledger import TrainingLedger
from gym_adapters.training.checkpoints import numbered_checkpoints
from gym_adapters.training.data_steps import model_of, offline_steps, rows_step, start_steps
from gym_adapters.training.nearest import unknown
from gym_adapters.training.planning import Asked
from gym_adapters.training.recipe import Launch, Recipe, RolloutSource
from gym_adapters.training.rows import row_files, settings_of
from gym_adapters.training.steps import Plan, RunPaths, Step, python

__all__ = ["TRAIN", "check", "make_plan", "options"]

TRAIN = "gym_adapters.adapters.trl.train"
LAUNCH = "accelerate.commands.launch"


@dataclass(frozen=True, slots=True)
class Stage:
    """One training of a run.

    Attributes:
        method: Of TRL.
        model: What it begins with.
        steps: Of the optimiser.
        arguments: TRL's own.
        output: Folder of checkpoints and of the policy.
    """

    method: str
    model: str
    steps: int | None
    arguments: Mapping[str, Any]
    output: Path


def make_plan(asked: Asked, recipe: Recipe, paths: RunPaths) -> Plan:
    """The commands; nothing is written.

    Raises:
        InvalidConfig: If the recipe asks for what TRL can't do.
    """
    model = model_of(recipe, paths)
    steps = start_steps(recipe, paths)
    if recipe.warm_start is not None:
        first = Stage(
            "sft",
            model,
            recipe.warm_start.steps,
            recipe.warm_start.arguments,
            paths.folder / "warm_start",
        )
        steps += offline_stage(asked, recipe, recipe.warm_start.rollouts, first, paths)
        model = str(first.output)
    stage = Stage(recipe.method, model, recipe.steps, recipe.arguments, paths.policy)
    if recipe.is_online:
        steps += online_stage(asked, recipe, stage, paths)
    else:
        source = recipe.rollouts or RolloutSource()
        steps += offline_stage(asked, recipe, source, stage, paths)
    return Plan(
        recipe, paths, steps, lambda: saved_policy(paths.policy), rewind=rewinder(recipe, paths)
    )


def rewinder(recipe: Recipe, paths: RunPaths) -> Callable[[], None]:
    """Drops the rollouts of steps after the newest checkpoint; of TRL's, the first step is 0."""

    def rewind() -> None:
        checkpoint = newest_checkpoint(paths.policy)
        done = 0 if checkpoint is None else step_of(checkpoint)
        TrainingLedger(paths.rollouts).keep_steps(done)
        # Evaluation after a step comes before its checkpoint.
        TrainingLedger(paths.evaluation).keep_steps(done + 1 if done else 0)

    return rewind if recipe.is_online else lambda: None


def online_stage(asked: Asked, recipe: Recipe, stage: Stage, paths: RunPaths) -> list[Step]:
    """Tasks, a server where there is one, and GRPO."""
    names = list(recipe.environments)
    files = row_files(recipe, paths.data)
    own: dict[str, Any] = {
        "environment": names,
        "tasks": files.train,
        "ledger": paths.rollouts,
        **trainer_arguments(asked, recipe, stage, paths),
    }
    settings = [
        f"{name}.{setting}" if len(names) > 1 else setting
        for name, asked_of in recipe.environments.items()
        for setting in settings_of(asked_of)
    ]
    if settings:
        own["settings"] = settings
    if files.held_out and recipe.evaluate_every is not None:
        own |= {"eval_tasks": files.held_out, "eval_ledger": paths.evaluation}
    steps = [rows_step(asked, paths)]
    if recipe.launch.server is not None:
        steps.append(_server(recipe.launch, stage.model))
    return [*steps, _train(recipe.launch, stage, {**own, **stage.arguments})]


def offline_stage(
    asked: Asked, recipe: Recipe, source: RolloutSource, stage: Stage, paths: RunPaths
) -> list[Step]:
    """Rollouts, files made of them, and SFT, DPO or KTO."""
    steps, train, held_out = offline_steps(recipe, source, stage.method, paths)
    own: dict[str, Any] = {"train_file": train, **trainer_arguments(asked, recipe, stage, paths)}
    if held_out is not None:
        own["eval_file"] = held_out
    if stage.method == "sft" and not source.export.tokens:
        # Tool results are not the policy's words.
        own["assistant_only_loss"] = True
    return [*steps, _train(recipe.launch, stage, {**own, **stage.arguments})]


def trainer_arguments(
    asked: Asked, recipe: Recipe, stage: Stage, paths: RunPaths
) -> dict[str, Any]:
    """What every trainer of TRL is told, the recipe's own arguments aside."""
    is_last = stage.output == paths.policy
    metrics = paths.metrics if is_last else paths.folder / "warm_start_metrics.jsonl"
    given: dict[str, Any] = {
        "model_name_or_path": stage.model,
        "output_dir": stage.output,
        "metrics_file": metrics,
        "seed": recipe.seed,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": list(recipe.loggers) or ["none"],
    }
    given |= {"num_train_epochs": 1} if stage.steps is None else {"max_steps": stage.steps}
    if recipe.save_every is not None:
        given |= {"save_strategy": "steps", "save_steps": recipe.save_every}
    else:
        given["save_strategy"] = "no"
    if recipe.evaluate_every is not None:
        given |= {"eval_strategy": "steps", "eval_steps": recipe.evaluate_every}
    checkpoint = newest_checkpoint(stage.output) if asked.resume else None
    if checkpoint is not None:
        given["resume_from_checkpoint"] = checkpoint
    return given


def saved_policy(folder: Path) -> Path | None:
    """What was saved when training ended, or else the newest checkpoint."""
    is_whole = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    return folder if is_whole else newest_checkpoint(folder)


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that a trainer of transformers wrote to `folder`."""
    whole = [
        path
        for _, path in numbered_checkpoints(folder, "checkpoint-")
        if (path / "trainer_state.json").is_file()
    ]
    return whole[-1] if whole else None


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def options(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments as words of a command line; those that are null are left out."""
    words: list[str] = []
    for name, value in arguments.items():
        if value is None:
            continue
        words.append(f"--{name}")
        if isinstance(value, list | tuple):
            words += [_word(each) for each in value]
        else:
            words.append(_word(value))
    return words


def flags(settings: Mapping[str, Any]) -> list[str]:
    """The same for programs whose switches take no value: true gives one, false leaves it out."""
    words: list[str] = []
    for name, value in settings.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not False:
            words += options({name: value})
    return words


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def _train(launch: Launch, stage: Stage, arguments: Mapping[str, Any]) -> Step:
    name = "training" if stage.output.name == "policy" else "warm start"
    variables = dict(launch.variables)
    if launch.devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = launch.devices
    return Step(name, (*launcher(launch), TRAIN, stage.method, *options(arguments)), variables)


def launcher(launch: Launch) -> tuple[str, ...]:
    """What starts a module: this Python, or accelerate where there are several processes."""
    if launch.processes == launch.nodes == 1 and not launch.accelerate:
        return (python(), "-m")
    given = {"num_processes": launch.processes * launch.nodes, "num_machines": launch.nodes}
    return (python(), "-m", LAUNCH, *flags({**given, **launch.accelerate}), "-m")


def _server(launch: Launch, model: str) -> Step:
    given: dict[str, Any] = {
        # What TRL asks of a server that it gives weights to.
        "weight-transfer-config": {"backend": "nccl"},
        "logprobs-mode": "processed_logprobs",
        "max-logprobs": -1,
        **(launch.server or {}),
    }
    variables = {"VLLM_SERVER_DEV_MODE": "1"}
    if launch.server_devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = launch.server_devices
    words = ("vllm", "serve", model, *flags(given))
    return Step("vLLM server", words, variables, background=True)


def check(plan: Plan) -> list[str]:
    """Hold every training command against TRL's parser, and the launcher's against accelerate's.

    Raises:
        InvalidConfig: Naming the argument, and the nearest that there is.
    """
    problems: list[str] = []
    for step in plan.steps:
        if TRAIN not in step.command:
            continue
        at = step.command.index(TRAIN)
        try:
            check_arguments(step.command[at + 1], step.command[at + 2 :])
        except MissingExtra as error:
            problems.append(f"TRL's arguments were not checked: {error}")
        problems += _check_launch(step.command[: at + 1])
    return problems


def check_arguments(method: str, words: Sequence[str]) -> None:
    """Hold a command line against TRL's parser.

    Raises:
        InvalidConfig: Naming the argument, and the nearest that there is.
        MissingExtra: Without TRL.
    """
    from gym_adapters.adapters.trl.train import argument_names, parser

    known = argument_names(method)
    for word in words:
        name = word.removeprefix("--")
        if name != word and name not in known:
            raise InvalidConfig(
                f"arguments: {unknown(f'argument of TRL for {method}', name, known)}"
            )
    parsed(parser(method), words, f"TRL does not take these arguments for {method}")


def _check_launch(words: Sequence[str]) -> list[str]:
    if LAUNCH not in words:
        return []
    try:
        from accelerate.commands.launch import launch_command_parser
    except ModuleNotFoundError:
        return ["accelerate's options were not checked: it is not installed"]
    refusal = "accelerate launch does not take these options"
    read = parsed(launch_command_parser(), words[words.index(LAUNCH) + 1 :], refusal)
    if read.training_script != TRAIN:
        raise InvalidConfig(f"{refusal}: it would run {read.training_script!r}")
    return []


def parsed(parser: Any, words: Sequence[str], refusal: str, *, known_only: bool = False) -> Any:
    """Parse without making the configuration, which may need the GPUs that are not here.

    Args:
        parser: Of argparse.
        words: The command line.
        refusal: What to say where it is not taken.
        known_only: Give back what the parser does not know too, in place of refusing it.

    Raises:
        InvalidConfig: If the parser does not take it.
    """
    import argparse

    def refuse(message: str) -> None:
        raise InvalidConfig(f"{refusal}: {message}")

    parser.error = refuse
    try:
        given = list(words)
        return parser.parse_known_args(given) if known_only else parser.parse_args(given)
    except argparse.ArgumentError as error:
        raise InvalidConfig(f"{refusal}: {error}") from error
