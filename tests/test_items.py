"""Items of the Responses API: made, read and refused."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from gym_adapters.errors import InvalidRow
from gym_adapters.items import (
    Item,
    assistant_message,
    check_items,
    final_text,
    function_call,
    function_call_output,
    input_items,
    item_text,
    message,
    reasoning,
    user_message,
)


def test_what_is_made_here_passes_the_check() -> None:
    made = [
        message("system", "be brief"),
        user_message("hi"),
        reasoning("hm"),
        function_call("f", "{}", "call_0"),
        function_call_output("call_0", "1"),
        assistant_message("one"),
    ]
    check_items(made, "input")


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (user_message("hi"), "hi"),
        (assistant_message("hello"), "hello"),
        (reasoning("hm"), "hm"),
        (function_call("f", "{}", "c"), ""),
        (function_call_output("c", "out"), ""),
        (
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "image_url": "data:,"},
                    {"type": "input_text", "text": None},
                    {"type": "refusal", "refusal": "b"},
                ],
            },
            "ab",
        ),
        ({"type": "reasoning", "summary": [], "content": None}, ""),
    ],
)
def test_the_text_of_an_item(item: Any, text: str) -> None:
    assert item_text(item) == text


CALL = function_call("f", "{}", "c")
RESULT = function_call_output("c", "1")


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([], ""),
        ([assistant_message("a")], "a"),
        ([assistant_message("a"), assistant_message("b")], "b"),
        ([assistant_message("a"), reasoning("hm")], "a"),
        ([assistant_message("a"), CALL], ""),
        ([assistant_message("a"), CALL, RESULT], ""),
        ([assistant_message("a"), CALL, RESULT, assistant_message("b")], "b"),
        ([assistant_message("a"), user_message("and?")], ""),
        ([reasoning("hm")], ""),
        ([cast("Item", {"role": "assistant", "content": "bare"})], "bare"),
    ],
)
def test_the_final_text_is_that_of_the_last_message_with_nothing_after_it(
    items: list[Item], text: str
) -> None:
    assert final_text(items) == text


def test_input_items_from_text_and_from_bare_messages() -> None:
    assert input_items("hi") == [user_message("hi")]
    given = [{"role": "user", "content": "hi"}]
    assert input_items(given) == [user_message("hi")]
    assert given == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("item", "field", "problem"),
    [
        ("hi", "input[1]", "must be an object"),
        ({"type": "nope"}, "input[1].type", "unknown item type"),
        ({"type": []}, "input[1].type", "unknown item type"),
        ({"role": "user"}, "input[1].content", "absent"),
        ({"role": "user", "content": 1}, "input[1].content", "not int"),
        ({"role": "tool", "content": "x"}, "input[1].role", "unknown role 'tool'"),
        ({"role": "user", "content": ["x"]}, "input[1].content[0]", "object with a type"),
        ({"role": "user", "content": [{"text": "x"}]}, "input[1].content[0]", "with a type"),
        (
            {"role": "user", "content": [{"type": "input_text", "text": 5}]},
            "input[1].content[0].text",
            "not int",
        ),
        (
            {"type": "function_call", "name": "f", "call_id": "c", "arguments": {}},
            "input[1].arguments",
            "not dict",
        ),
        ({"type": "function_call_output", "call_id": "c"}, "input[1].output", "absent"),
    ],
)
def test_a_bad_item_is_refused_by_position_and_field(item: Any, field: str, problem: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        check_items([{"role": "user", "content": "fine"}, item], "input")
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert caught.value.fix


NAMES = ["message", "function_call", "function_call_output", "reasoning", "user", "system", "x"]
VALUES = st.recursive(
    st.none() | st.integers() | st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "text"]), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = ["type", "role", "content", "call_id", "name", "arguments", "output", "summary"]


def well_formed(item: Any) -> bool:
    """Whether `check_items` takes one item, said without haste."""
    if not isinstance(item, dict):
        return False
    kind, content = item.get("type", "message"), item.get("content")
    if kind == "message":
        if item.get("role") not in ["system", "developer", "user", "assistant"]:
            return False
        parts = content if isinstance(content, list) else []
        return isinstance(content, str | list) and all(
            isinstance(part, dict)
            and isinstance(part.get("type"), str)
            and isinstance(part.get("text"), str | None)
            for part in parts
        )
    texts = {
        "function_call": ["call_id", "name", "arguments"],
        "function_call_output": ["call_id", "output"],
    }
    if kind == "reasoning":
        return isinstance(item.get("summary"), list)
    return (
        isinstance(kind, str)
        and kind in texts
        and all(isinstance(item.get(key), str) for key in texts[kind])
    )


@given(items=st.lists(VALUES | st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=2)))
def test_what_is_refused_is_what_is_not_well_formed(items: list[Any]) -> None:
    bad = [place for place, item in enumerate(items) if not well_formed(item)]
    if not bad:
        check_items(items, "input")
        return
    with pytest.raises(InvalidRow) as caught:
        check_items(items, "input")
    assert caught.value.field.startswith(f"input[{bad[0]}]")
