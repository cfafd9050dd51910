from __future__ import annotations

import json

from gym_adapters.adapters.trl.completions import assistant_items, completion_items

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 10**30}}}


def kinds(items: list) -> list[str]:  # type: ignore[type-arg]
    return [item["type"] for item in items]


def test_reasoning_text_and_calls_become_items_in_this_order() -> None:
    items = assistant_items(
        {"role": "assistant", "content": "so", "reasoning_content": "hm", "tool_calls": [CALL]}
    )
    assert kinds(items) == ["reasoning", "message", "function_call"]
    assert items[2]["call_id"] == "call_0"
    assert json.loads(items[2]["arguments"]) == {"a": 10**30}


def test_a_call_without_text_is_a_call_alone_and_silence_is_an_empty_message() -> None:
    assert kinds(assistant_items({"content": "", "tool_calls": [CALL]})) == ["function_call"]
    assert kinds(assistant_items({"content": None})) == ["message"]


def test_arguments_that_are_text_stay_as_written() -> None:
    call = {"function": {"name": "add", "arguments": "{broken"}}
    assert assistant_items({"tool_calls": [call]})[0]["arguments"] == "{broken"


def test_results_follow_their_calls() -> None:
    items = completion_items(
        [
            {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
            {"role": "tool", "name": "add", "content": "1"},
            {"role": "tool", "name": "add", "content": "2"},
            {"role": "assistant", "content": "done"},
        ]
    )
    assert kinds(items) == [
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
    ]
    assert [items[0]["call_id"], items[1]["call_id"]] == [items[2]["call_id"], items[3]["call_id"]]
    assert items[0]["call_id"] != items[1]["call_id"]
