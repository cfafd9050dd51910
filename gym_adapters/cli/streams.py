"""stdout is for results: what else lands there would spoil them for the program that reads it."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["discard_stdout", "standard_streams", "stdout_for_results"]


def standard_streams() -> None:
    """Give the process streams that every command can use; before anything else is opened.

    A service manager, or ``>&-`` of a shell, may have closed them: what is opened next would then
    take their numbers, and be written to. And rows may have what the encoding of the terminal has
    not: it is written as JSON escapes it, so that JSON stays JSON.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, and the lower ones are taken.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    codecs.register_error("escaped_as_json", _escaped_as_json)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="escaped_as_json")


def _escaped_as_json(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs), error.end


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
