"""The numbers of groups: what each attempt is called, and where a resumed run goes on."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, strategies as st

from gym_adapters import InvalidConfig
from gym_adapters.adapters.trl.async_groups import GroupNumbers

TASKS = ["a", "b", "a"]


def numbers_of(groups: GroupNumbers, count: int) -> list[int]:
    return list(itertools.islice(groups, count))


def test_attempts_at_a_task_go_on_counting_also_where_it_stands_in_several_rows() -> None:
    groups = GroupNumbers(TASKS, 2)
    assert [groups.first_index(number) for number in range(6)] == [0, 0, 2, 4, 2, 6]
    assert [groups.place(number) for number in range(4)] == [0, 1, 2, 0]


def test_a_group_is_taken_when_all_its_samples_are() -> None:
    groups = GroupNumbers(TASKS, 2)
    groups.made(1, 2)
    groups.made(0, 0)
    assert groups.was_taken("a", 1)
    groups.took(1)
    assert not groups.was_taken("b", 0)
    groups.took(1)
    assert groups.was_taken("b", 1)
    assert not groups.was_taken("a", 2)
    assert not groups.was_taken("unknown", 0)
    assert groups.state()["first"] == 2


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.sampled_from("abc"), min_size=1))
def test_a_restored_run_samples_just_what_was_not_taken(
    finished: list[int], task_ids: list[str]
) -> None:
    groups = GroupNumbers(task_ids, 3)
    for number in finished:
        groups.made(number, 1)
        groups.took(number)
    again = GroupNumbers(task_ids, 3)
    again.restore(json.loads(json.dumps(groups.state())))
    left = [number for number in range(40) if number not in finished]
    assert numbers_of(again, len(left)) == left
    for number in range(40):
        task_id = task_ids[again.place(number)]
        attempts = range(again.first_index(number), again.first_index(number) + 3)
        assert {again.was_taken(task_id, each) for each in attempts} == {number in finished}


@given(st.integers(0, 50), st.lists(st.sampled_from("abc"), min_size=1))
def test_a_run_that_begins_anew_uses_no_number_again(used: int, task_ids: list[str]) -> None:
    groups = GroupNumbers(task_ids, 3)
    groups.begin_after(used)
    numbers = numbers_of(groups, 2 * len(task_ids))
    assert groups.place(numbers[0]) == 0
    assert all(groups.first_index(number) >= used for number in numbers)


@pytest.mark.parametrize(
    ("task_ids", "group_size", "told"),
    [(["a", "b", "c"], 2, "other tasks"), (TASKS, 4, "groups of 2")],
)
def test_the_state_of_another_run_is_refused(
    task_ids: list[str], group_size: int, told: str
) -> None:
    state = GroupNumbers(TASKS, 2).state()
    with pytest.raises(InvalidConfig, match=told):
        GroupNumbers(task_ids, group_size).restore(state)
    with pytest.raises(InvalidConfig, match="does not tell"):
        GroupNumbers(task_ids, group_size).restore({})
