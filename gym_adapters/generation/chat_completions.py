"""Chat Completions on the wire (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gym_adapters.errors import ModelError
from gym_adapters.generation.chat import ModelTurn, Usage
from gym_adapters.generation.endpoint_wire import (
    Reply,
    UnreadableReply,
    arguments_text,
    encoded,
    text_of,
    unique_call_id,
    whole_number,
)
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import (
    ContentPart,
    FunctionTool,
    Item,
    Message,
    assistant_message,
    function_call,
    item_text,
    reasoning,
)

__all__ = ["ChatCompletionsWire"]


class ChatCompletionsWire:
    """Requests and answers of ``/chat/completions``.

    Thinking is taken from ``reasoning_content`` or ``reasoning`` and not sent back: servers differ
    in whether they take it, and templates drop it from past turns.
    """

    path = "chat/completions"
    history_key = "messages"

    def settings(
        self, model: str, tools: Sequence[FunctionTool], sampling: SamplingParams
    ) -> dict[str, Any]:
        """The request without its messages.

        ``top_k`` and ``stop_token_ids`` go out only where set, since OpenAI itself refuses them.
        """
        request: dict[str, Any] = {
            "model": model,
            # Also where they are the default: a server may have defaults of its own per model.
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if tools:
            request["tools"] = [_tool(tool) for tool in tools]
        if sampling.max_tokens is not None:
            request["max_completion_tokens"] = sampling.max_tokens
        if sampling.stop:
            request["stop"] = list(sampling.stop)
        if sampling.top_k:
            request["top_k"] = sampling.top_k
        if sampling.stop_token_ids:
            request["stop_token_ids"] = list(sampling.stop_token_ids)
        return {**request, **sampling.extras}

    def seed(self, seed: int) -> Mapping[str, Any]:
        """``seed``, in the 31 bits that all servers take."""
        return {"seed": seed & 0x7FFFFFFF}

    def entries(self, items: Sequence[Item]) -> list[bytes]:
        """Items as messages: what the assistant said and called in one turn is one message."""
        messages: list[dict[str, Any]] = []
        for item in items:
            if item["type"] == "reasoning":
                continue
            if item["type"] == "function_call_output":
                messages.append(
                    {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
                )
            elif item["type"] == "function_call":
                _open_assistant(messages).setdefault("tool_calls", []).append(
                    _call(item["call_id"], item["name"], item["arguments"])
                )
            elif item["role"] == "assistant":
                messages.append({"role": "assistant", "content": item_text(item)})
            else:
                messages.append({"role": _role(item), "content": _content(item["content"])})
        return [encoded(message) for message in messages]

    def reply(self, data: Mapping[str, Any], taken_ids: set[str]) -> Reply:
        """The first choice."""
        message, finish = _choice(data)
        refusal = message.get("refusal")
        text = text_of(message.get("content")) or text_of(refusal)
        items: list[Item] = []
        thinking = text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))
        if thinking:
            items.append(reasoning(thinking))
        if text:
            items.append(
                _refusal(text) if isinstance(refusal, str) and refusal else assistant_message(text)
            )
        calls: list[dict[str, Any]] = []
        for name, arguments, given in _calls(message.get("tool_calls")):
            call_id = unique_call_id(given, taken_ids)
            items.append(function_call(name, arguments, call_id))
            calls.append(_call(call_id, name, arguments))
        said: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if calls:
            said["tool_calls"] = calls
        usage = data.get("usage")
        turn = ModelTurn(
            items,
            "length" if finish == "length" else "stop",
            Usage(whole_number(usage, "prompt_tokens"), whole_number(usage, "completion_tokens")),
        )
        return Reply(turn, [encoded(said)])


def _choice(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], object]:
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise UnreadableReply(f"the endpoint's answer holds no message: {data.get('error')}")
    finish = choice.get("finish_reason")
    if finish in ("content_filter", "abort", "error"):
        raise ModelError(f"the endpoint cut the turn: {finish}")
    return message, finish


def _calls(given: object) -> list[tuple[str, str, object]]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise UnreadableReply("the endpoint's tool_calls are not a list")
    found: list[tuple[str, str, object]] = []
    for call in given:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            raise UnreadableReply("the endpoint's answer holds a tool call without a name")
        found.append((name, arguments_text(function.get("arguments")), call.get("id")))
    return found


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool["name"], "parameters": tool["parameters"]}
    if description := tool.get("description"):
        function["description"] = description
    if tool.get("strict"):
        function["strict"] = True
    return {"type": "function", "function": function}


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _open_assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _role(item: Message) -> str:
    # Templates of open models know no developer, and OpenAI takes system for it.
    return "system" if item["role"] == "developer" else item["role"]


def _content(content: str | list[ContentPart]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if all("image_url" not in part for part in content):
        return "".join(part.get("text", "") for part in content)
    return [
        {"type": "image_url", "image_url": {"url": part["image_url"]}}
        if "image_url" in part
        else {"type": "text", "text": part.get("text", "")}
        for part in content
    ]


def _refusal(text: str) -> Item:
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "refusal", "refusal": text}],
        "status": "completed",
    }
