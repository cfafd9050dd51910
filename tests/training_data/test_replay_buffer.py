"""A replay buffer keeps scored rollouts by weights version, and draws by weight."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from gym_adapters import InvalidRow, Rollout, Segment
from gym_adapters.training_data.replay_buffer import Priority, ReplayBuffer, group_advantages

MakeRollout = Callable[..., Rollout]


def group(make: MakeRollout, task: str, *rewards: float | None) -> list[Rollout]:
    tokens = (Segment([1], [2, 3], [1, 0], [-1.0, 0.0]),)
    return [make(task, at, reward, segments=tokens) for at, reward in enumerate(rewards)]


def test_a_failure_has_no_share_in_the_baseline(make_rollout: MakeRollout, tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path)
    assert buffer.add_group(group(make_rollout, "a", 1.0, None, 0.0, 0.5), 0) == 3
    drawn = buffer.sample(9, random.Random(0))
    assert sorted(each.advantage for each in drawn) == [-0.5, 0.0, 0.5]
    assert [each.spread for each in drawn] == pytest.approx([(1 / 6) ** 0.5] * 3)


def test_equal_rewards_have_exactly_no_spread() -> None:
    assert group_advantages([0.1] * 3) == ([0.0] * 3, 0.0)
    assert group_advantages([]) == ([], 0.0)


def test_it_reads_back_what_was_written_and_cuts_a_torn_line(
    make_rollout: MakeRollout, tmp_path: Path
) -> None:
    first = ReplayBuffer(tmp_path)
    for version in (3, 5):
        first.add_group(group(make_rollout, "a", 1.0, 0.0), version)
    with (tmp_path / "000000005.jsonl").open("ab") as file:
        file.write(b'{"advantage": 1')
    again = ReplayBuffer(tmp_path)
    assert (len(again), again.weights_version) == (4, 5)
    draw = [buffer.sample(4, random.Random(1)) for buffer in (first, again)]
    assert draw[0] == draw[1]
    assert again.add_group(group(make_rollout, "b", 1.0), 5) == 1
    assert len(ReplayBuffer(tmp_path)) == 5


def test_what_is_too_old_is_deleted_and_not_taken(
    make_rollout: MakeRollout, tmp_path: Path
) -> None:
    buffer = ReplayBuffer(tmp_path, max_staleness=2)
    for version in range(4):
        buffer.add_group(group(make_rollout, "a", 1.0, 0.0), version)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000001.jsonl",
        "000000002.jsonl",
        "000000003.jsonl",
    ]
    assert buffer.add_group(group(make_rollout, "a", 1.0), 0) == 0
    buffer.advance(9)
    assert len(buffer) == 0
    assert buffer.sample(3, random.Random(0)) == []


def test_capacity_drops_the_oldest_but_never_the_newest(
    make_rollout: MakeRollout, tmp_path: Path
) -> None:
    buffer = ReplayBuffer(tmp_path, capacity=3)
    buffer.add_group(group(make_rollout, "a", 1.0, 0.0), 1)
    buffer.add_group(group(make_rollout, "a", *[1.0] * 5), 2)
    assert (len(buffer), {each.weights_version for each in buffer.sample(9, random.Random(0))}) == (
        5,
        {2},
    )


def test_weights_decide_what_is_drawn(make_rollout: MakeRollout, tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path, max_staleness=9)
    buffer.add_group(group(make_rollout, "a", 1.0, 1.0), 0)
    buffer.add_group(group(make_rollout, "b", 0.0, 0.0, 0.0, 1.0), 4)
    rng = random.Random(0)

    def drawn(priority: Priority) -> Counter[tuple[str, float]]:
        found: Counter[tuple[str, float]] = Counter()
        for _ in range(400):
            (each,) = buffer.sample(1, rng, priority)
            found[each.rollout.task_id[-2:], each.advantage] += 1
        return found

    by_advantage = drawn(Priority.ADVANTAGE)
    assert set(by_advantage) == {("62", -0.25), ("62", 0.75)}
    assert 0.42 < by_advantage["62", 0.75] / 400 < 0.58  # 0.75 / (0.75 + 3 * 0.25)
    assert {task for task, _ in drawn(Priority.SPREAD)} == {"62"}
    old = sum(n for (task, _), n in drawn(Priority.RECENCY).items() if task == "61")
    assert 0.0 < old / 400 < 0.08  # 2 / 16 of 4 + 2 / 16


def test_token_rows_go_on_with_what_is_added(make_rollout: MakeRollout, tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path)
    buffer.add_group(group(make_rollout, "a", 1.0), 0)
    stream = buffer.token_rows(8, random.Random(0))
    assert next(stream) == {"input_ids": [1, 2, 3], "labels": [-100, 2, -100], "advantage": 0.0}
    buffer.add_group(group(make_rollout, "b", 1.0, 0.0), 0)
    assert len({row["advantage"] for row in islice(stream, 3)}) == 3


def test_rollouts_without_tokens_are_told(make_rollout: MakeRollout, tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path)
    buffer.add_group([make_rollout()], 0)
    with pytest.raises(InvalidRow, match="no tokens"):
        next(buffer.token_rows(1, random.Random(0)))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "000000001.jsonl").write_bytes(b'{"x": 1}\n')
    with pytest.raises(InvalidRow, match="a folder of its own"):
        ReplayBuffer(tmp_path)
