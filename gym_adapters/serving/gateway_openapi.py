"""The operations of a model gateway and of an agent server, for their OpenAPI documents."""

from __future__ import annotations

from typing import Any

from gym_adapters.serving.environment_openapi import ITEMS, ROW
from gym_adapters.serving.openapi import operation

__all__ = ["agent_paths", "gateway_paths"]

NUMBER = {"type": ["number", "null"]}
SAMPLING = {
    "temperature": NUMBER,
    "top_p": NUMBER,
    "seed": {"type": ["integer", "null"]},
    "stream": {"type": ["boolean", "null"]},
    "tools": {"type": ["array", "null"], "items": {"type": "object"}},
    "tool_choice": {"enum": ["auto", "none", None]},
}
CHAT = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "model": {"type": "string"},
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {
                    "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
                    "content": {"type": ["string", "array", "null"]},
                    "tool_calls": {"type": "array"},
                    "tool_call_id": {"type": "string"},
                },
            },
        },
        "max_tokens": {"type": ["integer", "null"]},
        "max_completion_tokens": {"type": ["integer", "null"]},
        **SAMPLING,
    },
}
RESPONSES = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "model": {"type": "string"},
        "input": {"anyOf": [{"type": "string"}, ITEMS]},
        "instructions": {"type": ["string", "null"]},
        "max_output_tokens": {"type": ["integer", "null"]},
        **SAMPLING,
    },
}
STREAMS = ("application/json", "text/event-stream")


def gateway_paths() -> dict[str, Any]:
    """Operations of a gateway by path."""
    in_path = {
        "name": "session",
        "in": "path",
        "required": True,
        "description": "Any name; a new one opens a session.",
        "schema": {"type": "string", "minLength": 1},
    }
    in_header = {
        "name": "X-Session-Id",
        "in": "header",
        "required": True,
        "description": "The same.",
        "schema": {"type": "string", "minLength": 1},
    }
    paths: dict[str, Any] = {}
    for prefix, session in (("", in_header), ("/sessions/{session}", in_path)):
        named = [session]
        paths[f"{prefix}/v1/models"] = {
            "get": operation("The policy.", parameters=named if prefix else ())
        }
        paths[f"{prefix}/v1/chat/completions"] = {
            "post": operation("A turn.", body=CHAT, answers=STREAMS, parameters=named)
        }
        paths[f"{prefix}/v1/responses"] = {
            "post": operation("A turn.", body=RESPONSES, answers=STREAMS, parameters=named)
        }
    tool = {"name": "tool", "in": "path", "required": True, "schema": {"type": "string"}}
    paths["/sessions/{session}/tools/{tool}"] = {
        "post": operation(
            "Call a tool of the episode's environment.",
            body={"type": "object"},
            answers=("text/plain",),
            parameters=[in_path, {**tool, "schema": {"type": "string", "minLength": 1}}],
        )
    }
    paths["/sessions/{session}/finish"] = {
        "post": operation("End a session; its exact tokens.", parameters=[in_path])
    }
    return paths


def agent_paths() -> dict[str, Any]:
    """Operations of an agent server by path."""
    results = {
        "type": "object",
        "required": ["verify_responses"],
        "properties": {"verify_responses": ITEMS},
    }
    return {
        "/run": {"post": operation("Attempt a row, and tell the verdict.", body=ROW)},
        "/v1/responses": {"post": operation("Attempt a prompt.", body=RESPONSES)},
        "/aggregate_metrics": {"post": operation("Statistics of verdicts.", body=results)},
    }
