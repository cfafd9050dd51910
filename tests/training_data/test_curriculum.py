"""The curriculum goes where there is something to learn, and can be taken up again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from gym_adapters import InvalidConfig, Rollout, Task
from gym_adapters.training_data.curriculum import Curriculum, CurriculumRule, informative_groups
from gym_adapters.training_data.profile import profile_of

Row = dict[str, Any]


def rows(count: int, kind: str = "x") -> list[Row]:
    return [{"responses_create_params": {"input": f"{kind}{at}"}} for at in range(count)]


def ids(of: list[Row]) -> list[str]:
    return [Task.from_row(row).task_id for row in of]


def drawn(curriculum: Curriculum, count: int = 1000) -> Counter[str]:
    return Counter(each.task_id for each in islice(curriculum, count))


def test_tasks_in_the_band_come_most_and_others_by_their_share() -> None:
    pool = rows(4)
    easy, middle, hard, new = ids(pool)
    curriculum = Curriculum({"x": pool}, CurriculumRule(explore=0.2, revisit=0.1))
    curriculum.record(easy, [1.0] * 4)
    curriculum.record(middle, [1.0, 0.0, 1.0, 0.0])
    curriculum.record(hard, [0.0] * 4)
    counts = drawn(curriculum)
    assert 640 < counts[middle] < 760
    assert 150 < counts[new] < 250
    assert 60 < counts[easy] + counts[hard] < 140


def test_a_group_that_is_all_alike_leaves_the_band_even_at_a_middling_rate() -> None:
    pool = rows(1)
    (task,) = ids(pool)
    curriculum = Curriculum({"x": pool}, CurriculumRule(forget=1.0))
    curriculum.record(task, [0.0, 1.0])
    assert curriculum._kind_of(task) == "in band"
    curriculum.record(task, [1.0, 1.0])
    assert curriculum.pass_rate(task) == 0.75
    assert curriculum._kind_of(task) == "outside"


def test_unscored_attempts_tell_nothing() -> None:
    pool = rows(1)
    (task,) = ids(pool)
    curriculum = Curriculum({"x": pool})
    curriculum.record(task, [None, None])
    assert curriculum.pass_rate(task) is None
    curriculum.record(task, [None, 1.0, 0.0])
    assert curriculum.pass_rate(task) == 0.5


def test_what_was_known_fades() -> None:
    pool = rows(1)
    (task,) = ids(pool)
    curriculum = Curriculum({"x": pool}, CurriculumRule(forget=0.5))
    curriculum.record(task, [0.0, 0.0])
    curriculum.record(task, [1.0, 1.0])
    assert curriculum.pass_rate(task) == pytest.approx(2 / 3)


def test_the_mix_moves_to_the_environment_with_more_to_learn() -> None:
    done, open_ = rows(2, "done"), rows(2, "open")
    curriculum = Curriculum({"done": done, "open": open_}, CurriculumRule(least_share=0.2))
    assert curriculum.mix() == {"done": 0.5, "open": 0.5}
    for task in ids(done):
        curriculum.record(task, [1.0, 1.0])
    assert curriculum.mix() == {"done": pytest.approx(0.1), "open": pytest.approx(0.9)}
    counts = Counter(each.environment for each in islice(curriculum, 1000))
    assert 60 < counts["done"] < 140


def test_when_nothing_is_left_to_learn_it_still_draws() -> None:
    pool = rows(2)
    curriculum = Curriculum({"x": pool}, CurriculumRule(explore=0.0, revisit=0.0))
    for task in ids(pool):
        curriculum.record(task, [1.0, 1.0])
    assert set(drawn(curriculum, 50)) == set(ids(pool))


def test_it_goes_on_where_it_stopped() -> None:
    pool = rows(6)
    first = Curriculum({"x": pool}, seed=3)
    for each in islice(first, 20):
        first.record(each.task_id, [1.0, 0.0])
    state = orjson.loads(orjson.dumps(first.state()))
    second = Curriculum({"x": pool}, seed=99)
    second.restore(state)
    assert second.mix() == first.mix()
    kinds = [{task: each._kind_of(task) for task in ids(pool)} for each in (first, second)]
    assert kinds[0] == kinds[1]
    assert second.state() == orjson.loads(orjson.dumps(first.state()))
    with pytest.raises(InvalidConfig, match="not the state"):
        second.restore({})


@given(st.lists(st.tuples(st.integers(0, 4), st.lists(st.sampled_from([0.0, 1.0]), max_size=3))))
def test_every_task_stays_in_exactly_one_kind(records: list[tuple[int, list[float]]]) -> None:
    pool = rows(5)
    names = ids(pool)
    curriculum = Curriculum({"x": pool})
    for at, rewards in records:
        curriculum.record(names[at], rewards)
        sorted_ = curriculum._pools["x"].of_kind
        assert sorted(task for tasks in sorted_.values() for task in tasks) == sorted(names)
    fresh = Curriculum({"x": pool})
    fresh.restore(curriculum.state())
    assert fresh._pools["x"].worth == pytest.approx(curriculum._pools["x"].worth)


def test_a_profile_starts_it(make_rollout: Callable[..., Rollout]) -> None:
    pool = rows(2)
    hard, _ = ids(pool)
    from dataclasses import replace

    attempts = [replace(make_rollout("a", at, 0.0), task_id=hard) for at in range(4)]
    curriculum = Curriculum({"x": pool}, profiles=profile_of(attempts))
    assert curriculum.pass_rate(hard) == 0.0
    assert curriculum._kind_of(hard) == "outside"


def test_groups_without_a_gradient_are_left_out(make_rollout: Callable[..., Rollout]) -> None:
    mixed = [make_rollout("a", at, reward) for at, reward in enumerate((1.0, None, 0.0))]
    alike = [make_rollout("b", at, reward) for at, reward in enumerate((1.0, None, 1.0))]
    (kept,) = informative_groups([alike, mixed, []])
    assert [rollout.reward for rollout in kept] == [1.0, 0.0]


def test_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="band"):
        CurriculumRule(band=(0.9, 0.1))
    with pytest.raises(InvalidConfig, match="at most 1"):
        CurriculumRule(explore=0.8, revisit=0.3)
    with pytest.raises(InvalidConfig, match="at least one row"):
        Curriculum({"x": []})
