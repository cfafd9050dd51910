"""Real chat templates, each in eight kinds of conversation: what is kept, and what is told."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gym_adapters.errors import Unsupported
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel, TokenChatSession
from gym_adapters.items import (
    FunctionTool,
    Item,
    assistant_message,
    function_call,
    function_call_output,
    message,
    reasoning,
)
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import (
    TemplateRefuses,
    TemplateRenderer,
    TemplateRewritesHistory,
)
from gym_adapters.tokens.template_report import probe

Messages = list[dict[str, Any]]

# Written after the models' published formats.
MISTRAL = (
    (
        "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}"
        "{% if tools and loop.index0 == ns_last(messages) %}"
        "[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "[INST]{{ m.content }}[/INST]"
        "{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}"
        "{{ raise_exception('call ids have nine characters') }}{% endif %}"
        '[TOOL_RESULTS]{"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}'
        "[/TOOL_RESULTS]"
        "{% elif m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, '
        '"id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]</s>'
        "{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    .replace(
        "{% for m in messages %}",
        "{% set ns = namespace(last=-1) %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
        "{% endfor %}{% for m in messages %}",
        1,
    )
    .replace("ns_last(messages)", "ns.last")
)
KIMI = (
    "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}<|im_system|>system<|im_middle|>"
    "{% elif m.role == 'user' %}<|im_user|>user<|im_middle|>"
    "{% elif m.role == 'assistant' %}<|im_assistant|>assistant<|im_middle|>"
    "{% else %}<|im_system|>tool<|im_middle|>## Return of {{ m.tool_call_id }}{{ '\\n' }}"
    "{% endif %}{{ m.content }}"
    "{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}"
    "<|tool_call_begin|>functions.{{ c.function.name }}:{{ loop.index0 }}"
    "<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>"
    "{% endfor %}<|tool_calls_section_end|>{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
)


@dataclass(frozen=True)
class Case:
    """A template, and what is to be found.

    `outcome` gives for each kind of conversation what becomes of every assistant turn: ``k``
    (kept), ``r`` (rewritten) or ``-`` (can't be expressed). `user` and `tool` are what follows a
    turn, written by hand: the turn's end first.
    """

    file: str
    sha256: str
    eos: str
    outcome: Mapping[str, str]
    user: str
    tool: str = ""
    thinking_key: str | None = "reasoning_content"
    source: str = ""


CHATML_USER = "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
QWEN_TOOL = (
    "<|im_end|>\n<|im_start|>user\n<tool_response>\nresult 1\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n"
)
KINDS = (
    "plain",
    "system",
    "multi-turn",
    "one tool",
    "parallel tools",
    "thinking",
    "tool then user",
    "unicode",
    "thinking and tool",
)


def outcome(text: str) -> dict[str, str]:
    """``k k kk k k r kk k k``: one word for each kind of conversation."""
    return dict(zip(KINDS, text.split(), strict=True))


ALL_KEPT = outcome("k k kk k k k kk k k")
NO_TOOLS = outcome("k k kk - - k - k -")
FORGETS_THINKING = outcome("k k kk k k r kk k k")

CASES = {
    "qwen2.5": Case(
        "trl/chat_templates/qwen2_5.jinja",
        "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f",
        "<|im_end|>",
        ALL_KEPT,
        CHATML_USER,
        QWEN_TOOL,
        None,
    ),
    "qwen3": Case(
        "trl/chat_templates/qwen3.jinja",
        "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8",
        "<|im_end|>",
        FORGETS_THINKING,
        CHATML_USER,
        QWEN_TOOL,
    ),
    "qwen3 2507": Case(
        "trl/chat_templates/qwen3_instruct_2507.jinja",
        "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326",
        "<|im_end|>",
        ALL_KEPT,
        CHATML_USER,
        QWEN_TOOL,
        None,
    ),
    "qwen3.5": Case(
        "trl/chat_templates/qwen3_5_think.jinja",
        "a4aee8afcf2e0711942cf848899be66016f8d14a889ff9ede07bca099c28f715",
        "<|im_end|>",
        outcome("r r rr k k r kr r k"),
        "",
        QWEN_TOOL + "<think>\n",
    ),
    "qwen3.8": Case(
        "trl/chat_templates/qwen3_8.jinja",
        "c3cf9e34abf4f9e36c2d72165aa9c132d3e2a725b6c2586aaa3a8af9d7a81041",
        "<|im_end|>",
        ALL_KEPT,
        CHATML_USER + "<think>\n",
        QWEN_TOOL + "<think>\n",
    ),
    "llama 3.1": Case(
        "trl/chat_templates/llama3_1.jinja",
        "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65",
        "<|eot_id|>",
        outcome("k k kk k - k kk k r"),
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        '<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n"result 1"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        None,
    ),
    "gpt-oss": Case(
        "trl/chat_templates/gptoss.jinja",
        "a4c9919cbbd4acdd51ccffe22da049264b1b73e59055fa58811a99efbd7c8146",
        "<|return|>",
        outcome("k k kk k - r kk k k"),
        "<|end|><|start|>user<|message|>Bye<|end|><|start|>assistant",
        "<|call|><|start|>functions.add to=assistant<|channel|>commentary<|message|>"
        '"result 1"<|end|><|start|>assistant',
        "thinking",
    ),
    "glm 4.5": Case(
        "trl/chat_templates/glm4moe.jinja",
        "44f815868bf02fa458dd2f741a338046f4bf45f398eb6d067766726b9d96cce3",
        "<|endoftext|>",
        FORGETS_THINKING,
        "<|user|>\nBye<|assistant|>",
        "<|observation|>\n<tool_response>\nresult 1\n</tool_response><|assistant|>",
    ),
    "lfm2": Case(
        "trl/chat_templates/lfm2_v2.jinja",
        "5504d163d879bfb6fd4135b7fa3d56768b2e69dd718338f7b146750289f46ab0",
        "<|im_end|>",
        ALL_KEPT,
        CHATML_USER,
        "<|im_end|>\n<|im_start|>tool\n<|tool_response_start|>result 1<|tool_response_end|>"
        "<|im_end|>\n<|im_start|>assistant\n",
        None,
    ),
    "phi 3": Case(
        "trl/chat_templates/phi3.jinja",
        "dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa",
        "<|endoftext|>",
        NO_TOOLS,
        "<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n",
        thinking_key=None,
    ),
    "gemma 3": Case(
        "trl/chat_templates/gemma3.jinja",
        "7de1c58e208eda46e9c7f86397df37ec49883aeece39fb961e0a6b24088dd3c4",
        "<end_of_turn>",
        NO_TOOLS,
        "<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
        thinking_key=None,
    ),
    "gemma": Case(
        "trl/chat_templates/gemma.jinja",
        "ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6",
        "<end_of_turn>",
        outcome("k - kk - - k - k -"),
        "<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
        thinking_key=None,
    ),
    "aya": Case(
        "trl/chat_templates/cohere2.jinja",
        "2147c474f41b522b7296f74692b9f31e45f49a31465960576a9d321339c5915a",
        "<|END_OF_TURN_TOKEN|>",
        NO_TOOLS,
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Bye<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>",
        thinking_key=None,
    ),
    "deepseek v3": Case(
        "trl/chat_templates/deepseekv3.jinja",
        "563b1ce7d61d50a9b4c7439a912a1116f095b712df5b5e4d3e1116049874eb64",
        "<｜end▁of▁sentence｜>",
        outcome("r r rr - - r - r -"),
        "",
        thinking_key=None,
    ),
    "nemotron 3": Case(
        "trl/chat_templates/nemotron_3_nano.jinja",
        "ab7813c3abdd9cb655905a410728b26c7884eca45ddfab8d9f931553485a7862",
        "<|im_end|>",
        outcome("r r rr r r r rr r k"),
        "",
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nresult 1\n</tool_response>\n<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n",
    ),
    "chatml": Case(
        "vllm/transformers_utils/chat_templates/template_chatml.jinja",
        "08ac4259ffca7a633f0e7b55ef41dfd3758d903bf1ce7a25c96fb4dd2249c39e",
        "<|im_end|>",
        NO_TOOLS,
        CHATML_USER,
        thinking_key=None,
    ),
    "mistral": Case(
        "",
        "",
        "</s>",
        outcome("k - kk k k k kr k r"),
        "</s>[INST]Bye[/INST]",
        '</s>[TOOL_RESULTS]{"content": "result 1", "call_id": "call00001"}[/TOOL_RESULTS]',
        None,
        source=MISTRAL,
    ),
    "kimi k2": Case(
        "",
        "",
        "<|im_end|>",
        ALL_KEPT,
        "<|im_end|><|im_user|>user<|im_middle|>Bye<|im_end|><|im_assistant|>assistant<|im_middle|>",
        "<|im_end|><|im_system|>tool<|im_middle|>## Return of call00001\nresult 1<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>",
        None,
        source=KIMI,
    ),
}

TOOL: FunctionTool = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "required": ["a"],
    },
}


def say(role: str, text: str, **rest: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **rest}


def call(*numbers: int, **rest: Any) -> dict[str, Any]:
    calls = [
        {
            "id": f"call0000{n}",
            "type": "function",
            "function": {"name": "add", "arguments": {"a": n, "b": "x"}},
        }
        for n in numbers
    ]
    return say("assistant", "", tool_calls=calls, **rest)


def result(n: int) -> dict[str, Any]:
    return say("tool", f"result {n}", tool_call_id=f"call0000{n}", name="add")


# The messages of a conversation; every assistant message but the first opens what is appended.
CONVERSATIONS: dict[str, Messages] = {
    "plain": [say("user", "Hi"), say("assistant", "Hello."), say("user", "Bye")],
    "system": [
        say("system", "Be brief."),
        *(say("user", "Hi"), say("assistant", "Hello."), say("user", "Bye")),
    ],
    "multi-turn": [
        *(say("user", "Hi"), say("assistant", "Hello."), say("user", "Bye")),
        *(say("assistant", "Wait."), say("user", "What?")),
    ],
    "one tool": [say("user", "Hi"), call(1), result(1)],
    "parallel tools": [say("user", "Hi"), call(1, 2), result(1), result(2)],
    "thinking": [say("user", "Hi"), say("assistant", "Hello.", thought="Hmm."), say("user", "Bye")],
    "tool then user": [
        *(say("user", "Hi"), call(1), result(1)),
        *(say("assistant", "One."), say("user", "Bye")),
    ],
    "unicode": [say("user", "Grüße 你好 🙂"), say("assistant", "ñ 🙂"), say("user", "e\u0301…")],
    "thinking and tool": [say("user", "Hi"), call(1, thought="Hmm."), result(1)],
}
CONTROL = re.compile(
    r"<[|｜][^|｜<>{}\s]{1,40}[|｜]>|</?(?:s|tool_call|think|tool_response|arg_key|arg_value|"
    r"start_of_turn|end_of_turn|sop)>|\[/?[A-Z_]{4,}\]|\[gMASK\]"
)
# Line breaks that merge: a delta tokenised apart from its surroundings would show.
MERGES = [("Ċ", "Ċ"), ("Ġ", "r"), ("r", "e"), ("s", "s"), ("i", "s"), ("e", "r"), ("l", "l")]


def items_of(messages: Sequence[Mapping[str, Any]]) -> list[Item]:
    items: list[Item] = []
    for entry in messages:
        if entry["role"] == "tool":
            items.append(function_call_output(entry["tool_call_id"], entry["content"]))
        elif entry["role"] != "assistant":
            items.append(message(entry["role"], entry["content"]))
        else:
            if "thought" in entry:
                items.append(reasoning(entry["thought"]))
            if entry["content"]:
                items.append(assistant_message(entry["content"]))
            for called in entry.get("tool_calls", ()):
                function = called["function"]
                arguments = json.dumps(function["arguments"])
                items.append(function_call(function["name"], arguments, called["id"]))
    return items


def turns(messages: Messages) -> list[tuple[Messages, Messages, Messages]]:
    """Before each assistant message, that message, and what follows it up to the next."""
    at = [n for n, entry in enumerate(messages) if entry["role"] == "assistant"]
    ends = [*at[1:], len(messages)]
    return [
        (messages[:n], [messages[n]], messages[n + 1 : end])
        for n, end in zip(at, ends, strict=True)
    ]


def one_call_at_most(setup: Setup) -> bool:
    return probe(setup.tokenizer).verdict("parallel tool calls") == "refused"


def template_source(case: Case) -> str:
    if case.source:
        return case.source
    package, _, path = case.file.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs {package}, which ships this template")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        pytest.skip(f"this version of {package} ships no {path}")
    text = file.read_text(encoding="utf-8")
    if hashlib.sha256(text.encode()).hexdigest() != case.sha256:
        pytest.skip(f"this version of {package} ships another {path}")
    return text


def shipped_sha256(case: Case) -> str | None:
    package, _, path = case.file.partition("/")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    file = Path(folders[0]) / path if folders else None
    if file is None or not file.is_file():
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass
class Setup:
    """One case with its tokenizer and renderer."""

    case: Case
    tokenizer: Any
    renderer: TemplateRenderer

    @property
    def opens_thinking(self) -> bool:
        return self.case.tool.endswith("<think>\n") or self.case.user.endswith("<think>\n")

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def whole(self, messages: Messages, tools: Sequence[FunctionTool]) -> list[int]:
        """The tokenizer's own rendering and tokenisation, by none of our code."""
        prepared = []
        for entry in messages:
            entry = dict(entry)
            thought = entry.pop("thought", None)
            if thought is not None and self.case.thinking_key:
                entry[self.case.thinking_key] = thought
            elif thought is not None:
                entry["content"] = f"<think>\n{thought}\n</think>\n\n{entry['content']}"
            prepared.append(entry)
        functions = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
            for tool in tools
        ]
        rendered = self.tokenizer.apply_chat_template(
            prepared, tools=functions or None, add_generation_prompt=True, tokenize=True
        )
        return list(rendered["input_ids"])


@pytest.fixture(scope="module")
def setups() -> dict[str, Setup]:
    return {}


@pytest.fixture
def setup(name: str, build: Callable[..., Any], setups: dict[str, Setup]) -> Setup:
    case = CASES[name]
    if name not in setups:
        source = template_source(case)
        control = dict.fromkeys(["<s>", *CONTROL.findall(source), case.eos])
        tokenizer = build(source, tuple(control), merges=MERGES, eos=case.eos)
        tokenizer.bos_token = "<s>"
        setups[name] = Setup(case, tokenizer, TemplateRenderer(tokenizer))
    return setups[name]


def tools_for(kind: str) -> list[FunctionTool]:
    return [TOOL] if "tool" in kind else []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_token_by_token_equals_the_whole_rendering_wherever_history_is_kept(
    setup: Setup, name: str, kind: str
) -> None:
    tools = tools_for(kind)
    found = ""
    for before, turn, after in turns(CONVERSATIONS[kind]):
        history = items_of([*before, *turn])
        try:
            context = setup.renderer.prompt_ids(items_of(before), tools)
            delta = setup.renderer.delta_ids(
                history, items_of(after), last_sampled_id=None, tools=tools
            )
            whole = setup.renderer.prompt_ids(items_of([*before, *turn, *after]), tools)
        except TemplateRewritesHistory:
            found += "r"
            continue
        except (TemplateRefuses, Unsupported):
            found = "-"
            break
        if len(turn[0].get("tool_calls", ())) > 1 and one_call_at_most(setup):
            found += "-"
            break
        found += "k"
        if setup.opens_thinking and "thought" not in turn[0]:
            # The prompt's last line break stays apart from the first that is sampled.
            sampled = setup.tokenizer.decode(whole)
            assert sampled.startswith(setup.tokenizer.decode(context))
            assert whole[len(whole) - len(delta) :] == delta
            continue
        assert whole == setup.whole([*before, *turn, *after], tools)
        assert whole[: len(context)] == context
        assert whole[len(whole) - len(delta) :] == delta
        sampled = setup.tokenizer.decode(whole[len(context) : len(whole) - len(delta)])
        for word in ("thought", "content"):
            assert turn[0].get(word, "") in sampled
        for called in turn[0].get("tool_calls", ()):
            assert str(called["function"]["arguments"]["a"]) in sampled
    assert found == setup.case.outcome[kind]


def test_at_least_ten_templates_are_the_very_ones_that_installed_packages_ship() -> None:
    """Where another version ships others, its cases are skipped: that must not go unseen."""
    pytest.importorskip("trl", reason="needs trl, which ships most of the templates")
    shipped = [case for case in CASES.values() if case.file]
    same = [case.file for case in shipped if shipped_sha256(case) == case.sha256]
    assert len(same) >= 10, "write new hashes, after a look at what has changed"
    assert len(CASES) >= 12


def canonical_turns(
    setup: Setup,
) -> Iterator[tuple[str, Mapping[str, Any], list[int]]]:
    """Kind of conversation, assistant message, and its ids, wherever history is kept."""
    for kind, letters in setup.case.outcome.items():
        if set(letters) != {"k"}:
            continue
        tools = tools_for(kind)
        for before, turn, after in turns(CONVERSATIONS[kind]):
            context = setup.renderer.prompt_ids(items_of(before), tools)
            delta = setup.renderer.delta_ids(
                items_of([*before, *turn]), items_of(after), last_sampled_id=None, tools=tools
            )
            whole = setup.renderer.prompt_ids(items_of([*before, *turn, *after]), tools)
            yield kind, turn[0], whole[len(context) : len(whole) - len(delta)]


@pytest.mark.parametrize("name", CASES)
def test_a_canonical_turn_is_read_as_the_items_it_was_rendered_from(
    setup: Setup, name: str
) -> None:
    parser = output_parser(setup.tokenizer).for_tools([TOOL])
    unmarked = not setup.case.thinking_key and "<think>" not in parser.format.markers
    for kind, turn, sampled in canonical_turns(setup):
        if unmarked and "thinking" in kind:
            continue
        read = parser.parse(sampled, finish_reason="stop", call_id_prefix="call0000")
        assert without_ids(read) == without_ids(items_of([turn])), kind


# Those whose response schema, as TRL ships it, reads all of their well-formed turns right.
DECLARED = ("qwen2.5", "qwen3", "qwen3 2507", "qwen3.5", "qwen3.8", "glm 4.5", "nemotron 3")


@pytest.mark.parametrize("name", DECLARED)
def test_a_well_formed_turn_is_read_as_by_the_schema_that_its_tokenizer_declares(
    setup: Setup, name: str
) -> None:
    trl = pytest.importorskip("trl.chat_template_utils", reason="ships response schemas")
    pytest.importorskip("jmespath", reason="transformers' response schemas need it")
    declaring = trl.add_response_schema(copy(setup.tokenizer))
    parser = output_parser(setup.tokenizer).for_tools([TOOL])
    for kind, _, sampled in canonical_turns(setup):
        told = trl.parse_response(declaring, sampled)
        message = (
            {**told, "thought": told["reasoning_content"]} if "reasoning" in str(told) else told
        )
        calls = [{**call, "id": "c"} for call in told.get("tool_calls", ())]
        read = parser.parse(sampled, finish_reason="stop", call_id_prefix="c")
        assert without_ids(read) == without_ids(items_of([{**message, "tool_calls": calls}])), kind


def without_ids(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [{k: v for k, v in item.items() if k != "call_id"} for item in items]


class Once:
    """Samples one given turn."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    async def generate(self, prompt_ids: Any, sampling: Any, **rest: Any) -> Generation:
        return Generation(self.ids, [-0.5] * len(self.ids))


def odd_turn(setup: Setup) -> list[int]:
    """Half a character, and line breaks apart that the tokenizer would have merged."""
    newline = setup.ids("\n")
    return [setup.ids("é")[0], *newline, *newline, *setup.ids("x")]


async def talk(
    setup: Setup, sampled: list[int], parsed: list[Item], new: list[Item], **options: Any
) -> TokenChatSession:
    """A prompt, a turn sampled as given and read as `parsed`, `new` items, and the turn again."""

    class Reads:
        def parse(self, token_ids: Any, *, finish_reason: Any, call_id_prefix: str) -> list[Item]:
            return parsed

    model = TokenChatModel(Once(sampled), setup.renderer, Reads(), name="once", **options)
    session = model.open(tools=(), sampling=SamplingParams(), request_id="r")
    await session.respond(items_of([say("user", "Hi")]))
    await session.respond(new)
    return session


@pytest.mark.parametrize("ending", ["eos", "stop string", "length"])
@pytest.mark.parametrize(
    ("name", "follows"),
    [(n, f) for n, c in CASES.items() for f, text in (("user", c.user), ("tool", c.tool)) if text],
)
async def test_odd_tokens_stay_as_sampled_and_the_environments_are_the_golden_ones(
    setup: Setup, name: str, follows: str, ending: str
) -> None:
    text = setup.case.user if follows == "user" else setup.case.tool
    golden = setup.ids(text)
    sampled = odd_turn(setup)
    if ending == "stop string":
        sampled = [*sampled, *setup.ids("STOP and more")]
    if ending == "eos":
        sampled, golden = [*sampled, golden[0]], golden[1:]
    thinks = [reasoning("Hmm.")] if setup.case.outcome["one tool"] == "r" else []
    parsed: list[Item] = [*thinks, assistant_message("x")]
    new = items_of([say("user", "Bye")])
    if follows == "tool":
        parsed = [*thinks, function_call("add", "{}", "call00001")]
        new = items_of([result(1)])
    session = await talk(setup, sampled, parsed, new)
    (segment,) = session.segments
    assert list(segment.prompt_ids) == setup.whole([say("user", "Hi")], ())
    assert list(segment.completion_ids) == [*sampled, *golden, *sampled]
    mask = [1] * len(sampled) + [0] * len(golden) + [1] * len(sampled)
    assert list(segment.mask) == mask


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.outcome["thinking"] == "r"])
async def test_rewritten_history_is_told_and_becomes_exact_segments(
    setup: Setup, name: str
) -> None:
    report = probe(setup.tokenizer)
    assert report.verdict("user turns after thinking") == "rewritten"
    assert "assistant: thinking, text | user" in str(report)

    sampled = odd_turn(setup)
    parsed = items_of([say("assistant", "Hello.", thought="Hmm.")])
    session = await talk(setup, sampled, parsed, items_of([say("user", "Bye")]))
    first, second = session.segments
    assert list(first.prompt_ids) == setup.whole([say("user", "Hi")], ())
    assert list(second.prompt_ids) == setup.whole(CONVERSATIONS["thinking"], ())
    assert (first.sampled_ids, second.sampled_ids) == (sampled, sampled)
    with pytest.raises(Unsupported, match="one segment a rollout"):
        await talk(setup, sampled, parsed, items_of([say("user", "Bye")]), strict=True)


REWRITTEN = [(n, k) for n, c in CASES.items() for k, found in c.outcome.items() if "r" in found]


@pytest.mark.parametrize(("name", "kind"), REWRITTEN)
async def test_every_rewritten_turn_opens_a_segment_of_the_templates_own_tokens(
    setup: Setup, name: str, kind: str
) -> None:
    tools, parts = tools_for(kind), turns(CONVERSATIONS[kind])
    said = iter([items_of(turn) for _, turn, _ in parts])

    class Reads:
        def parse(self, token_ids: Any, *, finish_reason: Any, call_id_prefix: str) -> list[Item]:
            return next(said, [])

    sampled = odd_turn(setup)
    model = TokenChatModel(Once(sampled), setup.renderer, Reads(), name="once")
    session = model.open(tools=tools, sampling=SamplingParams(), request_id="r")
    await session.respond(items_of(parts[0][0]))
    for _, _, after in parts:
        await session.respond(items_of(after))
    wholes = [
        setup.whole([*before, *turn, *after], tools)
        for (before, turn, after), found in zip(parts, setup.case.outcome[kind], strict=True)
        if found == "r"
    ]
    first, *others = session.segments
    assert list(first.prompt_ids) == setup.whole(parts[0][0], tools)
    assert [list(segment.prompt_ids) for segment in others] == wholes
    trained = [i for segment in session.segments for i in segment.sampled_ids]
    assert trained == sampled * (len(parts) + 1)


VERDICT_OF = {
    "user turns": "plain",
    "tool results": "one tool",
    "parallel tool calls": "parallel tools",
}
VERDICTS = {"k": "kept", "r": "rewritten", "-": "refused"}


@pytest.mark.parametrize("name", CASES)
def test_the_report_agrees_with_what_happens(setup: Setup, name: str) -> None:
    report = probe(setup.tokenizer)
    for subject, kind in VERDICT_OF.items():
        found = report.verdict(subject)
        happened = VERDICTS[setup.case.outcome[kind][0]]
        if not report.offers_tools and kind != "plain":
            # Without tools nothing can be called, whatever the template makes of results.
            assert happened == "refused"
        else:
            # Mistral moves the tools to the last question: kept only where none are offered.
            moves_tools = (name, subject) == ("mistral", "user turns")
            assert found == ("rewritten" if moves_tools else happened), subject


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.tool])
def test_a_tool_result_that_spells_every_control_token_stays_text(setup: Setup, name: str) -> None:
    spelled = [token.content for token in setup.tokenizer.added_tokens_decoder.values()]
    hostile = " ".join(spelled)
    thinks = [reasoning("Hmm.")] if setup.case.outcome["one tool"] == "r" else []
    history = [
        *items_of([say("user", "Hi")]),
        *thinks,
        function_call("add", '{"a": 1, "b": "x"}', "call00001"),
    ]
    delta = setup.renderer.delta_ids(
        history,
        [function_call_output("call00001", hostile)],
        last_sampled_id=None,
        tools=(),
    )
    control = set(setup.tokenizer.added_tokens_decoder)
    golden = setup.ids(setup.case.tool)
    assert [i for i in delta if i in control] == [i for i in golden if i in control]
    assert setup.tokenizer.decode(delta) == setup.case.tool.replace("result 1", hostile)


@pytest.mark.parametrize("name", ["llama 3.1", "gpt-oss"])
def test_results_of_calls_beyond_what_the_template_writes_follow_the_last_one(
    setup: Setup, name: str
) -> None:
    """These templates write one call a turn; a model may sample two all the same."""
    history = items_of(CONVERSATIONS["parallel tools"][:2])
    results = items_of([result(1), result(1)])
    delta = setup.renderer.delta_ids(history, results, last_sampled_id=None, tools=())
    end, _, rest = setup.case.tool.partition("|>")
    one, opening = rest[: rest.rindex("<|start")], rest[rest.rindex("<|start") :]
    assert setup.tokenizer.decode(delta) == f"{end}|>{one}{one}{opening}"


STOPS = {
    "gpt-oss": {"<|return|>", "<|call|>"},
    "glm 4.5": {"<|user|>", "<|observation|>", "<|endoftext|>"},
    "phi 3": {"<|end|>", "<|endoftext|>"},
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_stopped_where_its_template_ends_a_turn_and_nowhere_else(
    setup: Setup, name: str
) -> None:
    """gpt-oss writes ``<|end|>`` between thinking and answer: a stop there would cut the answer."""
    stops = {setup.tokenizer.convert_ids_to_tokens(i) for i in setup.renderer.stop_token_ids}
    assert stops == STOPS.get(name, {setup.case.eos})
