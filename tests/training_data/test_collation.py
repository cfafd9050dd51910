"""Rows of several files are checked and kept once; ids are kept in few bytes; splits don't move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from gym_adapters import InvalidConfig, InvalidRow, Task
from gym_adapters.training_data.collation import (
    WeightedFile,
    agent_named,
    checked_rows,
    parsed_weights,
    unique,
)
from gym_adapters.training_data.id_set import IdSet
from gym_adapters.training_data.row_stats import row_stats
from gym_adapters.training_data.splits import Split, parsed_parts

Row = dict[str, Any]


def rows(count: int, kind: str = "x") -> list[tuple[Row, str]]:
    made: list[Row] = [
        {"responses_create_params": {"input": str(number)}, "kind": kind} for number in range(count)
    ]
    return [(row, Task.from_row(row).task_id) for row in made]


def test_weights_are_read_from_the_command_line() -> None:
    assert parsed_weights(["a.jsonl=2.5", "b.jsonl", "x=y.jsonl"]) == [
        WeightedFile(Path("a.jsonl"), 2.5),
        WeightedFile(Path("b.jsonl")),
        WeightedFile(Path("x=y.jsonl")),
    ]
    with pytest.raises(InvalidConfig, match="above 0"):
        parsed_weights(["a.jsonl=0"])


def test_each_task_comes_once_whatever_agent_it_names() -> None:
    (row, _), *_ = rows(1)
    again = agent_named(row, "tool_agent")
    assert again["agent_ref"] == {"type": "responses_api_agents", "name": "tool_agent"}
    assert agent_named(again, "other") == again
    twice = [(each, Task.from_row(each).task_id) for each in (row, again)]
    assert [each for each, _ in unique(twice)] == [row]


def test_rows_that_are_wrong_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"responses_create_params": {"input": "a"}}\n{}\n')
    with pytest.raises(InvalidRow, match=r"rows\.jsonl:2: .*responses_create_params"):
        list(checked_rows(path))


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_an_id_is_new_once(numbers: list[int]) -> None:
    ids, known = IdSet(), set()
    for number in numbers:
        assert ids.add(f"{number:016x}") == (number not in known)
        known.add(number)
    assert len(ids) == len(known)


def test_many_ids_take_at_most_twenty_bytes_each() -> None:
    ids = IdSet()
    for number in range(20_000):
        ids.add(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}")
    assert len(ids) == 20_000
    assert ids.size_in_bytes / len(ids) <= 20


def test_a_split_keeps_shares_in_every_stratum_and_ignores_order() -> None:
    data = rows(100, "many") + rows(10, "few")
    parts = parsed_parts("train=8,validation=2")
    split = Split.of(data, parts, stratify="kind")
    assert Split.of(reversed(data), parts, stratify="kind") == split
    counts = {
        kind: sum(
            split.part(row, task_id, "kind") == "validation"
            for row, task_id in data
            if row["kind"] == kind
        )
        for kind in ("many", "few")
    }
    assert counts == {"many": 20, "few": 2}


def test_the_same_split_is_made_on_every_machine() -> None:
    split = Split.of(rows(8), {"a": 1, "b": 1})
    assert "".join(split.part(*each) for each in rows(8)) == "baababab"
    other = Split.of(rows(8), {"a": 1, "b": 1}, seed=1)
    assert [other.part(*each) for each in rows(8)] != [split.part(*each) for each in rows(8)]


@given(st.integers(0, 40), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
def test_every_task_is_in_one_part_and_parts_have_their_size(
    count: int, shares: list[float]
) -> None:
    parts = {str(index): share for index, share in enumerate(shares)}
    data = rows(count)
    split = Split.of(data + data, parts)
    found = [split.part(row, task_id) for row, task_id in data]
    for name, share in parts.items():
        assert abs(found.count(name) - count * share / sum(shares)) <= 1.0


def test_parts_that_make_no_sense_are_refused() -> None:
    for text in ("train", "train=0", "a=1,a=1", "=1", "../x=1"):
        with pytest.raises(InvalidConfig, match=r"train=0\.9"):
            parsed_parts(text)


def test_stats_tell_lengths_fields_and_difficulties() -> None:
    data: list[Row] = [
        {"responses_create_params": {"input": "ab"}, "level": 1, "kind": "x"},
        {
            "responses_create_params": {"input": "abcd"},
            "level": 4,
            "_ng_profile": {"band": "never"},
        },
    ]
    stats = row_stats((row, Task.from_row(row).task_id) for row in [*data, data[0]]).to_json()
    assert (stats["rows"], stats["tasks"]) == (3, 2)
    assert stats["prompt_characters"]["max"] == 4
    assert stats["fields"]["level"]["numbers"]["mean"] == 2.0
    assert stats["fields"]["level"]["numbers"]["std"] == pytest.approx(3**0.5)
    assert stats["fields"]["kind"] == {"present": 2, "types": {"str": 2}, "values": {"x": 2}}
    assert stats["difficulty"] == {"never": 1}
    assert orjson.loads(orjson.dumps(stats)) == stats
