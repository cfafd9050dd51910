"""The policy that a smoke run begins with: it speaks the format, and is right now and then.

::

    python -m gym_adapters.training.tiny_start arithmetic_tools --output run/start
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from gym_adapters.errors import GymAdaptersError
from gym_adapters.registry import load_environment
from gym_adapters.testing.gold import gold_conversations
from gym_adapters.testing.tiny_model import WarmUp, tiny_policy

__all__ = ["main", "write_tiny_start"]

# Shown of each environment; the tasks of the run itself come from other seeds.
SHOWN = 60
SEED_OF_SHOWN = 7_000


def write_tiny_start(environments: Sequence[str], output: Path, *, seed: int = 0) -> None:
    """Write the tiny policy to `output`, warmed up on gold attempts at `environments`.

    Raises:
        Unsupported: If an environment generates no tasks.
        RolloutError: If its gold attempts fail.
        MissingExtra: Without torch or transformers.
    """
    conversations = []
    for name in environments:
        entry = load_environment(name)
        made = entry.environment.generate_tasks(SHOWN, seed=SEED_OF_SHOWN + seed, difficulty=0.0)
        distinct = {task.task_id: task for task in islice(made, SHOWN)}
        conversations += asyncio.run(gold_conversations(entry, list(distinct.values())))
    policy = tiny_policy(seed=seed, warmup=WarmUp(conversations))
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(policy.model_path, output)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 where it is wrongly asked."""
    reader = argparse.ArgumentParser(
        prog="python -m gym_adapters.training.tiny_start", description=__doc__.splitlines()[0]
    )
    reader.add_argument("environment", nargs="+")
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    asked = reader.parse_args(arguments)
    try:
        write_tiny_start(asked.environment, asked.output, seed=asked.seed)
    except GymAdaptersError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 2
    print(f"a tiny policy in {asked.output}")  # noqa: T201 - this is a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
