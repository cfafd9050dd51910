from __future__ import annotations

import orjson
import pytest
from hypothesis import given, strategies as st

from gym_adapters import InvalidRow, Task
from gym_adapters.adapters.trl.rows import (
    ROW,
    prompt_messages,
    row_of_columns,
    row_of_prompt,
    trl_dataset,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def row(**fields: object) -> dict[str, object]:
    return {"responses_create_params": {"input": [{"role": "user", "content": "hi"}]}, **fields}


@given(st.dictionaries(st.text(min_size=1, max_size=6), json_values, max_size=4))
def test_a_row_comes_back_from_the_column_as_it_was(fields: dict[str, object]) -> None:
    given_row = {**fields, **row()}
    columns = {ROW: [orjson.dumps(given_row).decode()]}
    assert row_of_columns(columns, 0, "") == given_row


def test_rows_survive_the_dataset_exactly_where_arrow_would_mix_their_fields() -> None:
    rows = [row(meta={"a": 1}), row(meta={"b": [1, "x"]}, only_here=None)]
    dataset = trl_dataset([Task.from_row(r) for r in rows])
    assert [orjson.loads(text) for text in dataset[ROW]] == rows
    assert dataset["prompt"][0] == [{"role": "user", "content": "hi"}]


def test_a_row_in_the_prompt_survives_the_dataset() -> None:
    rows = [row(answer="A"), row(answer="B", nested={"x": [1]})]
    dataset = trl_dataset([Task.from_row(r) for r in rows], row_in_prompt=True)
    assert [row_of_prompt(prompt) for prompt in dataset["prompt"]] == rows
    assert dataset.column_names == ["prompt"]


def test_a_prompt_without_a_row_says_how_to_make_the_dataset() -> None:
    with pytest.raises(InvalidRow, match="row_in_prompt=True"):
        row_of_prompt([{"role": "user", "content": "hi"}])
    with pytest.raises(InvalidRow, match="row_in_prompt=True"):
        row_of_prompt("hi")


def test_the_columns_of_a_dataset_are_the_fields_of_its_rows() -> None:
    columns = {
        "answer": ["A", "B"],
        "prompts": [1, 2],
        "trainer_state": object(),
        "log_metric": print,
        "environments": [1, 2],
    }
    prompt = [{"role": "user", "content": "q", "extra": None}]
    assert row_of_columns(columns, 1, prompt) == {
        "answer": "B",
        "responses_create_params": {"input": [{"role": "user", "content": "q"}]},
    }
    assert row_of_columns({}, 0, "q") == {"responses_create_params": {"input": "q"}}


def test_no_tasks_are_refused() -> None:
    with pytest.raises(InvalidRow, match="no tasks"):
        trl_dataset([])


def test_messages_hold_text_and_developer_becomes_system() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    items = Task.from_row(
        {
            "responses_create_params": {
                "input": [
                    {"role": "developer", "content": "rules"},
                    {"role": "user", "content": parts},
                    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "1", "output": "ok"},
                ]
            }
        }
    ).input
    assert prompt_messages(items) == [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "f({})"},
        {"role": "tool", "content": "ok"},
    ]
