"""Rollouts as chat messages, in the dialect of whoever trains on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from gym_adapters.errors import Unsupported
from gym_adapters.items import FunctionTool
from gym_adapters.rollout import Rollout
from gym_adapters.tokens.chat_messages import MessageDialect, template_tools

__all__ = ["Chat", "Dialect", "Message", "chat_of", "nemo_tools", "plain_messages"]

Message = dict[str, Any]


class Dialect(StrEnum):
    """Whose messages.

    ``trl``: arguments are objects, thinking is ``reasoning_content``, ``developer`` is ``system``.
    ``openai``: arguments are JSON text, thinking can't be held. ``nemo-customizer``: arguments are
    objects, call ids and names are forbidden, thinking is ``thinking`` and excludes content.
    ``nemo-rl``: as ``openai``, whose format it reads.
    """

    TRL = "trl"
    OPENAI = "openai"
    NEMO_CUSTOMIZER = "nemo-customizer"
    NEMO_RL = "nemo-rl"


_THINKING = "reasoning_content"
_TRL = MessageDialect(_THINKING)
_OPENAI = MessageDialect(_THINKING, arguments_as_text=True, developer_role=True)
_CUSTOMIZER_KEYS = ("role", "content", "tool_calls")


@dataclass(frozen=True, slots=True)
class Chat:
    """One rollout.

    Attributes:
        prompt: Messages the model started from.
        completion: What followed.
        tools: Tools it was offered; ``None`` without any.
        dropped_thinking: Whether thinking was dropped, as the dialect can't hold it.
    """

    prompt: list[Message]
    completion: list[Message]
    tools: list[dict[str, Any]] | None
    dropped_thinking: bool = False


def chat_of(rollout: Rollout, dialect: Dialect, *, drop_thinking: bool = False) -> Chat:
    """`rollout` as chat messages.

    Args:
        rollout: The rollout.
        dialect: Whose messages.
        drop_thinking: Leave out what the model thought, also where it could be kept.

    Raises:
        Unsupported: If the dialect can't hold it; the message is a short reason.
    """
    if not rollout.output:
        raise Unsupported("empty output")
    if not all(isinstance(tool.get("name"), str) for tool in rollout.tools):
        raise Unsupported("tool that is no function")
    writer = _TRL if dialect in (Dialect.TRL, Dialect.NEMO_CUSTOMIZER) else _OPENAI
    names = {
        item["call_id"]: item["name"] for item in rollout.prompt if item["type"] == "function_call"
    }
    prompt = writer.messages(rollout.prompt)
    completion = writer.messages(rollout.output, names)
    if completion[0]["role"] != "assistant":
        raise Unsupported("output does not begin with the assistant")
    tools = template_tools(cast("Sequence[FunctionTool]", rollout.tools))
    dropped = False
    for message in (*prompt, *completion):
        _check_arguments(message, writer.arguments_as_text)
        if drop_thinking or dialect in (Dialect.OPENAI, Dialect.NEMO_RL):
            dropped = message.pop(_THINKING, None) is not None or dropped
    if dialect is Dialect.NEMO_CUSTOMIZER:
        return Chat(
            [_customizer(each) for each in prompt],
            [_customizer(each) for each in completion],
            nemo_tools(tools),
            dropped,
        )
    return Chat(prompt, completion, tools, dropped)


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages of role and content alone.

    Raises:
        Unsupported: If one of them calls a tool or is a tool's result.
    """
    for message in messages:
        if message.get("tool_calls") or message["role"] == "tool":
            raise Unsupported("tool trajectory: the format's messages hold role and content only")
        if message.get("thinking") is not None:
            raise Unsupported("thinking: the format's messages hold role and content only")
    return [{"role": each["role"], "content": each["content"]} for each in messages]


def nemo_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools with what NeMo Customizer demands: name, description, parameters with properties."""
    if tools is None:
        return None
    kept = []
    for tool in tools:
        function = tool["function"]
        schema = {"type": "object", "properties": {}, **function["parameters"]}
        kept.append({"type": "function", "function": {**function, "parameters": schema}})
    return kept


def _check_arguments(message: Mapping[str, Any], as_text: bool) -> None:
    for call in message.get("tool_calls", ()):
        if not as_text and not isinstance(call["function"]["arguments"], dict):
            raise Unsupported("call with arguments that are no JSON object")


def _customizer(message: Mapping[str, Any]) -> Message:
    thought = message.get(_THINKING)
    kept = {key: message[key] for key in _CUSTOMIZER_KEYS if key in message}
    if "tool_calls" in kept:
        kept["tool_calls"] = [
            {"type": "function", "function": call["function"]} for call in kept["tool_calls"]
        ]
    if thought is None:
        return kept
    if kept["content"]:
        raise Unsupported("message with both thinking and content")
    del kept["content"]
    return {**kept, "thinking": thought}
