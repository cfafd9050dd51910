"""How the command line fails: one clear line for what the user can change."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gym_adapters.extras import require

if TYPE_CHECKING:
    import typer

__all__ = ["app_or_missing_extra", "quiet_libraries", "tell"]


def app_or_missing_extra() -> typer.Typer:
    """The application.

    Raises:
        MissingExtra: If the packages of the extra ``cli`` are not installed.
    """
    for package in ("typer", "rich"):
        require(package, "cli", "the command line")
    from gym_adapters.cli.app import app

    return app


def tell(error: BaseException) -> None:
    """Print `error` on stderr, in red where that is a terminal. Needs no package."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    red, plain = ("\033[31m", "\033[0m") if colour else ("", "")
    print(f"{red}error: {error}{plain}", file=sys.stderr)


def quiet_libraries() -> None:
    """Keep the progress bars and notices of libraries from crossing ours; before importing them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    require("transformers", "trl", "training with TRL")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
