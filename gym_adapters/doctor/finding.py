"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Level", "failed", "fine", "warned", "worst"]


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found.

    Attributes:
        part: What it belongs to: ``machine``, ``trainers``, ``template`` and so on.
        subject: What was looked at.
        level: How bad it is. What fails would end the run, or make it train on the wrong thing.
        what: What is the case.
        fix: What to do next; empty where there is nothing to do.
    """

    part: str
    subject: str
    level: Level
    what: str
    fix: str = ""


def fine(part: str, subject: str, what: str) -> Finding:
    """All is well."""
    return Finding(part, subject, Level.OK, what)


def warned(part: str, subject: str, what: str, fix: str) -> Finding:
    """It may go wrong, or cost more than it should."""
    return Finding(part, subject, Level.WARN, what, fix)


def failed(part: str, subject: str, what: str, fix: str) -> Finding:
    """It will go wrong."""
    return Finding(part, subject, Level.FAIL, what, fix)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of all; ``ok`` for none."""
    return max((finding.level for finding in findings), key=list(Level).index, default=Level.OK)
