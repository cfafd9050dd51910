"""The shapes a rollout can have, one parity case each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gym_adapters.errors import ModelError
from gym_adapters.task import Task
from gym_adapters.testing.parity.case import END_OF_TURN, ParityCase, Turn, says_alike
from gym_adapters.testing.parity.shape_environments import (
    Desk,
    Fragile,
    Opens,
    Ranks,
    Talks,
    Words,
)

__all__ = ["parity_shapes"]

HISTORY_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if loop.last and message.reasoning_content is defined %}"
    "{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}"
    "{{ message.content }}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Shows thinking in the last turn only, as the templates of several reasoning models do."""


def parity_shapes() -> list[ParityCase]:
    """Every shape that a trainer must carry or refuse.

    Raises:
        MissingExtra: Without transformers.
    """
    return [*_turns(), *_budgets(), *_failures(), *_tokens(), *_rows()]


def _turns() -> list[ParityCase]:
    one = [said("oo"), said("no"), said("nothing"), said("")]
    return [
        _case("single turn", Words, says_alike(*[[turn] for turn in one]), ask("Go", "on")),
        _case(
            "tool calls, one a turn",
            Desk,
            says_alike([call("add", a=1, b=2), call("add", a=3, b=3), said("6 o")], [said("oops")]),
        ),
        _case(
            "parallel tool calls",
            Desk,
            says_alike(
                ["Two." + calls(("add", {"a": 1, "b": 2}), ("add", {"a": 2, "b": 2})), said("oo")],
                [calls(("write", {"length": 5}), ("refuse", {})), said("o")],
            ),
        ),
        _case(
            "user turns (reply)",
            Talks,
            says_alike([said("oh"), said("so"), said("too")], [said("a"), said(""), said("c")]),
        ),
        _case(
            "tool error, bad arguments, unknown tool",
            Desk,
            says_alike(
                [call("refuse"), call("raises"), said("ooo")],
                [call("add", a="x"), call("nope"), said("o")],
            ),
        ),
        _case("group rewards (compare)", Ranks, says_alike(*[[turn] for turn in one])),
        _case("prompt made at the start", Opens, says_alike([said("oo")], [said("x")])),
    ]


def _budgets() -> list[ParityCase]:
    long = says_alike([said("o" * 60)], [said("short o")])
    in_call = says_alike([call("write", length=12345678), said("o")], [said("o")])
    after = says_alike([call("add", a=1, b=1), said("o" * 90)], [said("o")])
    overflow = says_alike([call("write", length=900), said("o")], [said("o")])
    return [
        _case("cut in mid-turn", Words, long, budget=40),
        _case("cut in a tool call", Desk, in_call, budget=40),
        _case("cut in a later turn", Desk, after, budget=160),
        _case("tool result overflows the budget", Desk, overflow, budget=300),
    ]


def _failures() -> list[ParityCase]:
    good: list[list[Turn]] = [[said("oo")], [said("no")], [said("x" * 30)]]
    failing: dict[str, list[Turn]] = {
        "verifier error": [said("verifier")],
        "unscored: tool infrastructure": [call("broken"), said("oo")],
        "timeout": [said("timeout")],
        "cancelled": [said("cancelled")],
        "model error in a later turn": [call("add", a=1, b=1), ModelError("the model is gone")],
    }
    cases = [
        _case(name, Fragile, says_alike(good[0], turns, *good[1:]), size=4)
        for name, turns in failing.items()
    ]
    worst = says_alike([said("judge")], [said("sandbox")])
    return [*cases, _case("all rollouts of a group fail", Fragile, worst)]


def _tokens() -> list[ParityCase]:
    from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    odd = _odd_ids(tokenizer)
    loose = '<tool_call>{"arguments":  {"b":2, "a" :1},"name":"add"}</tool_call>' + END_OF_TURN
    thought = [f"<think>hm {place}</think>{said(word)}" for place, word in enumerate(("oh", "so"))]
    return [
        _case(
            "non-canonical ids",
            Talks,
            says_alike([odd, said("oo"), odd], [said("o"), odd, odd]),
        ),
        _case("tool call in another spelling", Desk, says_alike([loose, said("oo")], [said("o")])),
        _case(
            "control-token text in a tool result",
            Desk,
            says_alike([call("markup"), said("oo")], [said("o")]),
        ),
        _case(
            "several segments",
            Talks,
            says_alike([*thought, said("too")], [said("o"), *thought]),
            chat_template=HISTORY_TEMPLATE,
            several_segments=True,
        ),
    ]


def _rows() -> list[ParityCase]:
    declared = [{**tool.declaration()} for tool in Desk.class_tools.values()]
    image = [{"type": "input_image", "image_url": "data:image/png;base64,"}]
    earlier = [
        {"role": "user", "content": "Add 1 and 1."},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1, "b": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2 and 2?"},
    ]
    adds = says_alike([call("add", a=2, b=2), said("oo")], [said("4 o")])
    return [
        _case(
            "tools by row",
            Desk,
            adds,
            (*ask("All", tools=declared), *ask("One", tools=declared[:1]), *ask("No", tools=[])),
        ),
        _case("tool turns in the row's input", Desk, adds, (_task(earlier),)),
        _case("images", Words, adds, (_task([{"role": "user", "content": image}]),)),
    ]


def ask(*texts: str, **params: Any) -> tuple[Task, ...]:
    """A task for each text."""
    return tuple(_task([{"role": "user", "content": text}], **params) for text in texts)


def said(text: str) -> str:
    """A turn that is one message."""
    return text + END_OF_TURN


def call(name: str, **arguments: Any) -> str:
    """A turn that is one tool call."""
    return calls((name, arguments))


def calls(*named: tuple[str, dict[str, Any]]) -> str:
    """A turn that is several tool calls."""
    import json

    written = [
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
        for name, arguments in named
    ]
    return "\n".join(written) + END_OF_TURN


def _odd_ids(tokenizer: Any) -> Sequence[int]:
    """Ids that no text encodes to: markers spelled in bytes, half a character, padding."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    half = ids("é")[:1]
    return [*ids("oo <tool_"), *ids("call>"), *half, tokenizer.pad_token_id, *ids(" o<|im_end|>")]


def _task(messages: Sequence[Any], **params: Any) -> Task:
    return Task.from_row({"responses_create_params": {"input": list(messages), **params}})


def _case(
    name: str,
    environment: type[Words],
    says: Any,
    tasks: tuple[Task, ...] | None = None,
    *,
    size: int = 2,
    budget: int | None = None,
    chat_template: str | None = None,
    several_segments: bool = False,
) -> ParityCase:
    return ParityCase(
        name=name,
        environment=f"{environment.__module__}:{environment.__qualname__}",
        tasks=tasks if tasks is not None else ask("Go on"),
        says=says,
        group_size=size,
        max_completion=budget,
        chat_template=chat_template,
        several_segments=several_segments,
    )
