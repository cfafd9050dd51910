"""The Responses API on the wire (https://platform.openai.com/docs/api-reference/responses)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    function_call,
    reasoning,
)

__all__ = ["ResponsesWire"]


class ResponsesWire:
    """Requests and answers of ``/responses``, without state on the server (``store: false``).

    Thinking is sent back only where the server gave it in encrypted form; ask for that with
    ``extras={"include": ["reasoning.encrypted_content"]}``. It is not kept in the rollout.
    """

    path = "responses"
    history_key = "input"

    def settings(
        self, model: str, tools: Sequence[FunctionTool], sampling: SamplingParams
    ) -> dict[str, Any]:
        """The request without its input.

        Raises:
            ModelError: If there are stop strings or a top-k, which this API lacks.
        """
        if sampling.stop or sampling.top_k or sampling.stop_token_ids:
            raise ModelError("the Responses API has no stop, stop_token_ids and top_k")
        request: dict[str, Any] = {
            "model": model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "store": False,
        }
        if tools:
            request["tools"] = [{"strict": False, **tool} for tool in tools]
        if sampling.max_tokens is not None:
            request["max_output_tokens"] = sampling.max_tokens
        return {**request, **sampling.extras}

    def seed(self, seed: int) -> Mapping[str, Any]:
        """Nothing: this API takes no seed."""
        return {}

    def entries(self, items: Sequence[Item]) -> list[bytes]:
        """Items as they are, without thinking and without the parts that only answers have."""
        return [encoded(_input(item)) for item in items if item["type"] != "reasoning"]

    def reply(self, data: Mapping[str, Any], taken_ids: set[str]) -> Reply:
        """All output items."""
        finish = _finish(data)
        output = data.get("output")
        if not isinstance(output, list):
            raise UnreadableReply("the endpoint's answer holds no output")
        items: list[Item] = []
        history: list[bytes] = []
        for item, entry in _outputs(output, taken_ids):
            if item is not None:
                items.append(item)
            if entry is not None:
                history.append(encoded(entry))
        usage = data.get("usage")
        counts = Usage(whole_number(usage, "input_tokens"), whole_number(usage, "output_tokens"))
        return Reply(ModelTurn(items, "length" if finish == "length" else "stop", counts), history)


def _finish(data: Mapping[str, Any]) -> str:
    status = data.get("status")
    error = data.get("error")
    if status == "failed" or (error and status != "completed"):
        raise ModelError(f"the endpoint says that generation failed: {error}")
    if status != "incomplete":
        return "stop"
    details = data.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    if reason == "max_output_tokens":
        return "length"
    raise ModelError(f"the endpoint cut the turn: {reason}")


def _outputs(
    output: Sequence[Any], taken_ids: set[str]
) -> Iterator[tuple[Item | None, Mapping[str, Any] | None]]:
    """Each item as the agent sees it, and as the next request repeats it."""
    for given in output:
        kind = given.get("type") if isinstance(given, Mapping) else None
        if kind == "message":
            message = _message(given)
            yield message, _input(message)
        elif kind == "function_call":
            name = given.get("name")
            if not isinstance(name, str):
                raise UnreadableReply("the endpoint's answer holds a tool call without a name")
            call_id = unique_call_id(given.get("call_id"), taken_ids)
            call = function_call(name, arguments_text(given.get("arguments")), call_id)
            yield call, _input(call)
        elif kind == "reasoning":
            thinking = text_of(given.get("content")) or text_of(given.get("summary"))
            sealed = given.get("encrypted_content")
            again = {key: value for key, value in given.items() if key != "status"}
            yield reasoning(thinking) if thinking else None, again if sealed else None


def _message(given: Mapping[str, Any]) -> Item:
    parts: list[ContentPart] = []
    content = given.get("content")
    for part in content if isinstance(content, list) else []:
        if not isinstance(part, Mapping):
            continue
        if isinstance(part.get("refusal"), str):
            parts.append({"type": "refusal", "refusal": part["refusal"]})
        elif isinstance(part.get("text"), str):
            parts.append({"type": "output_text", "text": part["text"], "annotations": []})
    return {"type": "message", "role": "assistant", "content": parts, "status": "completed"}


def _input(item: Item) -> dict[str, Any]:
    # Ids name what the server keeps, and it was asked to keep nothing.
    return {key: value for key, value in item.items() if key not in ("id", "status")}
