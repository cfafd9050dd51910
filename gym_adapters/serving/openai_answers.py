"""Answers of OpenAI's two APIs, whole or as the events of a stream.

A turn is sampled whole; a stream sends it in the events that clients expect.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from gym_adapters.generation.chat import ModelTurn
from gym_adapters.items import Item, item_text
from gym_adapters.serving.http_errors import json_bytes

__all__ = ["Answer", "chat_completion", "chat_events", "response_events", "response_object"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A turn on its way out.

    Attributes:
        turn: The turn.
        model: What to call the model.
        name: Unique part of the answer's ids.
        tools: The tools that were offered, as the API repeats them.
    """

    turn: ModelTurn
    model: str
    name: str
    tools: tuple[Mapping[str, Any], ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))


# Chat Completions.


def chat_completion(answer: Answer) -> dict[str, Any]:
    """The body of a whole answer."""
    said = _chat_message(answer.turn)
    return {
        "id": f"chatcmpl-{answer.name}",
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "refusal": None, **said},
                "finish_reason": _chat_finish(answer.turn),
                "logprobs": None,
            }
        ],
        "usage": _chat_usage(answer.turn),
    }


def chat_events(answer: Answer, *, usage: bool) -> Iterator[bytes]:
    """The same as server-sent events."""
    base = {
        "id": f"chatcmpl-{answer.name}",
        "object": "chat.completion.chunk",
        "created": answer.created,
        "model": answer.model,
    }

    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _data({**base, "choices": [choice], **({"usage": None} if usage else {})})

    said = _chat_message(answer.turn)
    yield chunk({"role": "assistant", "content": "" if said["content"] is not None else None})
    for key in ("reasoning_content", "content"):
        if said.get(key):
            yield chunk({key: said[key]})
    for index, call in enumerate(said.get("tool_calls", ())):
        yield chunk({"tool_calls": [{"index": index, **call}]})
    yield chunk({}, _chat_finish(answer.turn))
    if usage:
        yield _data({**base, "choices": [], "usage": _chat_usage(answer.turn)})
    yield b"data: [DONE]\n\n"


def _chat_message(turn: ModelTurn) -> dict[str, Any]:
    text = "".join(item_text(item) for item in turn.items if item["type"] == "message")
    thinking = "".join(item_text(item) for item in turn.items if item["type"] == "reasoning")
    calls = [
        {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": item["arguments"]},
        }
        for item in turn.items
        if item["type"] == "function_call"
    ]
    said: dict[str, Any] = {"content": text if text or not calls else None}
    if thinking:
        said["reasoning_content"] = thinking
    if calls:
        said["tool_calls"] = calls
    return said


def _chat_finish(turn: ModelTurn) -> str:
    if turn.finish_reason == "length":
        return "length"
    called = any(item["type"] == "function_call" for item in turn.items)
    return "tool_calls" if called else "stop"


def _chat_usage(turn: ModelTurn) -> dict[str, int]:
    read, sampled = turn.usage.input_tokens, turn.usage.output_tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": sampled,
        "total_tokens": read + sampled,
    }


# Responses.


def response_object(answer: Answer) -> dict[str, Any]:
    """The body of a whole answer."""
    cut = answer.turn.finish_reason == "length"
    read, sampled = answer.turn.usage.input_tokens, answer.turn.usage.output_tokens
    usage = {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": sampled,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + sampled,
    }
    return {
        **_response_base(answer, "incomplete" if cut else "completed"),
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": _response_output(answer),
        "usage": usage,
    }


def response_events(answer: Answer) -> Iterator[bytes]:
    """The same as server-sent events."""
    numbers = count()

    def event(kind: str, **fields: Any) -> bytes:
        return _data({"type": kind, "sequence_number": next(numbers), **fields}, kind)

    started = {**_response_base(answer, "in_progress"), "output": [], "usage": None}
    started["incomplete_details"] = None
    yield event("response.created", response=started)
    yield event("response.in_progress", response=started)
    for index, item in enumerate(_response_output(answer)):
        place = {"output_index": index, "item_id": item["id"]}
        opened = {**item, "status": "in_progress"}
        if item["type"] == "function_call":
            opened["arguments"] = ""
        else:
            opened["content"] = []
        yield event("response.output_item.added", output_index=index, item=opened)
        if item["type"] == "function_call":
            text = item["arguments"]
            yield event("response.function_call_arguments.delta", delta=text, **place)
            name = item["name"]
            yield event("response.function_call_arguments.done", arguments=text, name=name, **place)
        for at, part in enumerate(item.get("content", ())):
            kind = part["type"]
            here = {**place, "content_index": at}
            empty = {**part, "text": ""}
            yield event("response.content_part.added", part=empty, **here)
            more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            yield event(f"response.{kind}.delta", delta=part["text"], **here, **more)
            yield event(f"response.{kind}.done", text=part["text"], **here, **more)
            yield event("response.content_part.done", part=part, **here)
        yield event("response.output_item.done", output_index=index, item=item)
    whole = response_object(answer)
    yield event(f"response.{whole['status']}", response=whole)


def _response_base(answer: Answer, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{answer.name}",
        "object": "response",
        "created_at": answer.created,
        "model": answer.model,
        "status": status,
        "error": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": None,
        "top_p": None,
        "tool_choice": "auto",
        "tools": list(answer.tools),
    }


def _response_output(answer: Answer) -> list[dict[str, Any]]:
    return [_response_item(item, f"{answer.name}_{n}") for n, item in enumerate(answer.turn.items)]


def _response_item(item: Item, name: str) -> dict[str, Any]:
    if item["type"] == "function_call":
        return {**item, "id": f"fc_{name}", "status": "completed"}
    if item["type"] == "reasoning":
        return {**item, "id": f"rs_{name}", "status": "completed"}
    part = {"type": "output_text", "text": item_text(item), "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "role": "assistant",
        "id": f"msg_{name}",
        "status": "completed",
        "content": [part],
    }


def _data(value: Mapping[str, Any], kind: str | None = None) -> bytes:
    head = f"event: {kind}\n".encode() if kind else b""
    return head + b"data: " + json_bytes(value) + b"\n\n"
