"""The calendar environment: what counts as kept, and that no text is slow or fatal to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from gym_adapters.environments.calendar.environment import Calendar, CalendarTask, first_fault
from gym_adapters.environments.calendar.schedule import (
    clock,
    event_list,
    minutes,
    overlapping,
    solve,
    window_of,
)
from hypothesis import given, strategies as st

from gym_adapters import Episode, InvalidRow, UsageError
from gym_adapters.items import assistant_message
from gym_adapters.task import read_rows

EXPECTED = {
    "0": window_of(60, "between 10am and 11:45am", "10:00", "16:00"),
    "1": window_of(30, "before 1:45pm", "10:00", "16:00"),
}
ZERO = {"event_id": 0, "event_name": "a", "start_time": "10:30", "duration": 60}
ONE = {"event_id": 1, "event_name": "b", "start_time": "12:00", "duration": 30}


def fault(events: Any) -> str:
    return first_fault(json.dumps(events), EXPECTED)


def test_a_calendar_that_keeps_everything_passes_whatever_stands_around_it() -> None:
    assert fault([ZERO, ONE]) == "pass"
    text = f"Here [as asked] it is:\n```json\n{json.dumps([ONE, ZERO], indent=2)}\n```\nDone [1]."
    assert first_fault(text, EXPECTED) == "pass"


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([ZERO], "different_number_of_events"),
        ([ZERO, ZERO], "duplicate_event"),
        ([ZERO, ONE, ONE], "duplicate_event"),
        ([ZERO, {**ONE, "event_id": 7}], "unknown_event"),
        ([ZERO, {**ONE, "duration": 45}], "constraint_violated"),
        ([ZERO, {**ONE, "start_time": "13:30"}], "constraint_violated"),
        ([ZERO, {**ONE, "start_time": "09:30"}], "constraint_violated"),
        ([ZERO, {**ONE, "start_time": "11:15"}], "conflicting_events"),
        ([ZERO, {**ONE, "start_time": "noon"}], "malformed_event"),
        ([ZERO, {**ONE, "duration": True}], "malformed_event"),
        ([ZERO, {"event_name": "b"}], "malformed_event"),
        ({"calendar": 1}, "no_json_list"),
        ([], "no_json_list"),
    ],
)
def test_the_first_thing_wrong_is_named(events: Any, reason: str) -> None:
    assert fault(events) == reason


def test_an_event_may_start_when_another_ends() -> None:
    assert fault([ZERO, {**ONE, "start_time": "11:30"}]) == "pass"


def test_thinking_in_the_message_is_a_fault() -> None:
    text = f"<think>hm</think>{json.dumps([ZERO, ONE])}"
    assert first_fault(text, EXPECTED) == "think_found"


def test_with_nothing_expected_only_an_answer_without_events_passes() -> None:
    assert first_fault("Nothing is booked.", {}) == "pass"
    assert first_fault("[]", {}) == "pass"
    assert first_fault(json.dumps([ZERO]), {}) == "different_number_of_events"
    assert first_fault("  ", {}) == "no_answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10:30", 630),
        ("9:05", 545),
        ("10am", 600),
        ("12am", 0),
        ("12pm", 720),
        ("12:15pm", 735),
        ("1:45 PM", 825),
        ("24:00", 1440),
    ],
)
def test_times_are_read(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "10", "13pm", "0am", "10:60", "24:01", "soon", "10:3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time of day"):
        minutes(text)


@given(st.integers(0, 24 * 60 - 1))
def test_a_written_time_is_read_back(minute: int) -> None:
    assert minutes(clock(minute)) == minute
    assert minutes(clock(minute, twelve_hours=True)) == minute


@pytest.mark.parametrize(
    ("constraint", "starts"),
    [
        (None, (600, 900)),
        ("before 11am", (600, 600)),
        ("after 2pm", (840, 900)),
        ("between 11am and 12:30pm", (660, 690)),
        ("at 1pm", (780, 780)),
    ],
)
def test_a_constraint_bounds_the_start(constraint: str | None, starts: tuple[int, int]) -> None:
    window = window_of(60, constraint, "10:00", "16:00")
    assert (window.earliest_start, window.latest_start) == starts


@pytest.mark.parametrize("constraint", ["near 10am", "before", "between 10am", "at ten"])
def test_a_row_with_an_unreadable_constraint_is_refused_by_name(constraint: str) -> None:
    event = {"event_id": 3, "duration": 30, "constraint": constraint, "min_time": "10:00"}
    with pytest.raises(InvalidRow) as caught:
        CalendarTask.from_row(
            {
                "responses_create_params": {"input": "hi"},
                "exp_cal_state": {"3": {**event, "max_time": "16:00"}},
            },
            source="rows.jsonl",
            line=4,
        )
    assert caught.value.field == "exp_cal_state.3"
    assert caught.value.line == 4


FLAT = st.dictionaries(
    st.text(max_size=5),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=10),
        st.lists(st.integers(0, 9), max_size=3),
    ),
    max_size=4,
)


@given(st.lists(FLAT, min_size=1, max_size=4), st.text(alphabet="abc (){}:,.", max_size=20))
def test_a_list_of_flat_objects_is_found_after_any_prose(
    events: list[dict[str, Any]], prose: str
) -> None:
    assert event_list(prose + json.dumps(events)) == events
    assert event_list(prose + orjson.dumps(events).decode() + prose) == events


@given(st.text(alphabet='[]{}",:\\1 a\n', max_size=200))
def test_no_text_makes_reading_fail(text: str) -> None:
    found = event_list(text)
    assert found is None or (found and all(isinstance(event, dict) for event in found))
    assert isinstance(first_fault(text, EXPECTED), str)


@pytest.mark.parametrize(
    "unit", ["[", "[{", "{a}", '[{"', '[{"a":', '[{"a":"\\', "[ ", '[{":":",":']
)
def test_a_long_text_that_never_completes_a_list_is_read_through(unit: str) -> None:
    # 200,000 characters end at once in linear time, and not in a lifetime otherwise.
    assert event_list("[" + unit * (200_000 // len(unit))) is None


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.6, 1.0]))
def test_generated_conversations_can_be_satisfied(seed: int, difficulty: float) -> None:
    (task,) = Calendar.generate_tasks(1, seed=seed, difficulty=difficulty)
    windows = {key: event.window for key, event in task.exp_cal_state.items()}
    starts = solve(windows)
    assert all(windows[key].allows(start) for key, start in starts.items())
    assert not overlapping([(s, s + windows[k].duration) for k, s in starts.items()])


async def test_recorded_rollouts_get_their_recorded_rewards(nemo_gym_fixtures: Path) -> None:
    rows = [row for _, row in read_rows(nemo_gym_fixtures / "calendar.jsonl")]
    rewards = []
    for row in rows:
        async with Episode(Calendar, CalendarTask.from_row(row["task"])) as episode:
            await episode.start()
            step = await episode.advance(row["response"]["output"])
        assert step.outcome is not None
        assert step.outcome.reward is not None
        rewards.append(step.outcome.reward.value)
    assert rewards == [row["recorded_reward"] for row in rows]


async def test_the_gold_answer_to_published_rows_passes(nemo_gym_fixtures: Path) -> None:
    for _, row in read_rows(nemo_gym_fixtures / "calendar.tasks.jsonl"):
        task = CalendarTask.from_row(row)
        windows = {key: event.window for key, event in task.exp_cal_state.items()}
        (turn,) = Calendar.gold_turns(task)
        assert turn[0]["type"] == "message"
        (part,) = turn[0]["content"]
        assert not isinstance(part, str)
        assert first_fault(part["text"], windows) == "pass"


async def test_a_message_that_is_cut_off_scores_nothing() -> None:
    (task,) = Calendar.generate_tasks(1)
    async with Episode(Calendar, task) as episode:
        await episode.start()
        step = await episode.advance([assistant_message("[{")], finish_reason="length")
    assert step.outcome is not None
    assert step.outcome.reward is not None
    assert step.outcome.reward.value == 0.0


def test_constraints_that_exclude_each_other_have_no_schedule() -> None:
    window = window_of(60, "at 11am", "10:00", "16:00")
    with pytest.raises(UsageError, match="no schedule"):
        solve({"0": window, "1": window})
