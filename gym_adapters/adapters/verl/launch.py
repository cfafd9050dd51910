"""Starts verl's trainer with overrides that were checked first.

::

    python -m gym_adapters.adapters.verl.launch --overrides run.txt trainer.total_epochs=3
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gym_adapters.adapters.verl.overrides import read_overrides
from gym_adapters.adapters.verl.run_settings import RunSettings
from gym_adapters.adapters.verl.version import check_verl
from gym_adapters.errors import GymAdaptersError, InvalidConfig
from gym_adapters.extras import require
from gym_adapters.rollouts.ray_cluster import variables_to_start_ray

__all__ = ["check_overrides", "launch", "main"]


def check_overrides(overrides: Sequence[str]) -> Any:
    """The configuration that `overrides` make, refused where the adapter can't work in it.

    Raises:
        InvalidConfig: If hydra does not take an override, or a setting is missing.
        Unsupported: If the run is set up in a way that the adapter can't work in.
        MissingExtra: Without verl.
    """
    check_verl()
    hydra = require("hydra", "verl", "the verl launcher")
    errors = require("hydra.errors", "verl", "the verl launcher")
    try:
        with hydra.initialize_config_module("verl.trainer.config", version_base=None):
            # What is hydra's own (hydra.run.dir, say) is not part of the configuration.
            own = [it for it in overrides if not it.lstrip("+~").startswith("hydra.")]
            config = hydra.compose("ppo_trainer", own)
    except errors.HydraException as error:
        raise InvalidConfig(f"verl's configuration does not take this: {error}") from error
    RunSettings.of(config)
    return config


def launch(overrides: Sequence[str], *, environment_variables: Mapping[str, str] = {}) -> int:
    """Run ``verl.trainer.main_ppo`` in a process of its own, and wait for it.

    Args:
        overrides: Hydra overrides, `gym_adapters.adapters.verl.verl_overrides` first.
        environment_variables: Added to this process's own.

    Returns:
        Its exit code.

    Raises:
        InvalidConfig: As `check_overrides`; nothing was started.
        Unsupported: As `check_overrides`; nothing was started.
    """
    config = check_overrides(overrides)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *overrides]
    starts_ray = not config.ray_kwargs.ray_init.get("address")
    needed = variables_to_start_ray() if starts_ray else {}
    return subprocess.run(command, env={**os.environ, **needed, **environment_variables}).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code is verl's, or 2 where nothing was started."""
    parser = argparse.ArgumentParser(
        prog="python -m gym_adapters.adapters.verl.launch", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--overrides", action="append", default=[], metavar="FILE")
    parser.add_argument("override", nargs="*", help="key=value; wins over those of files")
    asked = parser.parse_args(arguments)
    try:
        lines = [line for path in asked.overrides for line in read_overrides(path)]
        return launch([*lines, *asked.override])
    except GymAdaptersError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 2


if __name__ == "__main__":
    sys.exit(main())
