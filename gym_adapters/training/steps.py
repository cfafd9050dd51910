"""The commands that a recipe comes to: each works by itself, in any shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gym_adapters.training.recipe import Recipe

__all__ = ["Plan", "RunPaths", "Step", "python"]

WIDTH = 100


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        name: What it is for, in a word or two.
        command: Program and arguments.
        variables: Environment variables it needs, besides those there are.
        folder: Where it must run; anywhere by default.
        background: It serves the next step, and is ended after it.
    """

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    background: bool = False

    def shell(self) -> str:
        """The command for a shell, over several lines where it is long."""
        words = [f"{key}={shlex.quote(value)}" for key, value in self.variables.items()]
        parts = [*words, *_grouped(self.command)]
        text = " ".join(parts)
        if len(text) > WIDTH:
            text = " \\\n    ".join(parts)
        if self.folder is not None:
            folder = self.folder if self.folder.startswith("$") else shlex.quote(self.folder)
            text = f"cd {folder} && {text}"
        return f"{text} &" if self.background else text


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where things are in the folder of a training run.

    Attributes:
        folder: The run's.
    """

    folder: Path

    @property
    def recipe(self) -> Path:
        """The recipe as it was run, with everything merged."""
        return self.folder / "recipe.yaml"

    @property
    def commands(self) -> Path:
        """The commands, to be read or run again."""
        return self.folder / "commands.sh"

    @property
    def log(self) -> Path:
        """All that was printed."""
        return self.folder / "log.txt"

    @property
    def metrics(self) -> Path:
        """What the trainer logged, a line of JSON a step."""
        return self.folder / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """How it ended, and where the checkpoint is."""
        return self.folder / "run.json"

    @property
    def data(self) -> Path:
        """Rows or files that are trained on."""
        return self.folder / "data"

    @property
    def rollouts(self) -> Path:
        """Rollouts of training, or those that are trained on."""
        return self.folder / "rollouts"

    @property
    def evaluation(self) -> Path:
        """Rollouts on the held-out tasks."""
        return self.folder / "evaluation"

    @property
    def policy(self) -> Path:
        """What was trained."""
        return self.folder / "policy"

    @property
    def start(self) -> Path:
        """The tiny policy that a smoke run begins with."""
        return self.folder / "start"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, in order.

    Attributes:
        recipe: What it was made of.
        paths: Of the run.
        steps: The commands.
        checkpoint: Finds the trained policy; ``None`` where there is none yet.
        trainer_metrics: File in which the trainer itself keeps metrics, where it is another one.
        rewind: Drops the rollouts of steps that a resumed run does again.
    """

    recipe: Recipe
    paths: RunPaths
    steps: Sequence[Step]
    checkpoint: Callable[[], Path | None]
    trainer_metrics: Path | None = None
    rewind: Callable[[], None] = lambda: None


def python() -> str:
    """This Python, by its short name where the shell finds the same one by it."""
    found = shutil.which("python")
    same = found is not None and Path(found).absolute() == Path(sys.executable).absolute()
    return "python" if same else sys.executable


def _grouped(command: Sequence[str]) -> list[str]:
    """Words for a shell: program and module, then an option with its values, or a setting, each."""
    groups: list[list[str]] = [[]]
    for word in command:
        begins = word.startswith("--") or _is_setting(word) or (word == "-m" and len(groups) > 1)
        if begins and groups[-1]:
            groups.append([])
        groups[-1].append(shlex.quote(word))
        if _is_setting(word):  # which take no values
            groups.append([])
    return [" ".join(group) for group in groups if group]


def _is_setting(word: str) -> bool:
    """Whether a word is ``key.sub=value``, as hydra takes it."""
    key, equals, _ = word.partition("=")
    return (
        bool(equals)
        and not key.startswith("-")
        and key.lstrip("+~").replace(".", "_").isidentifier()
    )
