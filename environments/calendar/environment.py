"""Keeping a calendar free of conflicts while honouring what the user asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, model_validator

from gym_adapters import Environment, InvalidRow, Reward, Task, Transcript
from gym_adapters.items import Item, assistant_message

from .schedule import Window, clock, event_list, minutes, overlapping, solve, window_of

__all__ = ["Calendar", "CalendarTask", "ExpectedEvent"]

_DAY = ("10:00", "16:00")
_STEP = 15
_MOST_EVENTS = 7
_SYSTEM = (
    "You keep the user's calendar. In every response print the whole calendar as a JSON list "
    'and nothing else that is in brackets. Each entry has the fields "event_id" (integer), '
    '"event_name" (string), "start_time" (string, 24-hour HH:MM) and "duration" (integer, '
    "minutes). The calendar starts empty. All events lie between 10am and 4pm and none overlap; "
    "move events where it is needed. Whatever the user asks of an event stays in force: before a "
    "time means that it ends by then, after a time that it starts then or later, at a time that "
    "it starts then. Ask nothing."
)
_SUBJECTS = (
    "budget review",
    "team lunch",
    "design workshop",
    "dentist",
    "release planning",
    "reading group",
    "job interview",
    "garden tour",
    "safety training",
    "call with the bank",
)


class ExpectedEvent(BaseModel):
    """An event that must be in the calendar; times are ``10:00`` or ``10am``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    event_id: int | str
    duration: int
    constraint: str | None = None
    min_time: str
    max_time: str

    @property
    def window(self) -> Window:
        """When it may start."""
        return window_of(self.duration, self.constraint, self.min_time, self.max_time)


class CalendarTask(Task):
    """A conversation, and the events that the calendar must hold after it, by event id."""

    exp_cal_state: dict[str, ExpectedEvent]

    @model_validator(mode="after")
    def _constraints_can_be_read(self) -> Self:
        for key, event in self.exp_cal_state.items():
            try:
                event.window  # noqa: B018
            except ValueError as error:
                raise InvalidRow(
                    f"{error}.",
                    field=f"exp_cal_state.{key}",
                    fix='write times as "10:00" or "10am", constraints as "before 11am".',
                ) from None
        return self


class Calendar(Environment[CalendarTask]):
    """Keep a calendar over a conversation and print it at the end.

    The reward is 1 if the first JSON list of objects in the final message holds exactly the
    expected events, each once, by id, none overlapping, each of the right duration, within its
    day and its constraint; else 0. ``reason`` in the reward's info names the first thing that is
    wrong. Names of events are not compared.
    """

    name = "calendar"

    async def verify(self, transcript: Transcript) -> Reward:
        """1 for a calendar that keeps everything that was asked."""
        windows = {key: event.window for key, event in self.task.exp_cal_state.items()}
        # What a budget cut off is not an answer.
        answer = "" if transcript.truncated else transcript.final_text
        reason = first_fault(answer, windows)
        return Reward(float(reason == "pass"), info={"reason": reason})

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[CalendarTask]:
        """Conversations that can be satisfied.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: At 0 one event; at 1 seven of them, most of them constrained.
        """
        rng = random.Random(seed)
        for _ in range(count):
            yield _generated(rng, 1 + round(difficulty * (_MOST_EVENTS - 1)), difficulty)

    @classmethod
    def gold_turns(cls, task: CalendarTask) -> Sequence[Sequence[Item]]:
        """The calendar, with a schedule found by search."""
        windows = {key: event.window for key, event in task.exp_cal_state.items()}
        starts = solve(windows)
        events = [
            {
                "event_id": int(key) if key.isdigit() else key,
                "event_name": f"event {key}",
                "start_time": clock(starts[key]),
                "duration": windows[key].duration,
            }
            for key in sorted(starts, key=lambda key: starts[key])
        ]
        return [[assistant_message(orjson.dumps(events).decode())]]


def first_fault(text: str, expected: Mapping[str, Window]) -> str:
    """What is wrong with the calendar in `text`, ``pass`` if nothing is."""
    if not text.strip():
        return "no_answer"
    if "<think>" in text:
        return "think_found"
    events = event_list(text)
    if not expected:
        # Nothing was booked: any answer will do that does not show events.
        return "different_number_of_events" if events else "pass"
    if events is None:
        return "no_json_list"
    starts: dict[str, int] = {}
    for event in events:
        key, start, duration = _reading(event)
        if key is None or start is None or duration is None:
            return "malformed_event"
        if key in starts:
            return "duplicate_event"
        window = expected.get(key)
        if window is None:
            return "unknown_event"
        if duration != window.duration or not window.allows(start):
            return "constraint_violated"
        starts[key] = start
    if len(starts) != len(expected):
        return "different_number_of_events"
    if overlapping([(start, start + expected[key].duration) for key, start in starts.items()]):
        return "conflicting_events"
    return "pass"


def _reading(event: Mapping[str, object]) -> tuple[str | None, int | None, float | None]:
    """Id, start and duration of an event as the model wrote it; ``None`` for what can't be read."""
    key, start, duration = event.get("event_id"), event.get("start_time"), event.get("duration")
    read_start: int | None = None
    if isinstance(start, str):
        try:
            read_start = minutes(start)
        except ValueError:
            read_start = None
    return (
        str(key) if isinstance(key, int | str) and not isinstance(key, bool) else None,
        read_start,
        duration if isinstance(duration, int | float) and not isinstance(duration, bool) else None,
    )


def _generated(rng: random.Random, events: int, difficulty: float) -> CalendarTask:
    begin, end = minutes(_DAY[0]), minutes(_DAY[1])
    # Durations and gaps that fill the day exactly make every draw satisfiable.
    slots = (end - begin) // _STEP
    durations = [rng.choice((2, 3, 4) if events > 4 else (2, 3, 4, 5, 6)) for _ in range(events)]
    while sum(durations) > slots:
        durations[durations.index(max(durations))] -= 1
    gaps = [0] * (events + 1)
    for _ in range(slots - sum(durations)):
        gaps[rng.randrange(events + 1)] += 1
    ids = rng.sample(range(events), events)
    expected: dict[str, dict[str, Any]] = {}
    at = begin
    for position, (gap, duration) in enumerate(zip(gaps, durations, strict=False)):
        at += gap * _STEP
        constraint = _constraint(rng, at, at + duration * _STEP, (begin, end), difficulty)
        expected[str(ids[position])] = {
            "event_id": ids[position],
            "duration": duration * _STEP,
            "constraint": constraint,
            "min_time": _DAY[0],
            "max_time": _DAY[1],
        }
        at += duration * _STEP
    names = rng.sample(_SUBJECTS, events)
    requests = [
        _request(int(key), name, expected[key])
        for key, name in zip(sorted(expected), names, strict=True)
    ]
    return CalendarTask.from_row(
        {
            "responses_create_params": {
                "input": [
                    {"role": "system", "content": _SYSTEM},
                    {"role": "user", "content": " ".join(requests)},
                ]
            },
            "exp_cal_state": {key: expected[key] for key in sorted(expected)},
        }
    )


def _constraint(
    rng: random.Random, start: int, end: int, day: tuple[int, int], difficulty: float
) -> str | None:
    if rng.random() > 0.3 + 0.6 * difficulty:
        return None
    slack = max(0, round((1.0 - difficulty) * 8))
    early = max(day[0], start - _STEP * rng.randint(0, slack))
    late = min(day[1], end + _STEP * rng.randint(0, slack))
    kind = rng.choice(("before", "after", "between", "at"))
    if kind == "between":
        return f"between {clock(early, twelve_hours=True)} and {clock(late, twelve_hours=True)}"
    time = {"before": late, "after": early, "at": start}[kind]
    return f"{kind} {clock(time, twelve_hours=True)}"


def _request(key: int, name: str, event: Mapping[str, Any]) -> str:
    wish = f" It must be {event['constraint']}." if event["constraint"] else ""
    return f'Add "{name}" for {event["duration"]} minutes (event id: {key}).{wish}'
