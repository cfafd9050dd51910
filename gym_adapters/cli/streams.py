"""stdout is for results: what else lands there would spoil them for the program that reads it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["discard_stdout", "stdout_for_results"]


@contextmanager
def stdout_for_results(wanted: bool) -> Iterator[None]:
    """What is printed in the block, by environments or the programs they start, goes to stderr.

    Args:
        wanted: Else the block changes nothing.
    """
    try:
        out, err = sys.stdout.fileno(), sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        wanted, out, err = False, -1, -1
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(out)
    os.dup2(err, out)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, out)
        os.close(kept)


def discard_stdout() -> None:
    """Once stdout has failed: what is left to write there must not fail again at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (AttributeError, OSError, ValueError):
        sys.stdout = None
