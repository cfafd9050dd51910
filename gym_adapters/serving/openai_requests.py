"""Requests of OpenAI's two APIs, read: history, tools and sampling.

What can't be honoured exactly is refused, and never ignored, where it would change what is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from gym_adapters.errors import InvalidRow
from gym_adapters.generation.endpoint_wire import text_of
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import (
    FunctionTool,
    Item,
    check_items,
    function_call,
    function_call_output,
    input_items,
    message,
)
from gym_adapters.serving.http_errors import HttpError

__all__ = ["ModelRequest", "chat_request", "responses_request"]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call.

    Attributes:
        items: The whole history.
        tools: What the model may call.
        sampling: How to sample.
        stream: Whether the answer comes in events.
        stream_usage: Whether those tell the usage at the end.
        model: The name that the client asked for.
        overridden: Settings that the client asked for, and that the policy's own win over.
    """

    items: list[Item]
    tools: list[FunctionTool]
    sampling: SamplingParams
    stream: bool
    stream_usage: bool
    model: str
    overridden: tuple[str, ...] = ()


def refused(field: str, problem: str) -> HttpError:
    """What a client reads that asks for something impossible."""
    return HttpError(400, "invalid_request_error", f"{field}: {problem}")


def chat_request(body: Mapping[str, Any], fixed: SamplingParams | None) -> ModelRequest:
    """A request to ``/chat/completions``; `fixed` sampling wins over the client's.

    Raises:
        HttpError: 400, naming the field.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refused("messages", "a list of at least one message is needed")
    items = [item for at, said in enumerate(messages) for item in _chat_items(said, at)]
    for key in ("functions", "function_call", "modalities", "audio", "prediction"):
        if body.get(key) not in (None, ["text"]):
            raise refused(key, "this server does not have it")
    if body.get("n") not in (None, 1):
        raise refused("n", "one answer a request: ask again for another")
    if body.get("logprobs") or body.get("top_logprobs"):
        raise refused("logprobs", "they are kept with the session, and not sent")
    kind = body.get("response_format")
    if kind is not None and (not isinstance(kind, dict) or kind.get("type") != "text"):
        raise refused("response_format", "only text can be had")
    options = body.get("stream_options")
    return ModelRequest(
        items=_checked(items, "messages"),
        tools=_tools(body, nested=True),
        sampling=_sampling(body, ("max_completion_tokens", "max_tokens"), fixed),
        stream=body.get("stream") is True,
        stream_usage=isinstance(options, dict) and options.get("include_usage") is True,
        model=str(body.get("model") or ""),
        overridden=_overridden(body, fixed),
    )


def responses_request(body: Mapping[str, Any], fixed: SamplingParams | None) -> ModelRequest:
    """A request to ``/responses``; `fixed` sampling wins over the client's.

    Raises:
        HttpError: 400, naming the field.
    """
    for key in ("previous_response_id", "conversation", "background", "prompt"):
        if body.get(key):
            raise refused(key, "nothing is stored here: send the whole input with each request")
    text = body.get("text")
    kind = text.get("format") if isinstance(text, dict) else None
    if kind is not None and (not isinstance(kind, dict) or kind.get("type") != "text"):
        raise refused("text.format", "only text can be had")
    given = body.get("input")
    if isinstance(given, list):
        _checked(given, "input")
        items = input_items([_without_ids(item) for item in given])
    elif isinstance(given, str):
        items = input_items(given)
    else:
        raise refused("input", "text or a list of items is needed")
    instructions = body.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise refused("instructions", "text is needed")
    if instructions:
        items = [message("system", instructions), *items]
    if not items:
        raise refused("input", "there is nothing to answer")
    return ModelRequest(
        items=items,
        tools=_tools(body, nested=False),
        sampling=_sampling(body, ("max_output_tokens",), fixed),
        stream=body.get("stream") is True,
        stream_usage=True,
        model=str(body.get("model") or ""),
        overridden=_overridden(body, fixed),
    )


def _without_ids(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in ("id", "status")}


def _chat_items(said: object, at: int) -> list[Item]:
    where = f"messages[{at}]"
    if not isinstance(said, dict):
        raise refused(where, "a message must be an object")
    role, content = said.get("role"), said.get("content")
    _no_images(content, where)
    if role == "tool":
        call_id = said.get("tool_call_id")
        if not isinstance(call_id, str):
            raise refused(f"{where}.tool_call_id", "text is needed")
        return [function_call_output(call_id, text_of(content))]
    if role not in ("system", "developer", "user", "assistant"):
        raise refused(f"{where}.role", f"unknown role {role!r}")
    items: list[Item] = []
    text = text_of(content)
    calls = said.get("tool_calls") or []
    if role != "assistant" or text or not calls:
        items.append(message(role, text))
    if not isinstance(calls, list):
        raise refused(f"{where}.tool_calls", "a list is needed")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not (
            isinstance(call, dict)
            and isinstance(function, dict)
            and isinstance(call.get("id"), str)
            and isinstance(function.get("name"), str)
            and isinstance(function.get("arguments"), str)
        ):
            raise refused(f"{where}.tool_calls[{index}]", "id, name and arguments are needed")
        items.append(function_call(function["name"], function["arguments"], call["id"]))
    return items


def _no_images(content: object, where: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise refused(f"{where}.content", "text or a list of parts is needed")
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise refused(f"{where}.content[{index}]", "only text parts can be read here")


def _checked(items: list[Any], field: str) -> list[Item]:
    try:
        check_items(items, field)
    except InvalidRow as error:
        raise refused(error.field, error.problem) from error
    for at, item in enumerate(items):
        _no_parts_but_text(item, f"{field}[{at}]")
    return items


def _no_parts_but_text(item: Item, where: str) -> None:
    content = item.get("content")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part.get("text") or part.get("refusal"), str) and "text" not in part:
            raise refused(f"{where}.content[{index}]", "only text parts can be read here")


def _tools(body: Mapping[str, Any], *, nested: bool) -> list[FunctionTool]:
    given = body.get("tools") or []
    if not isinstance(given, list):
        raise refused("tools", "a list is needed")
    choice = body.get("tool_choice")
    if choice == "none":
        return []
    if choice not in (None, "auto"):
        raise refused("tool_choice", "only auto and none can be had")
    tools: list[FunctionTool] = []
    for at, tool in enumerate(given):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise refused(f"tools[{at}]", "only functions can be called here")
        function = tool.get("function") if nested else tool
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise refused(f"tools[{at}]", "a name is needed")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(parameters, dict):
            raise refused(f"tools[{at}].parameters", "a JSON schema is needed")
        declared: dict[str, Any] = {
            "type": "function",
            "name": function["name"],
            "description": function.get("description") or "",
            "parameters": parameters,
            "strict": bool(function.get("strict")),
        }
        tools.append(cast("FunctionTool", declared))
    return tools


def _sampling(
    body: Mapping[str, Any], budgets: tuple[str, ...], fixed: SamplingParams | None
) -> SamplingParams:
    asked = [_number(body, key, 1) for key in budgets]
    budget = next((int(number) for number in asked if number is not None), None)
    if fixed is not None:
        # The trainer's settings are part of its loss; a client may ask for fewer tokens alone.
        both = [number for number in (budget, fixed.max_tokens) if number is not None]
        return replace(fixed, max_tokens=min(both, default=None))
    for key in ("frequency_penalty", "presence_penalty", "logit_bias"):
        if body.get(key):
            raise refused(key, "this server does not have it")
    temperature, top_p = _number(body, "temperature", 0), _number(body, "top_p", 0)
    top_k, seed = _number(body, "top_k", -1), _number(body, "seed", None)
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(each, str) and each for each in stops):
        raise refused("stop", "text, or a list of texts, is needed")
    return SamplingParams(
        max_tokens=budget,
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=max(int(top_k or 0), 0),
        stop=tuple(stops),
        seed=None if seed is None else int(seed),
    )


def _overridden(body: Mapping[str, Any], fixed: SamplingParams | None) -> tuple[str, ...]:
    """Names of the settings that `body` asks for, and that are not the fixed ones."""
    if fixed is None:
        return ()
    own: dict[str, Any] = {
        "temperature": fixed.temperature,
        "top_p": fixed.top_p,
        "top_k": fixed.top_k,
        "seed": fixed.seed,
        "stop": list(fixed.stop),
        "min_p": fixed.extras.get("min_p", 0.0),
        "repetition_penalty": fixed.extras.get("repetition_penalty", 1.0),
        "frequency_penalty": fixed.extras.get("frequency_penalty", 0.0),
        "presence_penalty": fixed.extras.get("presence_penalty", 0.0),
        "logit_bias": {},
    }
    asked = {key: body[key] for key in own if body.get(key) is not None}
    if isinstance(asked.get("stop"), str):
        asked["stop"] = [asked["stop"]]
    return tuple(key for key, value in asked.items() if value != own[key])


def _number(body: Mapping[str, Any], key: str, least: float | None) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused(key, "a number is needed")
    if least is not None and value < least:
        raise refused(key, f"at least {least} is needed")
    return value
