"""Applying a unified diff, strictly: every line must be where the diff says.

Format: https://www.gnu.org/software/diffutils/manual/html_node/Detailed-Unified.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

__all__ = ["PatchError", "check_diff", "patched"]

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
NOWHERE = "/dev/null"


class PatchError(ValueError):
    """A diff that can't be read, or does not fit."""


@dataclass(slots=True)
class _Change:
    """What a diff does to one file: hunks of (first old line, 0-based; old lines; new lines)."""

    old_path: str
    new_path: str
    hunks: list[tuple[int, list[str], list[str]]] = field(default_factory=list)


def patched(diff: str, read: Callable[[str], str]) -> dict[str, str | None]:
    """The files that `diff` changes, as they are afterwards; ``None`` for those it removes.

    Args:
        diff: A unified diff; paths begin with ``a/`` and ``b/``.
        read: Gives a file's text before.

    Raises:
        PatchError: If it can't be read or does not fit.
    """
    files: dict[str, str | None] = {}
    for change in _changes(_lines(diff)):
        before = "" if change.old_path == NOWHERE else read(change.old_path)
        after = _applied(change, before)
        if change.new_path == NOWHERE:
            files[change.old_path] = None
        else:
            if change.old_path not in (NOWHERE, change.new_path):
                files[change.old_path] = None
            files[change.new_path] = after
    return files


def check_diff(diff: str) -> None:
    """Refuse text that is no diff; whether it fits its files is not looked at.

    Raises:
        PatchError: If it can't be read, or changes nothing.
    """
    if not list(_changes(_lines(diff))):
        raise PatchError("no file is changed by it")


def _lines(text: str) -> list[str]:
    """Lines with their ends. Unlike `str.splitlines`, a form feed in a line does not end it."""
    *whole, last = text.split("\n")
    return [*(f"{line}\n" for line in whole), *([last] if last else [])]


def _changes(lines: list[str]) -> Iterator[_Change]:
    change: _Change | None = None
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            if change is not None:
                yield change
            change = _Change(_path(line, "a/"), _path(lines[at + 1], "b/"))
            at += 2
        elif line.startswith("@@"):
            if change is None:
                raise PatchError("a hunk stands before any file")
            at = _read_hunk(lines, at, change)
        else:
            # "diff --git", "index", "new file mode": nothing that is not said again.
            at += 1
    if change is not None:
        yield change


def _path(line: str, prefix: str) -> str:
    path = line[4:].rstrip("\n").partition("\t")[0]
    return path if path == NOWHERE else path.removeprefix(prefix)


def _read_hunk(lines: list[str], at: int, change: _Change) -> int:
    match = _HUNK.match(lines[at])
    if match is None:
        raise PatchError(f"not a hunk: {lines[at].strip()}")
    old_count, new_count = int(match[2] or 1), int(match[4] or 1)
    # A hunk without old lines names the line before it.
    start = int(match[1]) - (1 if old_count else 0)
    old: list[str] = []
    new: list[str] = []
    at += 1
    while len(old) < old_count or len(new) < new_count:
        if at >= len(lines):
            raise PatchError("the diff ends inside a hunk")
        sign, text = lines[at][:1], lines[at][1:]
        if sign == "\\":
            _unended(old if len(old) >= old_count else new)
        elif sign in (" ", "-", "+", "\n"):
            text = "\n" if sign == "\n" else text
            if sign != "+":
                old.append(text)
            if sign != "-":
                new.append(text)
        else:
            raise PatchError(f"not a line of a hunk: {lines[at].strip()}")
        at += 1
    if at < len(lines) and lines[at].startswith("\\"):
        last_is_old = lines[at - 1].startswith("-")
        for side in (old,) if last_is_old else (new,):
            _unended(side)
        if lines[at - 1].startswith(" "):
            _unended(old)
        at += 1
    change.hunks.append((start, old, new))
    return at


def _unended(lines: list[str]) -> None:
    """Take the end of line off the last of `lines`, as the diff's remark on it asks."""
    if lines:
        lines[-1] = lines[-1].removesuffix("\n")


def _applied(change: _Change, before: str) -> str:
    lines = _lines(before)
    after: list[str] = []
    at = 0
    for start, old, new in change.hunks:
        if start < at or lines[start : start + len(old)] != old:
            raise PatchError(f"{change.old_path}: the hunk at line {start + 1} does not fit")
        after += [*lines[at:start], *new]
        at = start + len(old)
    return "".join([*after, *lines[at:]])
