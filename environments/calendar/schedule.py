"""Times, constraints and schedules: what a calendar must satisfy, and one that does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import orjson

from gym_adapters.errors import UsageError

__all__ = ["Window", "clock", "event_list", "minutes", "solve", "window_of"]

_CLOCK = re.compile(r"\s*+([0-9]{1,2})(?::([0-9]{2}))?\s*+([ap]m)?\s*+", re.IGNORECASE)

# One list of flat objects in one pass: every quantifier is possessive, so nothing is read twice
# from one starting point, and an attempt that fails has met the next possible start at the latest.
_STRING = r'"(?:[^"\\\x00-\x1f]|\\.)*+"'
_SCALAR = rf"(?:{_STRING}|-?[0-9]++(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+|true|false|null)"
_FLAT_LIST = rf"\[\s*+(?:{_SCALAR}(?:\s*+,\s*+{_SCALAR})*+\s*+)?+\]"
_PAIR = rf"{_STRING}\s*+:\s*+(?:{_SCALAR}|{_FLAT_LIST})"
_OBJECT = rf"\{{\s*+(?:{_PAIR}(?:\s*+,\s*+{_PAIR})*+\s*+)?+\}}"
_OBJECT_LIST = re.compile(rf"\[\s*+{_OBJECT}(?:\s*+,\s*+{_OBJECT})*+\s*+\]")

_MOST_WINDOWS = 16


def event_list(text: str) -> list[dict[str, object]] | None:
    """The first JSON list of flat objects in `text`; ``None`` without one. It is never empty.

    Linear in the length of `text`. A flat object holds strings, numbers, booleans, nulls and lists
    of those.
    """
    match = _OBJECT_LIST.search(text)
    if match is None:
        return None
    try:
        found: list[dict[str, object]] = orjson.loads(match[0])
    except orjson.JSONDecodeError:
        # The pattern is laxer than JSON: leading zeros, unknown escapes, lone surrogates.
        return None
    return found


def minutes(time: str) -> int:
    """Minutes since midnight of ``10:30``, ``9am``, ``2:15 pm``.

    Raises:
        ValueError: If it is none of these.
    """
    match = _CLOCK.fullmatch(time)
    if match is None:
        raise ValueError(f"{time!r} is no time of day")
    hour, minute, half = int(match[1]), int(match[2] or 0), (match[3] or "").lower()
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(f"{time!r} is no time of day")
        hour = hour % 12 + (12 if half == "pm" else 0)
    elif match[2] is None:
        raise ValueError(f"{time!r} is no time of day: write 10:30 or 10am")
    if minute > 59 or hour * 60 + minute > 24 * 60:
        raise ValueError(f"{time!r} is no time of day")
    return hour * 60 + minute


def clock(minute: int, *, twelve_hours: bool = False) -> str:
    """`minute` after midnight as ``14:05``, or as ``2:05pm``."""
    hour, rest = divmod(minute, 60)
    if not twelve_hours:
        return f"{hour:02d}:{rest:02d}"
    half = "am" if hour % 24 < 12 else "pm"
    return f"{(hour - 1) % 12 + 1}{f':{rest:02d}' if rest else ''}{half}"


@dataclass(frozen=True, slots=True)
class Window:
    """When an event of `duration` minutes may start, in minutes after midnight."""

    duration: int
    earliest_start: int
    latest_start: int

    def allows(self, start: int) -> bool:
        """Whether the event may start at `start`."""
        return self.earliest_start <= start <= self.latest_start


def window_of(duration: int, constraint: str | None, min_time: str, max_time: str) -> Window:
    """The window of an event.

    Args:
        duration: Minutes.
        constraint: ``before T`` (ends by T), ``after T`` (starts from T on), ``between T and U``,
            ``at T`` (starts at T), or ``None``.
        min_time: The day's first start.
        max_time: The day's last end.

    Raises:
        ValueError: If the constraint or a time can't be read.
    """
    earliest, latest = minutes(min_time), minutes(max_time) - duration
    if constraint is None:
        return Window(duration, earliest, latest)
    kind, _, rest = constraint.strip().partition(" ")
    if kind == "before":
        latest = min(latest, minutes(rest) - duration)
    elif kind == "after":
        earliest = max(earliest, minutes(rest))
    elif kind == "at":
        earliest, latest = max(earliest, minutes(rest)), min(latest, minutes(rest))
    elif kind == "between" and " and " in rest:
        begin, _, end = rest.partition(" and ")
        earliest = max(earliest, minutes(begin))
        latest = min(latest, minutes(end) - duration)
    else:
        raise ValueError(
            f"{constraint!r} is no constraint: write before, after, at, or between ... and ..."
        )
    return Window(duration, earliest, latest)


def overlapping(spans: Sequence[tuple[int, int]]) -> bool:
    """Whether any two of `spans` (start, end) share a minute."""
    return any(later[0] < earlier[1] for earlier, later in pairwise(sorted(spans)))


def solve(windows: Mapping[str, Window]) -> dict[str, int]:
    """A start for every window so that no two events overlap.

    Raises:
        UsageError: If there is none, or there are more than 16 windows.
    """
    names = list(windows)
    if len(names) > _MOST_WINDOWS:
        raise UsageError(f"at most {_MOST_WINDOWS} events are scheduled, not {len(names)}")
    # The earliest end of every set of events (a bit each), and which of them comes last: in any
    # order, starting each as early as it may leaves the most room for the rest.
    best: dict[int, tuple[int, int]] = {0: (0, -1)}
    for chosen in range(1, 1 << len(names)):
        ends = []
        for last, name in enumerate(names):
            before = best.get(chosen & ~(1 << last)) if chosen >> last & 1 else None
            if before is not None:
                start = max(before[0], windows[name].earliest_start)
                if windows[name].allows(start):
                    ends.append((start + windows[name].duration, last))
        if ends:
            best[chosen] = min(ends)
    starts: dict[str, int] = {}
    chosen = (1 << len(names)) - 1
    if chosen not in best:
        raise UsageError("no schedule keeps all constraints")
    while chosen:
        end, last = best[chosen]
        starts[names[last]] = end - windows[names[last]].duration
        chosen &= ~(1 << last)
    return starts
