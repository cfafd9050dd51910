from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from gym_adapters.errors import UsageError
from gym_adapters.items import (
    FunctionTool,
    Item,
    assistant_message,
    function_call,
    reasoning,
)
from gym_adapters.tokens.formats import FORMATS
from gym_adapters.tokens.output_parser import FormatParser, detect_format, output_parser

MARKS = tuple(dict.fromkeys(mark for build in FORMATS.values() for mark in build().markers))


@pytest.fixture
def marked(build: Callable[..., Any]) -> Any:
    """A tokenizer that has every format's marks as added tokens."""
    return build(plain_added=MARKS)


def read(tokenizer: Any, family: str, text: str, **options: Any) -> list[Item]:
    parser = output_parser(tokenizer, family)
    parser.starts_thinking = options.pop("starts_thinking", False)
    if "tools" in options:
        parser = parser.for_tools(options.pop("tools"))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    options.setdefault("finish_reason", "stop")
    return parser.parse(ids, call_id_prefix="c", **options)


def call(name: str, arguments: str, n: int = 0) -> Item:
    return function_call(name, arguments, f"c{n}")


def unread(text: str) -> Item:
    """Text that should have been a call."""
    return {**assistant_message(text), "status": "incomplete"}


CASES: list[tuple[str, str, list[Item]]] = [
    ("hermes", "hi<|im_end|>", [assistant_message("hi")]),
    ("hermes", "<|im_end|>", []),
    ("hermes", "", []),
    ("hermes", " spaced \n<|im_end|>", [assistant_message(" spaced \n")]),
    (
        "hermes",
        '<tool_call>\n{"name": "f", "arguments": {"a":  1}}\n</tool_call><|im_end|>',
        [call("f", '{"a":  1}')],
    ),
    (
        "hermes",
        (
            '<think>\nhm\n</think>\n\nOK.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n'
            '<tool_call>{"arguments": {"b": 2}, "name": "g"}</tool_call>'
        ),
        [reasoning("hm"), assistant_message("OK."), call("f", "{}"), call("g", '{"b": 2}', 1)],
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>',
        [call("f", '{"a": 1,}')],
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "x}</tool_call>done',
        [call("f", '{"a": "x'), assistant_message("done")],
    ),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', [call("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "s"}</tool_call>', [call("f", '"s"')]),
    (
        "hermes",
        "a<tool_call>nonsense</tool_call>b",
        [unread("a<tool_call>nonsense</tool_call>b")],
    ),
    ("hermes", "<tool_call>[1]</tool_call>", [unread("<tool_call>[1]</tool_call>")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}}', [call("f", "{}")]),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {}}<tool_call>{"name": "g", "arguments": {}}',
        [call("f", "{}"), call("g", "{}", 1)],
    ),
    ("hermes", "thought</think>answer", [reasoning("thought"), assistant_message("answer")]),
    ("hermes", "<think>never closed", [reasoning("never closed")]),
    ("hermes", "<think>\n\n</think>\n\nyes", [assistant_message("yes")]),
    (
        "hermes",
        '<think><tool_call>{"name": "f", "arguments": {}}</tool_call></think>no',
        [
            reasoning('<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
            assistant_message("no"),
        ],
    ),
    ("hermes", "</tool_call>x", [unread("</tool_call>x")]),
    (
        "qwen_xml",
        (
            "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\ntwo\nlines\n"
            "</parameter>\n</function>\n</tool_call>"
        ),
        [call("f", '{"a": 1, "b": "two\\nlines"}')],
    ),
    ("qwen_xml", "<tool_call><function=f></function></tool_call>", [call("f", "{}")]),
    (
        "qwen_xml",
        "<tool_call><function=f><parameter=a>1</function></tool_call>",
        [unread("<tool_call><function=f><parameter=a>1</function></tool_call>")],
    ),
    (
        "glm",
        (
            "\n<think>hm</think>\n<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x y</arg_value>\n"
            "<arg_key>b</arg_key>\n<arg_value>[1, 2]</arg_value>\n</tool_call>"
        ),
        [reasoning("hm"), call("f", '{"a": "x y", "b": [1, 2]}')],
    ),
    ("glm", "<tool_call>f\n</tool_call>", [call("f", "{}")]),
    (
        "glm",
        "<tool_call>not a name</tool_call>",
        [unread("<tool_call>not a name</tool_call>")],
    ),
    ("llama_json", '{"name": "f", "parameters": {"a": 1}}', [call("f", '{"a": 1}')]),
    (
        "llama_json",
        'Sure.<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        [assistant_message("Sure."), call("f", "{}"), call("g", "{}", 1)],
    ),
    ("llama_json", '{"name": "f", "parameters": {"a": }}', [call("f", '{"a": }')]),
    ("llama_json", '{"answer": 42}', [assistant_message('{"answer": 42}')]),
    ("llama_json", "plain", [assistant_message("plain")]),
    ("pythonic", '[f(a=1, b="x"), g()]', [call("f", '{"a": 1, "b": "x"}'), call("g", "{}", 1)]),
    (
        "pythonic",
        "<|tool_call_start|>[f(a=[1, -2.5], b={'k': None, 'l': True})]<|tool_call_end|>ok",
        [
            call("f", '{"a": [1, -2.5], "b": {"k": null, "l": true}}'),
            assistant_message("ok"),
        ],
    ),
    ("pythonic", "[1, 2]", [assistant_message("[1, 2]")]),
    ("pythonic", "f(x)", [assistant_message("f(x)")]),
    ("pythonic", "[f(a='it\\'s\\n')]", [call("f", '{"a": "it\'s\\n"}')]),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "f", "arguments": {"a":1}}, {"name": "g", "arguments": {}}]',
        [call("f", '{"a":1}'), call("g", "{}", 1)],
    ),
    (
        "mistral",
        'Hm.[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}',
        [assistant_message("Hm."), call("f", '{"a": 1}'), call("g", "{}", 1)],
    ),
    ("mistral", "[THINK]hm[/THINK]yes", [reasoning("hm"), assistant_message("yes")]),
    ("mistral", "[TOOL_CALLS]oh no", [unread("[TOOL_CALLS]oh no")]),
    (
        "harmony",
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary "
            'to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'
        ),
        [reasoning("hm"), call("f", '{"a": 1}')],
    ),
    (
        "harmony",
        (
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.g"
            "<|channel|>commentary json<|message|>{}<|call|>"
        ),
        [assistant_message("I look."), call("g", "{}")],
    ),
    (
        "harmony",
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>42"
            "<|return|>"
        ),
        [reasoning("hm"), assistant_message("42")],
    ),
    ("harmony", "no channel at all", [assistant_message("no channel at all")]),
    (
        "deepseek",
        (
            "hm</think>OK<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
            '{"a": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n'
            "```json\n"
            "{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        [reasoning("hm"), assistant_message("OK"), call("f", '{"a": 1}'), call("g", "{}", 1)],
    ),
    (
        "deepseek",
        '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>',
        [call("f", '{"a": 1}')],
    ),
    (
        "kimi",
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
            '{"a": 1}<|tool_call_end|><|tool_calls_section_end|>'
        ),
        [call("f", '{"a": 1}')],
    ),
    ("plain", "<think>hm</think>yes", [reasoning("hm"), assistant_message("yes")]),
    ("plain", "<tool_call>x</tool_call>", [assistant_message("<tool_call>x</tool_call>")]),
]


@pytest.mark.parametrize(("family", "text", "expected"), CASES)
@pytest.mark.parametrize("tokens", ["control tokens", "plain text"])
def test_a_turn_becomes_its_items(
    marked: Any, tokenizer: Any, tokens: str, family: str, text: str, expected: list[Item]
) -> None:
    chosen = marked if tokens == "control tokens" else tokenizer
    assert read(chosen, family, text) == expected


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}'),
        ("qwen_xml", "<tool_call><function=f></function>"),
        ("glm", "<tool_call>f"),
        ("llama_json", '{"name": "f", "parameters": {"a": 1'),
        ("pythonic", "[f(a=1"),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": '),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}'),
        ("harmony", "to=functions.f<|channel|>commentary<|message|>{"),
        ("deepseek", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"),
    ],
)
def test_a_call_cut_by_its_budget_stays_text_and_says_so(
    marked: Any, family: str, text: str
) -> None:
    assert read(marked, family, text, finish_reason="length") == [unread(text)]


def test_marks_spelled_in_text_are_text_where_the_tokenizer_has_the_mark(
    marked: Any, tokenizer: Any
) -> None:
    spelled = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    ids = tokenizer(spelled, add_special_tokens=False)["input_ids"]
    parser = output_parser(marked, "hermes")
    items = parser.parse(ids, finish_reason="stop", call_id_prefix="c")
    assert items == [assistant_message(spelled)]


def test_a_prompt_that_opens_the_thinking_makes_the_first_text_thinking(marked: Any) -> None:
    assert read(marked, "hermes", "hm</think>yes", starts_thinking=True) == [
        reasoning("hm"),
        assistant_message("yes"),
    ]
    cut = read(marked, "hermes", "hm", starts_thinking=True, finish_reason="length")
    assert cut == [reasoning("hm")]
    twice = read(marked, "hermes", "<think>hm</think>yes", starts_thinking=True)
    assert twice == [reasoning("hm"), assistant_message("yes")]


def test_whether_the_prompt_opens_the_thinking_is_read_off_the_template(
    build: Callable[..., Any],
) -> None:
    template = "{{ messages[0].content }}{% if deep %}<think>\n{% endif %}"
    assert output_parser(build(template), template_kwargs={"deep": True}).starts_thinking
    assert not output_parser(build(template)).starts_thinking


def test_formats_without_types_read_arguments_by_the_tools_schema(marked: Any) -> None:
    tool: FunctionTool = {
        "type": "function",
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "number": {"type": "integer"},
                "choice": {"enum": ["1", "2"]},
                "either": {"type": ["integer", "null"]},
            },
        },
    }
    text = "<tool_call><function=f>" + "".join(
        f"<parameter={k}>\n{v}\n</parameter>"
        for k, v in [
            ("text", "12"),
            ("number", "12"),
            ("choice", "1"),
            ("either", "null"),
            ("unknown", "3"),
        ]
    )
    (item,) = read(marked, "qwen_xml", text + "</function></tool_call>", tools=[tool])
    assert item["type"] == "function_call"
    assert json.loads(item["arguments"]) == {
        "text": "12",
        "number": 12,
        "choice": "1",
        "either": None,
        "unknown": "3",
    }


def test_a_stop_id_past_a_cut_turn_is_kept_as_text(tokenizer: Any) -> None:
    items = read(tokenizer, "hermes", "a<|im_start|>", finish_reason="length")
    assert items == [assistant_message("a<|im_start|>")]


def test_an_unknown_format_is_refused_by_name(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="No output format 'hermess'"):
        output_parser(tokenizer, "hermess")


def test_a_format_of_ones_own_can_be_given(tokenizer: Any) -> None:
    parser = output_parser(tokenizer, FORMATS["mistral"]())
    assert isinstance(parser, FormatParser)
    assert parser.format.name == "mistral"


def test_the_format_of_the_test_template_is_detected(tokenizer: Any) -> None:
    assert detect_format(tokenizer) == "hermes"
    tokenizer.chat_template = "{{ messages }}"
    assert detect_format(tokenizer) == "plain"


FRAGMENTS = st.one_of(
    st.sampled_from(
        [
            *MARKS,
            *('{"name": "f", "arguments": ', '{"name": "f", "parameters": {', "}}", "[f(a=", ")]"),
            *("<function=f>", "<parameter=a>", "</parameter>", "</function>", "```json", "to="),
            *("[[[[[[", "{{{{{{", '"\\', "\\u", "'", "-", "1e9", "analysis", "functions.f"),
        ]
    ),
    st.text(max_size=5),
)


@pytest.mark.parametrize("family", sorted(FORMATS))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(FRAGMENTS, max_size=10),
    tail=st.lists(st.integers(0, 2**33), max_size=6),
    stopped=st.booleans(),
)
def test_no_ids_whatever_make_a_parser_raise(
    marked: Any, family: str, parts: list[str], tail: list[int], stopped: bool
) -> None:
    text = "".join(parts).encode("utf-8", "replace").decode()
    ids = [*marked(text, add_special_tokens=False)["input_ids"], *tail]
    items = output_parser(marked, family).parse(
        ids, finish_reason="stop" if stopped else "length", call_id_prefix="c"
    )
    assert all(item["type"] in ("message", "reasoning", "function_call") for item in items)
    calls = [item["call_id"] for item in items if item["type"] == "function_call"]
    assert calls == [f"c{n}" for n in range(len(calls))]


@pytest.mark.parametrize("family", sorted(FORMATS))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, 255), max_size=12))
def test_halves_of_characters_become_text(marked: Any, family: str, ids: list[int]) -> None:
    items = output_parser(marked, family).parse(ids, finish_reason="length", call_id_prefix="c")
    assert [item["type"] for item in items] == (["message"] if ids else [])


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": ' + "[" * 100_000 + "</tool_call>"),
        ("hermes", "<tool_call>" * 20_000),
        ("hermes", '<tool_call>{"name": "' + "\\" * 100_001 + "</tool_call>"),
        ("hermes", '<tool_call>{"name": "f", "arguments": ' + "9" * 100_000 + "}</tool_call>"),
        ("llama_json", '{"name": "f", "parameters": {}};' * 5_000),
        ("llama_json", "{" * 100_000),
        ("llama_json", "[" * 900 + "]" * 900),
        ("pythonic", "[f(a=" + "[" * 100_000),
        ("pythonic", "[f(a=" + "9" * 100_000 + ")]"),
        ("qwen_xml", "<tool_call>" + "<parameter=" * 20_000 + "</tool_call>"),
        ("glm", "<tool_call>f" + "<arg_key>" * 20_000 + "</tool_call>"),
        ("harmony", "<|start|>" * 20_000),
    ],
)
def test_hostile_lengths_neither_raise_nor_hang(marked: Any, family: str, text: str) -> None:
    assert all(item["type"] for item in read(marked, family, text))
