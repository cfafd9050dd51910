"""Rows become tasks, and come back as they were."""

from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, PrivateAttr

from gym_adapters import InvalidRow, Task
from gym_adapters.items import message, user_message
from gym_adapters.task import read_rows


class SumTask(Task):
    a: int
    b: int = 2


def row(**fields: Any) -> dict[str, Any]:
    return {"responses_create_params": {"input": "hi"}, **fields}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(st.text().map(lambda key: f"x{key}"), JSON, max_size=4))
def test_unknown_fields_come_back_untouched(extra: dict[str, Any]) -> None:
    given_row = row(a=1, **extra)
    before = copy.deepcopy(given_row)
    task = SumTask.from_row(given_row)
    assert task.to_row() == before
    assert list(task.to_row()) == list(before)
    assert SumTask.from_row(json.loads(json.dumps(task.to_row()))).task_id == task.task_id


def test_defaults_are_not_written_into_the_row() -> None:
    assert "b" not in SumTask.from_row(row(a=1)).to_row()
    assert SumTask.from_row(row(a=1)).b == 2


def test_a_task_made_without_a_row_writes_one() -> None:
    task = SumTask(responses_create_params={"input": "hi"}, a=1)
    assert task.to_row() == row(a=1)


def test_the_id_names_the_content_only() -> None:
    plain = SumTask.from_row(row(a=1)).task_id
    assert len(plain) == 16
    bookkept = row(a=1, agent_ref={"name": "x"}, skills_ref="y", _ng_task_index=4)
    assert SumTask.from_row(bookkept).task_id == plain
    assert SumTask.from_row(dict(reversed(row(a=1).items()))).task_id == plain
    assert SumTask.from_row(row(a=2)).task_id != plain


def test_the_id_is_the_same_in_every_process() -> None:
    assert SumTask.from_row(row(a=1)).task_id == "bc51d6ef456d64d1"


def test_an_integer_beyond_64_bits_has_an_id() -> None:
    one, other = SumTask.from_row(row(a=10**30)), SumTask.from_row(row(a=10**30 + 1))
    assert one.task_id != other.task_id


def test_a_task_travels_between_processes() -> None:
    task = SumTask.from_row(row(a=1, kept=[1]))
    assert pickle.loads(pickle.dumps(task)).to_row() == task.to_row()


def test_input_and_tools() -> None:
    task = Task.from_row(row())
    assert task.input == [user_message("hi")]
    assert task.tools is None
    declared = {"type": "function", "name": "f", "parameters": {}}
    params = {"input": [{"role": "user", "content": "hi"}], "tools": [declared]}
    assert Task.from_row({"responses_create_params": params}).tools == [declared]
    assert Task.from_row({"responses_create_params": {"input": "hi", "tools": []}}).tools == []


@pytest.mark.parametrize(
    ("bad", "field", "problem"),
    [
        ({}, "responses_create_params", "missing"),
        (row(), "a", "missing"),
        (row(a="one"), "a", "'one'"),
        (row(a=1, b=[]), "b", "valid integer"),
        ({"responses_create_params": 5, "a": 1}, "responses_create_params", "dictionary"),
        ({"responses_create_params": {}, "a": 1}, "responses_create_params.input", "no input"),
        (
            {"responses_create_params": {"input": []}, "a": 1},
            "responses_create_params.input",
            "at least one",
        ),
        (
            {"responses_create_params": {"input": [{"role": "user"}]}, "a": 1},
            "responses_create_params.input[0].content",
            "absent",
        ),
        (
            {"responses_create_params": {"input": "x", "instructions": ["y"]}, "a": 1},
            "responses_create_params.instructions",
            "must be text",
        ),
        (
            {"responses_create_params": {"input": "x", "tools": {"f": 1}}, "a": 1},
            "responses_create_params.tools",
            "must be a list",
        ),
        (
            {"responses_create_params": {"input": "x", "tools": False}, "a": 1},
            "responses_create_params.tools",
            "must be a list",
        ),
        (
            {"responses_create_params": {"input": "x", "tools": [{"name": "f"}]}, "a": 1},
            "responses_create_params.tools[0]",
            "needs a name and parameters",
        ),
    ],
)
def test_a_bad_row_is_refused_by_file_line_and_field(
    bad: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(InvalidRow) as caught:
        SumTask.from_row(bad, source="rows.jsonl", line=7)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert str(caught.value).startswith("rows.jsonl:7: ")
    assert "Fix: " in str(caught.value)


def test_all_problems_of_a_row_are_counted() -> None:
    with pytest.raises(InvalidRow, match=r"1 more problems in this row"):
        SumTask.from_row({"a": "one"})


def test_a_row_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidRow):
        SumTask.from_row([1, 2])  # type: ignore[arg-type]


def test_rows_are_read_with_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": "é"}', encoding="utf-8")
    assert list(read_rows(path)) == [(1, {"a": 1}), (4, {"a": "é"})]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n', encoding="utf-8-sig")
    assert list(read_rows(path)) == [(1, {"a": 1})]


@pytest.mark.parametrize("number", [str(2**64), str(-(2**63) - 1), "1" * 40, "-" + "9" * 300])
def test_an_integer_that_would_become_a_float_is_refused_by_its_field(
    tmp_path: Path, number: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1}}\n{{"b": [{{"c": {number}}}]}}')
    with pytest.raises(InvalidRow, match=r"64 bits.*write it as text") as caught:
        list(read_rows(path))
    assert caught.value.line == 2
    assert caught.value.field == "b.0.c"


def test_a_number_of_any_length_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": ' + "1" * 5000 + "}")
    with pytest.raises(InvalidRow, match=r"rows\.jsonl:1: "):
        list(read_rows(path))


@pytest.mark.parametrize(
    "value", [2**64 - 1, -(2**63), "1" * 40, 0.1234567890123456789, {"1" * 30: 1}, [1e300]]
)
def test_other_long_numbers_are_read_as_they_are(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"a": value}))
    assert list(read_rows(path)) == [(1, {"a": value})]


def test_deep_nesting_around_a_long_number_is_a_refusal_at_worst(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": ' + "[" * 1000 + "1" * 25 + "]" * 1000 + "}")
    with pytest.raises(InvalidRow, match=r"nested too deep|64 bits"):
        list(read_rows(path))


def test_instructions_come_before_the_input_from_the_system() -> None:
    params = {"instructions": "Be brief.", "input": "hi"}
    task = Task.from_row({"responses_create_params": params})
    assert task.input == [message("system", "Be brief."), user_message("hi")]
    assert task.to_row() == {"responses_create_params": params}
    without = Task.from_row({"responses_create_params": {"instructions": None, "input": "hi"}})
    assert without.input == [user_message("hi")]


@pytest.mark.parametrize(
    ("line", "problem"), [("{", "not valid JSON"), ("[1]", "not list"), ("5", "not int")]
)
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + line)
    with pytest.raises(InvalidRow, match=problem) as caught:
        list(read_rows(path))
    assert caught.value.source == str(path)
    assert caught.value.line == 2


def test_a_copy_shares_nothing_that_its_class_keeps_in_private() -> None:
    class Remembers(Task):
        _seen: dict[str, int] = PrivateAttr(default_factory=dict)

    task = Remembers.from_row(row())
    copied = copy.deepcopy(task)
    copied._seen["a"] = 1
    assert task._seen == {}
    assert copy.deepcopy(copied)._seen == {"a": 1}
    assert copied.to_row() == task.to_row()


class Part(BaseModel):
    sizes: list[int]


class BoxTask(Task):
    parts: list[Part]
    packed: dt.date
    colours: set[str]
    where: tuple[dict[str, Any], ...]
    label: bytes
    _by_size: dict[int, Part] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        self._by_size.update({part.sizes[0]: part for part in self.parts})


BOX = {
    **row(extra={"more": [1]}),
    "parts": [{"sizes": [1, 2]}],
    "packed": "2026-01-31",
    "colours": ["red"],
    "where": [{"shelf": [1]}],
    "label": "box",
}


def deep_copies(task: BoxTask) -> list[BoxTask]:
    return [
        copy.deepcopy(task),
        task.model_copy(deep=True),
        copy.deepcopy(task.model_copy(deep=True)),
        pickle.loads(pickle.dumps(copy.deepcopy(task))),
    ]


@pytest.mark.parametrize("from_row", [True, False])
def test_a_deep_copy_is_equal_and_shares_nothing_that_can_change(from_row: bool) -> None:
    given_row = copy.deepcopy(BOX)
    task = BoxTask.from_row(given_row) if from_row else BoxTask(**given_row)
    before = task.to_row()
    for copied in deep_copies(task):
        assert copied == task
        assert type(copied.to_row()) is dict
        assert copied.to_row() == before
        assert copied.task_id == task.task_id
        copied.parts[0].sizes.append(3)
        copied.colours.add("blue")
        copied.where[0]["shelf"].append(2)
        copied._by_size[1].sizes.append(4)
        copied._by_size.clear()
        copied.responses_create_params["input"] = "spent"
        cast("Any", copied).extra["more"].append(2)
        copied.to_row()["where"][0]["shelf"].append(3)
        assert copied != task
    assert task == (BoxTask.from_row(BOX) if from_row else BoxTask(**BOX))
    assert given_row == BOX


def test_what_a_task_holds_twice_its_copy_holds_twice() -> None:
    shared = {"cards": [1]}
    task = BoxTask.from_row({**copy.deepcopy(BOX), "deck": shared, "hand": shared})
    copied: Any = copy.deepcopy(task)
    assert copied.deck is copied.hand
    assert copied.deck is not shared
    assert copied._by_size[1] is copied.parts[0]
    one, other = copy.deepcopy([task, task])
    assert one is other


def test_a_row_of_any_mapping_comes_back_as_a_dict() -> None:
    task = SumTask.from_row(MappingProxyType(row(a=1)))
    for each in (task, task.model_copy(deep=True)):
        assert type(each.to_row()) is dict
        assert each.to_row() == row(a=1)
