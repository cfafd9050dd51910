"""The tiny tokenizer writes and reads the chat format that trainers expect of a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("transformers", reason="needs the transformers extra")

import transformers

from gym_adapters.items import (
    FunctionTool,
    Item,
    assistant_message,
    function_call,
    function_call_output,
    message,
    reasoning,
    user_message,
)
from gym_adapters.testing.tiny_tokenizer import CONTROL_TOKENS, tiny_tokenizer
from gym_adapters.tokens.chat_messages import MessageDialect, template_tools

TOKENIZER: Any = tiny_tokenizer()
ADD: FunctionTool = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}},
}
TURNS: list[Item] = [
    message("system", "Be brief."),
    user_message("What is 7 + 5?"),
    reasoning("easy"),
    function_call("add", '{"a": 7, "b": 5}', "call_0"),
    function_call_output("call_0", "12"),
    assistant_message("12"),
]
RENDERED = (
    "<|im_start|>system\nBe brief.\nTools: add(a, b)<|im_end|>\n"
    "<|im_start|>user\nWhat is 7 + 5?<|im_end|>\n"
    "<|im_start|>assistant\n<think>\neasy\n</think>\n"
    '<tool_call>\n{"name": "add", "arguments": {"a": 7, "b": 5}}\n</tool_call><|im_end|>\n'
    "<|im_start|>user\n<tool_response>\n12\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n12<|im_end|>\n"
)


def render(items: list[Item], tools: list[FunctionTool], **options: Any) -> str:
    text = TOKENIZER.apply_chat_template(
        MessageDialect().messages(items), tools=template_tools(tools), tokenize=False, **options
    )
    assert isinstance(text, str)
    return text


def ids_of(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_round_trips_one_token_a_byte(text: str) -> None:
    if any(token in text for token in CONTROL_TOKENS):
        return
    ids = ids_of(text)
    assert len(ids) == len(text.encode("utf-8", "surrogatepass"))
    assert TOKENIZER.decode(ids) == text


def test_each_control_word_is_one_token_and_the_vocabulary_has_nothing_else() -> None:
    assert [len(ids_of(token)) for token in CONTROL_TOKENS] == [1] * len(CONTROL_TOKENS)
    assert len(TOKENIZER) == 256 + len(CONTROL_TOKENS)
    assert TOKENIZER.eos_token_id == ids_of("<|im_end|>")[0]
    assert TOKENIZER.pad_token_id == ids_of("<|pad|>")[0] != TOKENIZER.eos_token_id


def test_tool_marks_survive_decoding_without_special_tokens() -> None:
    text = "<|im_start|><think></think><tool_call>{}</tool_call><|im_end|><|pad|>"
    assert (
        TOKENIZER.decode(ids_of(text), skip_special_tokens=True)
        == "<think></think><tool_call>{}</tool_call>"
    )


def test_a_conversation_with_tools_renders_as_qwen_writes_it_with_compact_tools() -> None:
    assert render(TURNS, [ADD]) == RENDERED


def test_without_tools_or_system_text_there_is_no_system_turn() -> None:
    assert render([user_message("hi")], [], add_generation_prompt=True) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_in_responses_shape_render_alike() -> None:
    messages = MessageDialect().messages(TURNS)
    assert TOKENIZER.apply_chat_template(messages, tools=[dict(ADD)], tokenize=False) == RENDERED


@pytest.mark.parametrize("length", range(2, len(MessageDialect().messages(TURNS))))
def test_every_prefix_of_a_conversation_renders_to_a_prefix(length: int) -> None:
    messages = MessageDialect().messages(TURNS)[:length]
    text = TOKENIZER.apply_chat_template(messages, tools=[dict(ADD)], tokenize=False)
    assert isinstance(text, str)
    assert RENDERED.startswith(text)


def test_the_assistant_mask_covers_each_sampled_turn_and_its_end() -> None:
    encoded = TOKENIZER.apply_chat_template(
        MessageDialect().messages(TURNS),
        tools=[dict(ADD)],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    assert TOKENIZER.decode([i for i, m in zip(ids, mask, strict=True) if m]) == (
        "<think>\neasy\n</think>\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 7, "b": 5}}\n</tool_call><|im_end|>'
        "12<|im_end|>"
    )


def test_arguments_that_are_not_json_render_verbatim() -> None:
    items: list[Item] = [user_message("x"), function_call("add", '{"a": 7,', "call_0")]
    assert '"arguments": {"a": 7,}\n</tool_call>' in render(items, [])


def test_parse_response_reads_back_reasoning_text_and_calls() -> None:
    text = (
        "<think>\nhm\n</think>\nLet me add.\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 7, "b": 5}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call><|im_end|>'
    )
    assert TOKENIZER.parse_response(ids_of(text)) == {
        "role": "assistant",
        "reasoning_content": "hm",
        "content": "Let me add.",
        "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": {"a": 7, "b": 5}}},
            {"type": "function", "function": {"name": "add", "arguments": {}}},
        ],
    }
    assert TOKENIZER.parse_response(ids_of("12<|im_end|>")) == {
        "role": "assistant",
        "content": "12",
    }


def test_it_survives_a_save_and_a_load(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == TOKENIZER.chat_template
    assert loaded.response_schema == TOKENIZER.response_schema
    assert loaded(RENDERED)["input_ids"] == ids_of(RENDERED)
    assert (loaded.eos_token_id, loaded.pad_token_id, len(loaded)) == (
        TOKENIZER.eos_token_id,
        TOKENIZER.pad_token_id,
        len(TOKENIZER),
    )


def test_trl_accepts_the_template_for_training_with_tools() -> None:
    trl = pytest.importorskip("trl.chat_template_utils", reason="needs the trl extra")
    assert trl.supports_tool_calling(TOKENIZER)
    assert trl.is_chat_template_prefix_preserving(TOKENIZER)
    assert trl.is_chat_template_stop_token_trained(TOKENIZER)
    assert trl.has_generation_markers(TOKENIZER.chat_template)
